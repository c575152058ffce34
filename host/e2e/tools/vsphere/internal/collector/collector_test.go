package collector_test

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
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
	// Over the wire: the simulator's client in memory keeps the collector that it
	// had when the model was made.
	server := model.Service.NewServer()
	t.Cleanup(server.Close)
	seen, failed := make(chan int, 1), make(chan error, 2)
	// The simulator forgets in a view what came while it was made.
	watching := make(chan struct{})
	go func() {
		n, err := watch(ctx, server.URL, watching)
		if err != nil {
			failed <- fmt.Errorf("watching: %w", err)
			return
		}
		seen <- n
	}()
	go func() {
		select {
		case <-watching:
		case <-ctx.Done():
			return
		}
		if err := fill(ctx, server.URL); err != nil {
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

func watched(ctx context.Context, server *url.URL) (*object.Folder, *vim25.Client, error) {
	client, err := govmomi.NewClient(ctx, server, true)
	if err != nil {
		return nil, nil, err
	}
	folder, err := find.NewFinder(client.Client).Folder(ctx, "/DC0/vm/watched")
	return folder, client.Client, err
}

func fill(ctx context.Context, server *url.URL) error {
	folder, _, err := watched(ctx, server)
	for i := 0; i < folders && err == nil; i++ {
		_, err = folder.CreateFolder(ctx, fmt.Sprint("folder-", i))
	}
	return err
}

// watch returns when it has seen all folders. It closes watching when it has a view
// of them.
func watch(ctx context.Context, server *url.URL, watching chan<- struct{}) (int, error) {
	folder, client, err := watched(ctx, server)
	if err != nil {
		return 0, err
	}
	all, err := view.NewManager(client).CreateContainerView(ctx, folder.Reference(), []string{"Folder"}, true)
	if err != nil {
		return 0, err
	}
	close(watching)
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
