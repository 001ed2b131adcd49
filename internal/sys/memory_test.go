// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestAvailableMemory (16.7) has what a process may use be limited by the host, by its control group, and by one above it.
func TestAvailableMemory(t *testing.T) {
	const mib = 1 << 20
	v2 := "0::/a/b\n"
	v1 := "5:cpu,cpuacct:/x\n4:memory:/a/b\n0::/\n"
	for _, c := range []struct {
		name, groups string
		files        map[string]string
		want         int64
	}{
		{"no groups", "", nil, 1000 * mib},
		{"version 2 without a limit", v2, map[string]string{"a/b/memory.max": "max\n"}, 1000 * mib},
		{"version 2", v2, map[string]string{"a/b/memory.max": fmt.Sprint(300 * mib), "a/b/memory.current": fmt.Sprint(100 * mib)}, 200 * mib},
		{"version 2, the page cache does not count", v2, map[string]string{"a/b/memory.max": fmt.Sprint(300 * mib), "a/b/memory.current": fmt.Sprint(100 * mib), "a/b/memory.stat": fmt.Sprintf("anon 1\ninactive_file %d\n", 60*mib)}, 260 * mib},
		{"version 2, high", v2, map[string]string{"a/b/memory.max": "max", "a/b/memory.high": fmt.Sprint(64 * mib), "a/b/memory.current": "0"}, 64 * mib},
		{"version 2, above", v2, map[string]string{"a/b/memory.max": "max", "a/memory.max": fmt.Sprint(50 * mib), "a/memory.current": fmt.Sprint(60 * mib)}, 0},
		{"version 2 beside version 1", v2, map[string]string{"unified/a/b/memory.max": fmt.Sprint(7 * mib), "unified/a/b/memory.current": "0"}, 7 * mib},
		{"version 1 without a limit", v1, map[string]string{"memory/a/b/memory.limit_in_bytes": "9223372036854771712", "memory/a/b/memory.usage_in_bytes": "5"}, 1000 * mib},
		{"version 1", v1, map[string]string{"memory/a/b/memory.limit_in_bytes": fmt.Sprint(90 * mib), "memory/a/b/memory.usage_in_bytes": fmt.Sprint(80 * mib), "memory/a/b/memory.stat": fmt.Sprintf("total_inactive_file %d\n", 30*mib)}, 40 * mib},
		{"version 1, above", v1, map[string]string{"memory/memory.limit_in_bytes": fmt.Sprint(10 * mib), "memory/memory.usage_in_bytes": "0"}, 10 * mib},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			files := map[string]string{"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  1024000 kB\n", "proc/self/cgroup": c.groups}
			for path, text := range c.files {
				files["sys/fs/cgroup/"+path] = text
			}
			for path, text := range files {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, known := AvailableMemory(root); got != c.want || !known {
				t.Errorf("%d MiB (known: %v), want %d", got/mib, known, c.want/mib)
			}
		})
	}
	if n, known := AvailableMemory(t.TempDir()); n != 0 || known {
		t.Errorf("without /proc it is %d (known: %v)", n, known)
	}
	host, _ := labelled("/proc/meminfo", "MemTotal:")
	if n, known := AvailableMemory("/"); !known || n <= 0 || n > host<<10 {
		t.Errorf("here it is %d (known: %v)", n, known)
	}
}
