// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// cgroupRoots are where control groups that can be frozen are found: version 2, version 2 beside version 1, version 1.
var cgroupRoots = map[string][]string{
	"":        {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"},
	"freezer": {"/sys/fs/cgroup/freezer"},
}

// joinCgroups moves the process pid into the control groups of another, as far as those can be frozen and that is allowed. A
// guardian that shares QEMU's groups cannot be frozen together with ramjet while the guest's owner waits for the guest.
func joinCgroups(pid, other int) {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", other))
	if err != nil {
		return
	}
	for _, line := range strings.Split(strings.TrimSpace(string(groups)), "\n") {
		// number:controllers:path (cgroups(7))
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 || strings.Contains(parts[2], "..") { // outside of our cgroup namespace
			continue
		}
		for _, root := range cgroupRoots[parts[1]] {
			procs := filepath.Join(root, parts[2], "cgroup.procs")
			if f, err := os.OpenFile(procs, os.O_WRONLY, 0); err == nil {
				fmt.Fprint(f, pid)
				f.Close()
				break
			}
		}
	}
}
