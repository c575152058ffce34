package inventory

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
)

// The simulator's delays go by the name that its task bears (TaskInfo.name), not
// by the method's, and a name that it does not know delays nothing, in silence.
// Keys are methods as a client calls them, in lower case and without "_Task".
var taskNames = map[string]string{
	"clonevm":                    "CloneVm",
	"createvm":                   "CreateVm", // part of every clone too
	"customizevm":                "CustomizeVm",
	"destroy":                    "Destroy",
	"migratevm":                  "MigrateVm",
	"moveintofolder":             "MoveIntoFolder",
	"poweroffvm":                 "PowerOff",
	"poweronmultivm":             "PowerOnMultiVM",
	"poweronvm":                  "PowerOn", // part of a clone with powerOn too
	"reconfigurecomputeresource": "ReconfigureCluster",
	"reconfigvm":                 "ReconfigVm",
	"relocatevm":                 "RelocateVm",
	"rename":                     "Rename",
	"resetvm":                    "Reset",
	"suspendvm":                  "Suspend",
}

// ParseTaskDelays reads "CloneVM:1000,PowerOnVM_Task:50": milliseconds that a task
// of that method takes. The method may be written with or without "_Task".
func ParseTaskDelays(s string) (map[string]int, error) {
	delays := map[string]int{}
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		method, ms, _ := strings.Cut(item, ":")
		name, ok := taskNames[strings.TrimSuffix(strings.ToLower(method), "_task")]
		if !ok {
			return nil, fmt.Errorf("task %q is not one of: %s", method,
				strings.Join(slices.Sorted(maps.Keys(taskNames)), ", "))
		}
		d, err := strconv.Atoi(ms)
		if err != nil || d < 0 {
			return nil, fmt.Errorf("%q: give milliseconds, as in CloneVM:1000", item)
		}
		delays[name] = d
	}
	return delays, nil
}

// SetTaskDelays makes the simulator's tasks take that long, all at once. Call it
// before the first client: the simulator reads it without a lock.
func SetTaskDelays(delays map[string]int) {
	delays = maps.Clone(delays)
	// Otherwise a task holds the lock of its object while it waits: nobody could
	// read the template during a clone, nor clone it twice at a time.
	delays["LockHandoff"] = 0
	simulator.TaskDelay.MethodDelay = delays
}
