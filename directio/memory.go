// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"fmt"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// Memory is how much room there is for a page cache. The zero Memory is unknown.
type Memory struct {
	Available int64   // bytes that can be had without harm to anybody: of the machine, or of this process's cgroup if that has less
	Waiting   float64 // per cent of the last ten seconds in which some process waited for memory
}

// much is how many per cent of waiting are pressure: the page cache grows then only by what it displaces.
const much = 10

// short says why bytes more in the page cache are too many; "" if they are not.
func (m Memory) short(bytes int64) string {
	switch {
	case m.Waiting >= much:
		return fmt.Sprintf("memory is short (processes wait for it %.0f%% of the time)", m.Waiting)
	case m.Available > 0 && bytes > m.Available/2:
		return fmt.Sprintf("memory is short (%d MiB are available, for up to %d MiB)", m.Available>>20, bytes>>20)
	}
	return ""
}

// readMemory is a seam for tests.
var readMemory = func() Memory { return memoryIn("/") }

// memoryIn reads what the system with this root directory says: MemAvailable of /proc/meminfo, /proc/pressure/memory (Linux's
// Documentation/accounting/psi.rst) and, where there are cgroups of version 2, the limits of this process's
// group and of those above it, which bound it too.
func memoryIn(root string) (m Memory) {
	if kib, ok := field(path.Join(root, "proc/meminfo"), "MemAvailable:"); ok {
		m.Available = kib << 10
	}
	if b, err := os.ReadFile(path.Join(root, "proc/pressure/memory")); err == nil {
		_, rest, _ := strings.Cut(string(b), "some avg10=")
		percent, _, _ := strings.Cut(rest, " ")
		m.Waiting, _ = strconv.ParseFloat(percent, 64)
	}
	b, err := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	group, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "0::/")
	if err != nil || !ok {
		return m // version 1, or both
	}
	for group = path.Clean("/" + group); ; group = path.Dir(group) {
		if n, ok := roomIn(path.Join(root, "sys/fs/cgroup", group)); ok && (m.Available == 0 || n < m.Available) {
			m.Available = max(n, 1)
		}
		if group == "/" {
			return m
		}
	}
}

// roomIn is how many bytes a cgroup may still take; ok is false if it has no limit. Page cache counts as the group's own, and what of it nobody used twice can be
// given back (Documentation/admin-guide/cgroup-v2.rst).
func roomIn(dir string) (n int64, ok bool) {
	limit, ok := field(path.Join(dir, "memory.max"), "")
	if !ok {
		return 0, false
	}
	used, ok := field(path.Join(dir, "memory.current"), "")
	inactive, _ := field(path.Join(dir, "memory.stat"), "inactive_file ")
	return limit - used + inactive, ok
}

// field is the number behind a name at the beginning of a line; ok is false if there is none, or none in reason.
func field(file, name string) (n int64, ok bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for _, line := range strings.Split(string(b), "\n") {
		if rest, found := strings.CutPrefix(line, name); found {
			word, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			n, err := strconv.ParseInt(word, 10, 64)
			return n, err == nil && n >= 0 && n <= math.MaxInt64>>20
		}
	}
	return 0, false
}
