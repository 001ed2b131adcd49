// SPDX-License-Identifier: Apache-2.0

// Command guest is what runs inside the virtual machine of Ramjet's tests: the
// only process of a Linux guest, its init. It fills memory with pages that it
// can compute again, counts, rewrites pages at the rate it is told, and says
// whether its memory is still what it should be. A snapshot that loses, mixes up
// or tears one page is found out from inside.
//
// All it knows is in its memory: after a restore it goes on where it was, and
// notices nothing.
//
// # Talking to it
//
// The serial console carries lines both ways. A request is a command with its
// arguments, with a number in front if the answer shall carry it:
//
//	17 check
//	ramjet-guest: 17 check ok pages=16384 zero=0 wrong=0 sum=5d2f6f6b1c9e1c55
//
// Every line of the guest starts with "ramjet-guest: "; whatever else appears
// there is from the kernel. Without being asked it says
//
//	ramjet-guest: ready ...         after boot
//	ramjet-guest: tick N            the counter, at the interval set by tick
//	ramjet-guest: corrupt page=N .. when the watch finds a wrong page
//
// The commands are listed at [guest.run]. Numbers are decimal; pages are 4 KiB
// and are numbered from 0 in the order of the guest program's address space.
//
// Kernel command line: ramjet.seed=N ramjet.fill=MIB ramjet.tick=MS
// ramjet.dirty=MIB_PER_SECOND ramjet.watch=MIB_PER_SECOND, each like the command.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: to be run as the init of a virtual machine: see test/vm")
		os.Exit(2)
	}
	con, err := boot()
	if err != nil {
		fmt.Fprintf(con, "ramjet-guest: failed %v\n", err)
		powerOff()
	}
	// What the collector does is noise in measurements of dirty memory.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(32 << 20)

	g, err := newGuest(con, kernelOptions())
	if err != nil {
		fmt.Fprintf(con, "ramjet-guest: failed %v\n", err)
		powerOff()
	}
	g.serve(con)
	powerOff()
}
