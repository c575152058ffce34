// Package collector keeps the simulator from locking up when a client watches a
// view in which machines and folders come and go.
//
// There, a wait for updates holds a filter's lock while it takes those of the
// objects that the filter starts from. A task that puts something into a view
// holds the view's lock, and its folder's, while it tells the filters, which
// takes theirs. When both happen at once neither goes on, and with them nothing
// that needs the folder: tasks stay "running" for ever. Seen with govmomi 0.56.0
// in one of three scale-outs of a few machines.
//
// So a filter is never told. Its collector is, which takes no such lock, and looks
// for what has come into the view by itself.
package collector

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// PropertyCollector is the simulator's, but for how its filters are told. The
// simulator expects to be extended like this: it makes each session's own collector
// of the type that it finds, and takes the type's name into references.
type PropertyCollector struct {
	simulator.PropertyCollector // first, where the simulator looks for what it extends
}

// Install puts it in the place of the simulator's own. To be called before
// anybody logs in.
func Install(model *simulator.Model) {
	content := model.ServiceContent
	c := new(PropertyCollector)
	c.Self = content.PropertyCollector
	model.Map().Put(c)
}

// CreatePropertyCollector makes one more of the same kind.
func (c *PropertyCollector) CreatePropertyCollector(ctx *simulator.Context, _ *types.CreatePropertyCollector) soap.HasFault {
	return &methods.CreatePropertyCollectorBody{
		Res: &types.CreatePropertyCollectorResponse{Returnval: ctx.Session.Put(new(PropertyCollector)).Reference()},
	}
}

// CreateFilter makes a filter, and takes its place among those that are told of
// changes.
func (c *PropertyCollector) CreateFilter(ctx *simulator.Context, req *types.CreateFilter) soap.HasFault {
	var body soap.HasFault
	make := func() {
		body = c.PropertyCollector.CreateFilter(ctx, req)
		if made, ok := body.(*methods.CreateFilterBody); ok && made.Res != nil {
			if filter, ok := ctx.Session.Get(made.Res.Returnval).(*simulator.PropertyFilter); ok {
				// Listeners are kept by reference, so this replaces the filter, and
				// goes when the filter would.
				ctx.Map.AddHandler(&listener{PropertyFilter: filter, collector: c, view: listed(ctx, req)})
			}
		}
	}
	// Whoever changes a view holds its lock. Without it, one who had begun to tell
	// the listeners before the filter was replaced would tell the filter.
	for _, set := range req.Spec.ObjectSet {
		if !strings.HasSuffix(set.Obj.Type, "View") {
			continue // a cluster, whose hosts are what they are
		}
		if view := ctx.Session.Get(set.Obj); view != nil && len(set.SelectSet) != 0 {
			unlocked := make
			make = func() { ctx.WithLock(view, unlocked) }
		}
	}
	make()
	return body
}

// listed is what the list holds that the filter starts from, if it does from one.
func listed(ctx *simulator.Context, req *types.CreateFilter) []types.ManagedObjectReference {
	for _, set := range req.Spec.ObjectSet {
		if list, ok := ctx.Session.Get(set.Obj).(*simulator.ListView); ok {
			return slices.Clone(list.View)
		}
	}
	return nil
}

type listener struct {
	*simulator.PropertyFilter
	collector *PropertyCollector
	view      []types.ManagedObjectReference // that of a list, as last seen
}

// UpdateObject has the collector look again at what an object leads to that the
// filter starts from, and tells it what a list has lost; it hears of objects that
// are gone without that. Called with the object's lock held.
func (l *listener) UpdateObject(ctx *simulator.Context, o mo.Reference, _ []types.PropertyChange) {
	ref := o.Reference()
	for _, set := range l.Spec.ObjectSet {
		if set.Obj != ref || len(set.SelectSet) == 0 {
			continue
		}
		if list, ok := o.(*mo.ListView); ok {
			for _, was := range l.view {
				if !slices.Contains(list.View, was) {
					l.collector.RemoveObject(ctx, was)
				}
			}
			l.view = slices.Clone(list.View)
		}
		// A wait may have looked at the filter before it knew.
		l.collector.PropertyCollector.UpdateObject(ctx, o, nil)
		return
	}
}
