package front

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
)

// What a fault does to the calls that it strikes.
const (
	// ActionReset cuts the connection before the call takes effect.
	ActionReset = "reset"
	// ActionDelay lets the call through late. It takes effect even if the client
	// has given up by then, as on a slow server that had already read it.
	ActionDelay = "delay"
	// ActionDropReply lets the call take effect, then cuts the connection.
	ActionDropReply = "drop-reply"
	// ActionTruncate lets the call take effect, then ends the reply half-way.
	ActionTruncate = "truncate"
	// ActionFault answers with a SOAP fault of the type in Fault.Fault; the call
	// takes no effect.
	ActionFault = "fault"
	// Any HTTP status from "400" to "599" is an action too: it is the answer, and
	// the call takes no effect.
)

// Fault strikes Count calls of Method, the first of them being the Nth that it
// sees. Calls are counted from the moment at which the fault was added. With a
// Chance, lots are drawn from the Nth on.
type Fault struct {
	ID int `json:"id"`
	// SOAP method such as "CloneVM_Task", or "*" for any.
	Method string `json:"method"`
	// Sees only requests whose XML has this in it, such as "<name>web-0</name>".
	Contains string `json:"contains,omitempty"`
	// From 1; 1 if absent.
	Nth int `json:"nth"`
	// 1 if absent; -1 for every call until the fault is removed.
	Count int `json:"count"`
	// The share of the calls that are struck, above 0 and up to 1; all if absent.
	Chance float64 `json:"chance,omitempty"`
	// The lots' seed. The same calls in the same order draw the same lots.
	Seed uint64 `json:"seed,omitempty"`
	// One of the actions above.
	Action string `json:"action"`
	// Milliseconds to wait before any action, `delay` or other.
	DelayMs int `json:"delayMs,omitempty"`
	// vim25 fault type such as "NotAuthenticated", for ActionFault only.
	Fault string `json:"fault,omitempty"`

	Seen   int `json:"seen"`
	Struck int `json:"struck"`

	lots *rand.Rand
}

var (
	status  = regexp.MustCompile(`^[45][0-9][0-9]$`)
	xmlName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*$`)
)

func (f *Fault) validate() error {
	switch {
	case f.Method == "":
		return errors.New(`"method" is missing: a SOAP method such as "CloneVM_Task", or "*"`)
	case f.Nth < 1:
		return errors.New(`"nth" counts from 1`)
	case f.Count < 1 && f.Count != -1:
		return errors.New(`"count" is at least 1, or -1 for every call until removed`)
	case f.Chance < 0 || f.Chance > 1:
		return errors.New(`"chance" is above 0 and up to 1`)
	case f.Seed != 0 && f.Chance == 0:
		return errors.New(`"seed" goes with "chance" only`)
	case f.DelayMs < 0:
		return errors.New(`"delayMs" is negative`)
	}
	switch f.Action {
	case ActionReset, ActionDropReply, ActionTruncate:
	case ActionDelay:
		if f.DelayMs == 0 {
			return errors.New(`action "delay" needs "delayMs"`)
		}
	case ActionFault:
		if !xmlName.MatchString(f.Fault) {
			return errors.New(`action "fault" needs "fault", a vim25 fault type such as "NotAuthenticated"`)
		}
		return nil
	default:
		if !status.MatchString(f.Action) {
			return fmt.Errorf(`unknown action %q: reset, delay, drop-reply, truncate, fault, or an HTTP status from 400 to 599`, f.Action)
		}
	}
	if f.Fault != "" {
		return fmt.Errorf(`"fault" goes with action "fault" only, not with %q`, f.Action)
	}
	return nil
}

// strikes says whether the fault acts on this call, and keeps count.
func (f *Fault) strikes(c call) bool {
	if f.Method != "*" && f.Method != c.method {
		return false
	}
	if f.Contains != "" && !bytes.Contains(c.body, []byte(f.Contains)) {
		return false
	}
	f.Seen++
	if f.Seen < f.Nth {
		return false
	}
	if f.lots != nil && f.lots.Float64() >= f.Chance {
		return false
	}
	f.Struck++
	return true
}

func (f *Fault) exhausted() bool { return f.Count != -1 && f.Struck >= f.Count }

func (f *Fault) status() int {
	code, _ := strconv.Atoi(f.Action)
	return code
}
