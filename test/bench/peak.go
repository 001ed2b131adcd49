// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"
)

// watchPeak watches the largest resident size of a process, in bytes, until it is asked for it.
//
// ru_maxrss, which wait4(2) returns, will not do: a child begins with that of its parent, which an exec keeps (setmax_mm_hiwater_rss in
// exec_mmap), and this process has buffers of gigabytes. VmHWM is of the memory that the program itself
// has (proc_pid_status(5)), and goes with it; so it is looked at while the program runs.
func watchPeak(pid int) (peak func() int64) {
	stop, result := make(chan struct{}), make(chan int64)
	go func() {
		most := int64(0)
		for {
			most = max(most, statusKiB(pid, "VmHWM")<<10)
			select {
			case <-stop:
				result <- most
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() int64 { close(stop); return <-result }
}

// statusKiB is a field of /proc/PID/status that is in KiB; 0 if there is none.
func statusKiB(pid int, field string) int64 {
	return procKiB(fmt.Sprintf("/proc/%d/status", pid), field)
}

func procKiB(path, field string) (kib int64) {
	for _, line := range lines(path) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			fmt.Sscan(v, &kib)
			return kib
		}
	}
	return 0
}
