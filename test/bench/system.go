// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/test/reservoir"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// settle lets what went before end, so that a row does not pay for another's: its dirty pages, and what the kernel does behind a
// process that had much memory. It waits until the processors are idle for a moment, and not for long if they never are.
func (b *bench) settle() {
	unix.Sync()
	if b.Quick { // which is not for the figures
		return
	}
	time.Sleep(reservoir.Reported)
	const moment, longest = 100 * time.Millisecond, 3 * time.Second
	for began := time.Now(); time.Since(began) < longest; {
		idle, all := processors()
		time.Sleep(moment)
		nowIdle, nowAll := processors()
		if nowAll == all || float64(nowIdle-idle) >= 0.9*float64(nowAll-all) {
			return
		}
	}
}

// processors returns what the processors have spent idle and altogether since they were started, in the kernel's unit; zeros if
// it does not say (proc_stat(5)).
func processors() (idle, all uint64) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, field := range strings.Fields(line) {
		n, _ := strconv.ParseUint(field, 10, 64) // 0: the line's name
		if all += n; i == 4 || i == 5 {          // idle, iowait
			idle += n
		}
	}
	return idle, all
}

func pause() { time.Sleep(2 * time.Millisecond) }

// ownCPU is the processor time that this process has used, in seconds.
func ownCPU() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// processCPU is another's, to ten milliseconds (proc_pid_stat(5)).
func processCPU(pid int) float64 {
	f := statFields(pid)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100
}

// statFields are those behind the name, which may hold spaces.
func statFields(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := strings.LastIndexByte(string(b), ')')
	if err != nil || i < 0 {
		return nil
	}
	return strings.Fields(string(b[i+1:]))
}

func zombie(pid int) bool {
	f := statFields(pid)
	return len(f) > 0 && f[0] == "Z"
}

// cached is how many bytes of a file are in the page cache
func cached(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return directio.Resident(f, 0, 0)
}

// evict takes a file out of the page cache, and makes sure that it is out. It tries for a while: what ramjet-prefetch read for a VM that was
// killed a moment ago may still be under way.
func evict(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return err
	}
	var left int64
	for range 100 {
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return err
		}
		if left, err = directio.Resident(f, 0, 0); err != nil || left <= st.Size()/200 {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%d bytes of the image stay in the page cache: nothing cold can be measured", left)
}

// warm brings the data of a file into the page cache, and makes sure that it stays there. It leaves the holes out.
func warm(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	var data int64
	for at := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // no more
		}
		if err != nil {
			return err
		}
		if at, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
			return err
		}
		data += at - start
		for ; start < at; start += int64(len(buf)) {
			if _, err := f.ReadAt(buf[:min(int64(len(buf)), at-start)], start); err != nil {
				return err
			}
		}
	}
	if n, err := directio.Resident(f, 0, 0); err != nil || n < data {
		return errors.Join(err, fmt.Errorf("only %d of %d bytes of the image stay in the page cache: nothing warm can be measured", n, data))
	}
	return nil
}

// machine describes where the figures come from.
func machine(dir string) map[string]string {
	h := vm.ThisHost(dir)
	m := map[string]string{
		"cpus": fmt.Sprint(h.CPUs), "go": runtime.Version(), "kernel": h.Kernel, "qemu": h.QEMU, "accelerator": h.Accelerator, "filesystem": h.FileSystem,
	}
	for _, line := range lines("/proc/cpuinfo") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			m["cpu"] = strings.TrimSpace(v)
			break
		}
	}
	if l := lines("/proc/meminfo"); len(l) > 0 {
		m["memory"] = strings.TrimSpace(strings.TrimPrefix(l[0], "MemTotal:"))
	}
	return m
}

func lines(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Split(string(b), "\n")
}
