package collector_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"vmgroup.local/e2e/tools/vsphere/internal/inventory"
)

const folders = 400

// A client that watches a view sees every folder that another makes in it, and
// neither waits for the other for ever.
func TestAWatchedViewDoesNotLockUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	model, err := inventory.New(ctx, inventory.Size{Datacenters: 1, Clusters: 1, Hosts: 1, Datastores: 1}, []string{"watched"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(model.Remove)
	seen, failed := make(chan int, 1), make(chan error, 2)
	go func() {
		n, err := watch(ctx, model.Service)
		if err != nil {
			failed <- fmt.Errorf("watching: %w", err)
			return
		}
		seen <- n
	}()
	go func() {
		if err := fill(ctx, model.Service); err != nil {
			failed <- fmt.Errorf("filling: %w", err)
		}
	}()
	select {
	case <-seen:
	case err := <-failed:
		t.Fatal(err)
	case <-ctx.Done():
		t.Fatal("the simulator has locked up")
	}
}

func watched(ctx context.Context, service soap.RoundTripper) (*object.Folder, *vim25.Client, error) {
	client, err := vim25.NewClient(ctx, service)
	if err != nil {
		return nil, nil, err
	}
	folder, err := find.NewFinder(client).Folder(ctx, "/DC0/vm/watched")
	return folder, client, err
}

func fill(ctx context.Context, service *simulator.Service) error {
	folder, _, err := watched(ctx, service)
	for i := 0; i < folders && err == nil; i++ {
		_, err = folder.CreateFolder(ctx, fmt.Sprint("folder-", i))
	}
	return err
}

// watch returns when it has seen all folders.
func watch(ctx context.Context, service *simulator.Service) (int, error) {
	folder, client, err := watched(ctx, service)
	if err != nil {
		return 0, err
	}
	all, err := view.NewManager(client).CreateContainerView(ctx, folder.Reference(), []string{"Folder"}, true)
	if err != nil {
		return 0, err
	}
	made, err := methods.CreatePropertyCollector(ctx, client, &types.CreatePropertyCollector{This: client.ServiceContent.PropertyCollector})
	if err != nil {
		return 0, err
	}
	collector := made.Returnval
	_, err = methods.CreateFilter(ctx, client, &types.CreateFilter{This: collector, Spec: types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: all.Reference(), Skip: types.NewBool(true), SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: "ContainerView", Path: "view"},
		}}},
		PropSet: []types.PropertySpec{{Type: "Folder", PathSet: []string{"name"}}},
	}})
	if err != nil {
		return 0, err
	}
	seen, version := map[mo.Reference]struct{}{}, ""
	for len(seen) < folders {
		res, err := methods.WaitForUpdatesEx(ctx, client, &types.WaitForUpdatesEx{This: collector, Version: version})
		if err != nil {
			return 0, err
		}
		version = res.Returnval.Version
		for _, set := range res.Returnval.FilterSet {
			for _, update := range set.ObjectSet {
				seen[update.Obj] = struct{}{}
			}
		}
	}
	return len(seen), nil
}
