// Package inventory fills the simulated vCenter: the simulator's own model, plus
// the templates and folders that the operator expects to find.
package inventory

import (
	"context"
	"fmt"
	"path"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/units"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"vmgroup.local/e2e/tools/vsphere/internal/collector"
)

// Size says how much of everything there is, with the simulator's names:
// DC0, DC0_C0, DC0_C0_H0, LocalDS_0, DC0_C0_RP0_VM0.
type Size struct {
	Datacenters     int
	Clusters        int // per datacenter
	Hosts           int // per cluster
	StandaloneHosts int // per datacenter, outside the clusters
	Datastores      int // per datacenter, each mounted on every host of it
	VMs             int // per cluster and per standalone host, powered on
	Pools           int // per cluster, below Resources
}

// What a template is made of. No VmGroup can ask for as little, so a clone that
// kept its template's size shows.
const (
	templateCPUs     = 1
	templateMemoryMB = 512
	templateDiskGB   = 1
)

// New builds the model, and in each datacenter's VM folder the named folders and
// templates. The simulator keeps files in the temporary folder, until the model is
// removed.
func New(ctx context.Context, size Size, folders, templates []string) (*simulator.Model, error) {
	model := simulator.VPX()
	model.Datacenter = size.Datacenters
	model.Cluster = size.Clusters
	model.ClusterHost = size.Hosts
	model.Host = size.StandaloneHosts
	model.Datastore = size.Datastores
	model.Machine = size.VMs
	model.Pool = size.Pools
	if err := model.Create(); err != nil {
		return nil, fmt.Errorf("building the simulator's model: %w", err)
	}
	collector.Install(model)
	if err := furnish(ctx, model, folders, templates); err != nil {
		model.Remove()
		return nil, err
	}
	return model, nil
}

func furnish(ctx context.Context, model *simulator.Model, folders, templates []string) error {
	// The service is a SOAP transport of its own, in memory.
	client, err := vim25.NewClient(ctx, model.Service)
	if err != nil {
		return fmt.Errorf("opening the simulator in memory: %w", err)
	}
	finder := find.NewFinder(client)
	datacenters, err := finder.DatacenterList(ctx, "*")
	if err != nil {
		return fmt.Errorf("listing the datacenters: %w", err)
	}
	for _, dc := range datacenters {
		in, err := dc.Folders(ctx)
		if err != nil {
			return fmt.Errorf("reading the folders of %s: %w", dc.InventoryPath, err)
		}
		for _, name := range folders {
			if _, err := in.VmFolder.CreateFolder(ctx, name); err != nil {
				return fmt.Errorf("creating folder %s in %s: %w", name, in.VmFolder.InventoryPath, err)
			}
		}
		pools, err := finder.SetDatacenter(dc).ResourcePoolList(ctx, "*/Resources")
		if err != nil {
			return fmt.Errorf("looking for a resource pool in %s: %w", dc.InventoryPath, err)
		}
		for _, name := range templates {
			if err := createTemplate(ctx, client, in.VmFolder, pools[0], name); err != nil {
				return fmt.Errorf("creating template %s in %s: %w", name, in.VmFolder.InventoryPath, err)
			}
		}
	}
	return nil
}

func createTemplate(ctx context.Context, client *vim25.Client, folder *object.Folder, pool *object.ResourcePool, name string) error {
	spec := types.VirtualMachineConfigSpec{
		Name:     name,
		GuestId:  string(types.VirtualMachineGuestOsIdentifierOtherLinux64Guest),
		NumCPUs:  templateCPUs,
		MemoryMB: templateMemoryMB,
		Files:    &types.VirtualMachineFileInfo{VmPathName: "[LocalDS_0]"},
	}
	var devices object.VirtualDeviceList
	scsi, err := devices.CreateSCSIController("pvscsi")
	if err != nil {
		return err
	}
	disk := devices.CreateDisk(scsi.(types.BaseVirtualController), types.ManagedObjectReference{},
		"[LocalDS_0] "+path.Join(name, "disk1.vmdk"))
	disk.CapacityInKB = templateDiskGB * units.GB / units.KB
	devices = append(devices, scsi, disk)
	if spec.DeviceChange, err = devices.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd); err != nil {
		return err
	}

	task, err := folder.CreateVM(ctx, spec, pool, nil)
	if err != nil {
		return err
	}
	info, err := task.WaitForResult(ctx)
	if err != nil {
		return err
	}
	return object.NewVirtualMachine(client, info.Result.(types.ManagedObjectReference)).MarkAsTemplate(ctx)
}
