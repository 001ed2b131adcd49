// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// available is how many bytes of memory this process could use without swapping, and without having pages taken from its control groups:
// what /proc/meminfo and the limits of the groups allow, whichever is less. root is where /proc and /sys are.
func available(root string) int64 {
	return min(availableOnHost(root), availableInGroups(root))
}

// availableOnHost is MemAvailable (proc_meminfo(5)), or 0.
func availableOnHost(root string) int64 {
	return labelled(filepath.Join(root, "proc/meminfo"), "MemAvailable:") << 10
}

// groupFiles are the names of a version of control groups for the same things.
type groupFiles struct {
	roots   []string // where groups are found
	limits  []string // files with bytes, or "max"
	usage   string
	reclaim []string // of memory.stat: pages that are in the usage and that the kernel takes back first
}

var (
	groupsV2 = groupFiles{[]string{"sys/fs/cgroup", "sys/fs/cgroup/unified"}, []string{"memory.max", "memory.high"}, "memory.current", []string{"inactive_file"}}
	groupsV1 = groupFiles{[]string{"sys/fs/cgroup/memory"}, []string{"memory.limit_in_bytes", "memory.soft_limit_in_bytes"}, "memory.usage_in_bytes", []string{"total_inactive_file"}}
)

// availableInGroups is the least that a control group of this process, or one above it, leaves free.
func availableInGroups(root string) int64 {
	least := int64(math.MaxInt64)
	f, err := os.Open(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return least
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// number:controllers:path (cgroups(7))
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		files := groupsV2
		switch {
		case strings.Contains(","+parts[1]+",", ",memory,"):
			files = groupsV1
		case parts[1] != "":
			continue
		}
		for _, top := range files.roots {
			for group := filepath.Clean("/" + parts[2]); ; group = filepath.Dir(group) {
				least = min(least, files.free(filepath.Join(root, top, group)))
				if group == "/" {
					break
				}
			}
		}
	}
	return least
}

// free is how much a group's limits leave, or the largest number if it has none.
func (g groupFiles) free(dir string) int64 {
	limit := int64(math.MaxInt64)
	for _, name := range g.limits {
		if n, err := byteCount(filepath.Join(dir, name)); err == nil {
			limit = min(limit, n)
		}
	}
	const unlimited = 1 << 60 // version 1 says it so (PAGE_COUNTER_MAX)
	if limit >= unlimited {
		return math.MaxInt64
	}
	used, err := byteCount(filepath.Join(dir, g.usage))
	if err != nil {
		return limit
	}
	for _, name := range g.reclaim {
		used -= labelled(filepath.Join(dir, "memory.stat"), name)
	}
	return max(limit-max(used, 0), 0)
}

// byteCount reads a file with one number, or an error.
func byteCount(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(b))
	if text == "max" {
		return math.MaxInt64, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, errors.Join(fs.ErrInvalid, err))
	}
	return n, nil
}

// labelled is the number after a name in a file of such lines, or 0.
func labelled(path, name string) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if w := strings.Fields(lines.Text()); len(w) > 1 && w[0] == name {
			n, _ := strconv.ParseInt(w[1], 10, 64)
			return n
		}
	}
	return 0
}
