// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bufio"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// AvailableMemory returns how many bytes this process can use without swapping, and without pages being taken from its control
// groups: the least of what /proc/meminfo and the limits of the groups allow. known is false if neither can be read. root is the
// directory in which /proc and /sys are.
func AvailableMemory(root string) (bytes int64, known bool) {
	bytes = availableInGroups(root)
	if host, ok := labelled(filepath.Join(root, "proc/meminfo"), "MemAvailable:"); ok { // in KiB (proc_meminfo(5))
		bytes = min(bytes, host<<10)
	}
	if bytes == math.MaxInt64 {
		return 0, false
	}
	return bytes, true
}

// groupFiles are the names that one version of control groups has for its directories and files.
type groupFiles struct {
	roots   []string // directories of the top group
	limits  []string // files with a number of bytes, or "max"
	usage   string   // file with the number of bytes that the group uses
	reclaim string   // line of memory.stat: page cache that is in the usage and that the kernel takes back first
}

var (
	groupsV2 = groupFiles{[]string{"sys/fs/cgroup", "sys/fs/cgroup/unified"}, []string{"memory.max", "memory.high"}, "memory.current", "inactive_file"}
	groupsV1 = groupFiles{[]string{"sys/fs/cgroup/memory"}, []string{"memory.limit_in_bytes", "memory.soft_limit_in_bytes"}, "memory.usage_in_bytes", "total_inactive_file"}
)

// availableInGroups returns how many bytes the control groups of this process and those above them leave free: the least of them,
// or the largest number if none has a limit.
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

// free returns how many bytes the limits of the group in directory dir leave; the largest number if it has none.
func (g groupFiles) free(dir string) int64 {
	limit := int64(math.MaxInt64)
	for _, name := range g.limits {
		if n, err := byteCount(filepath.Join(dir, name)); err == nil {
			limit = min(limit, n)
		}
	}
	const unlimited = 1 << 60 // version 1 has a number above this for no limit (PAGE_COUNTER_MAX)
	if limit >= unlimited {
		return math.MaxInt64
	}
	used, err := byteCount(filepath.Join(dir, g.usage))
	if err != nil {
		return limit
	}
	cache, _ := labelled(filepath.Join(dir, "memory.stat"), g.reclaim)
	return max(limit-max(used-cache, 0), 0)
}

// byteCount reads a file that holds one number, or "max".
func byteCount(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(b))
	if text == "max" {
		return math.MaxInt64, nil
	}
	return strconv.ParseInt(text, 10, 64)
}

// labelled returns the number that follows a name in a file of lines NAME NUMBER; ok is false if there is none.
func labelled(path, name string) (n int64, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if w := strings.Fields(lines.Text()); len(w) > 1 && w[0] == name {
			n, err := strconv.ParseInt(w[1], 10, 64)
			return n, err == nil && n >= 0 && n <= math.MaxInt64>>10
		}
	}
	return 0, false
}
