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
// So a filter is told from a goroutine of its own, which holds nothing.
package collector

import (
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
	body := c.PropertyCollector.CreateFilter(ctx, req)
	if made, ok := body.(*methods.CreateFilterBody); ok && made.Res != nil {
		if filter, ok := ctx.Session.Get(made.Res.Returnval).(*simulator.PropertyFilter); ok {
			// Listeners are kept by reference, so this replaces the filter, and
			// goes when the filter would.
			ctx.Map.AddHandler(&listener{PropertyFilter: filter, collector: c})
		}
	}
	return body
}

type listener struct {
	*simulator.PropertyFilter
	collector *PropertyCollector
}

// UpdateObject tells the filter that an object that it starts from has changed.
func (l *listener) UpdateObject(ctx *simulator.Context, o mo.Reference, changes []types.PropertyChange) {
	ref := o.Reference()
	for _, set := range l.Spec.ObjectSet {
		if set.Obj != ref || len(set.SelectSet) == 0 {
			continue
		}
		// Locks belong to contexts, so it must not be the caller's.
		own := &simulator.Context{Context: ctx.Context, Session: ctx.Session, Map: ctx.Map}
		go func() {
			l.PropertyFilter.UpdateObject(own, o, changes)
			// A wait may have looked at the filter before it knew.
			l.collector.PropertyCollector.UpdateObject(own, o, nil)
		}()
		return
	}
}
