package front_test

import (
	"context"
	"net"
	"net/http/cookiejar"
	"net/url"
	"testing"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"vmgroup.local/e2e/tools/vsphere/internal/front"
	"vmgroup.local/e2e/tools/vsphere/internal/inventory"
)

// watcher is a client that watches the name of folder "watched" in the simulator.
type watcher struct {
	t         *testing.T
	model     *simulator.Model
	front     *front.Front
	client    *vim25.Client
	collector types.ManagedObjectReference
	folder    types.ManagedObjectReference
	version   string
}

func newWatcher(t *testing.T) *watcher {
	t.Helper()
	ctx := t.Context()
	model, err := inventory.New(ctx, inventory.Size{Datacenters: 1, Clusters: 1, Hosts: 1, Datastores: 1}, []string{"watched"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(model.Remove)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sdk := &url.URL{Scheme: "http", Host: l.Addr().String(), Path: "/sdk", User: url.UserPassword("u", "p")}
	model.Service.Listen = sdk
	model.Service.RegisterSDK(model.Map())
	w := &watcher{t: t, model: model, front: front.New(model.Service.ServeMux)}
	server := w.front.Server()
	go func() { _ = server.Serve(w.front.Listen(l)) }()
	t.Cleanup(func() { _ = server.Close() })

	w.client, err = vim25.NewClient(ctx, soap.NewClient(sdk, true))
	if err != nil {
		t.Fatal(err)
	}
	w.client.Jar, _ = cookiejar.New(nil)
	_, err = methods.Login(ctx, w.client, &types.Login{This: *w.client.ServiceContent.SessionManager, UserName: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	found, err := methods.FindByInventoryPath(ctx, w.client, &types.FindByInventoryPath{
		This: *w.client.ServiceContent.SearchIndex, InventoryPath: "/DC0/vm/watched"})
	if err != nil {
		t.Fatal(err)
	}
	w.folder = *found.Returnval
	collector, err := methods.CreatePropertyCollector(ctx, w.client, &types.CreatePropertyCollector{This: w.client.ServiceContent.PropertyCollector})
	if err != nil {
		t.Fatal(err)
	}
	w.collector = collector.Returnval
	_, err = methods.CreateFilter(ctx, w.client, &types.CreateFilter{This: w.collector, Spec: types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: w.folder}},
		PropSet:   []types.PropertySpec{{Type: "Folder", PathSet: []string{"name"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.wait(ctx); got != "watched" {
		t.Fatalf("the first state is %q", got)
	}
	w.waiting(0)
	return w
}

// wait returns the folder's new name, or what kept it from being known.
func (w *watcher) wait(ctx context.Context) string {
	seconds := int32(5)
	res, err := methods.WaitForUpdatesEx(ctx, w.client, &types.WaitForUpdatesEx{
		This: w.collector, Version: w.version, Options: &types.WaitOptions{MaxWaitSeconds: &seconds}})
	switch {
	case err != nil:
		return "error: " + err.Error()
	case res.Returnval == nil:
		return "nothing new"
	}
	w.version = res.Returnval.Version
	return res.Returnval.FilterSet[0].ObjectSet[0].ChangeSet[0].Val.(string)
}

func (w *watcher) rename(name string) {
	w.t.Helper()
	ctx := w.t.Context()
	memory, err := vim25.NewClient(ctx, w.model.Service)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := methods.Rename_Task(ctx, memory, &types.Rename_Task{This: w.folder, NewName: name}); err != nil {
		w.t.Fatal(err)
	}
}

// waiting returns once exactly n waits are under way.
func (w *watcher) waiting(n int) {
	w.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); w.front.Waiting() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("there are %d waits, not %d", w.front.Waiting(), n)
		}
	}
}

func TestAnAbandonedWaitTakesNoUpdates(t *testing.T) {
	w := newWatcher(t)
	ctx, abandon := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		w.wait(ctx)
		close(ended)
	}()
	w.waiting(1)
	abandon()
	<-ended
	w.rename("renamed")
	if got := w.wait(t.Context()); got != "renamed" {
		t.Error(got)
	}
}

func TestAWaitCutByAnOutageTakesNoUpdates(t *testing.T) {
	w := newWatcher(t)
	ended := make(chan struct{})
	go func() {
		w.wait(t.Context())
		close(ended)
	}()
	w.waiting(1)
	w.front.Down()
	<-ended
	w.rename("renamed")
	w.front.Up()
	if got := w.wait(t.Context()); got != "renamed" {
		t.Error(got)
	}
}

func TestUpdatesWhoseReplyWasLostComeAgain(t *testing.T) {
	for _, action := range []string{front.ActionDropReply, front.ActionTruncate} {
		t.Run(action, func(t *testing.T) {
			w := newWatcher(t)
			if _, err := w.front.AddFault(front.Fault{Method: "WaitForUpdatesEx", Nth: 1, Count: 1, Action: action}); err != nil {
				t.Fatal(err)
			}
			w.rename("renamed")
			if got := w.wait(t.Context()); got == "renamed" {
				t.Error("the reply was not lost")
			}
			if got := w.wait(t.Context()); got != "renamed" {
				t.Error(got)
			}
		})
	}
}

func TestANewWaitEndsTheOneBefore(t *testing.T) {
	w := newWatcher(t)
	first := make(chan string)
	go func() { first <- w.wait(t.Context()) }()
	w.waiting(1)
	second := make(chan string)
	go func() { second <- w.wait(t.Context()) }()
	if got := <-first; got != "error: ServerFaultCode: RequestCanceled" {
		t.Errorf("the first wait ended with %q", got)
	}
	w.rename("renamed")
	if got := <-second; got != "renamed" {
		t.Error(got)
	}
}

// A client that reads its updates and asks again at once is the ordinary case:
// nothing that ends a wait may touch the next one.
func TestNoCancellationReachesTheNextWait(t *testing.T) {
	w := newWatcher(t)
	for range 40 {
		for _, name := range []string{"one", "two"} {
			w.rename(name)
			if got := w.wait(t.Context()); got != name {
				t.Fatal(got)
			}
		}
	}
}
