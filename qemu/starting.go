// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// startPatience is how long a QEMU that is starting may do nothing at all before it is taken for one that waits in
// vain. A QEMU that preallocates memory works all the time.
var startPatience = 8 * time.Second

// errSilent is wrapped by the error about such a QEMU.
var errSilent = errors.New("QEMU does not start")

// watchStart ends the wait for the greeting of a QEMU that waits in vain.
func (l *Launch) watchStart(ctx context.Context, pid int, end context.CancelCauseFunc) {
	processes := func() []int { return []int{pid} }
	if len(l.Wrapper) > 0 { // may have another process for QEMU
		processes = func() []int { return descendants(pid) }
	}
	args := cmdline.ParseArgs(l.Args)
	if args.WaitsForClient() {
		return // until somebody connects, as it was told
	}
	last, since := int64(-1), time.Now()
	for tick := time.NewTicker(startPatience / 20); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		spent, waiting := processorTimes(processes())
		if !waiting || spent-last > 1 || last < 0 {
			last, since = spent, time.Now()
		} else if time.Since(since) >= startPatience {
			end(fmt.Errorf("%w: it has done nothing for %v%s", errSilent, startPatience, l.waitsFor(args)))
		}
	}
}

// waitsFor names what it may wait for: the sockets of others that it is a client of.
func (l *Launch) waitsFor(args cmdline.Args) string {
	var servers []string
	for _, path := range args.ClientSockets() {
		path = l.abs(path)
		if p, listens := listeningAt(path); listens {
			servers = append(servers, fmt.Sprintf("%s at the socket %s", p, path))
		}
	}
	if len(servers) == 0 {
		return ""
	}
	return fmt.Sprintf(" but wait, perhaps for an answer of %s, which may be serving another VM: give this one its own (--set, or QEMU's arguments after --)",
		strings.Join(servers, " or "))
}

// processorTimes is processorTime of several, and whether all sleep.
func processorTimes(pids []int) (spent int64, sleep bool) {
	sleep = true
	for _, pid := range pids {
		n, sleeps := processorTime(pid)
		spent, sleep = spent+n, sleep && sleeps
	}
	return spent, sleep
}

// processorTime is what a process has used, in the kernel's hundredths of a second, and whether it sleeps
// (proc_pid_stat(5)).
func processorTime(pid int) (spent int64, sleeps bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	text := string(b)
	// The name of the program, in parentheses, may have spaces in it.
	f := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if err != nil || len(f) < 13 {
		return 0, false
	}
	const state, utime, stime = 0, 11, 12
	for _, field := range []int{utime, stime} {
		n, _ := strconv.ParseInt(f[field], 10, 64)
		spent += n
	}
	return spent, f[state] == "S"
}
