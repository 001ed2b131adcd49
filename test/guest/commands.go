// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// guest is everything that runs besides the console.
type guest struct {
	memory *memory
	disk   *disk // nil: there is none
	cpus   []atomic.Uint64

	count     atomic.Uint64 // one every countInterval
	tick      atomic.Int64  // milliseconds between tick lines; 0: none
	dirtyRate atomic.Int64  // pages a second
	watchRate atomic.Int64  // pages a second

	out sync.Mutex
	con io.Writer
}

const pagesPerMiB = 1 << 20 / pageSize

// newGuest makes the guest that the kernel's command line asks for and starts it.
func newGuest(con io.Writer, options map[string]string) (*guest, error) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return nil, err
	}
	seed, _ := strconv.ParseUint(options["seed"], 10, 64)
	m, err := newMemory(int(si.Totalram)*int(si.Unit), seed)
	if err != nil {
		return nil, fmt.Errorf("reserving memory: %w", err)
	}
	g := &guest{memory: m, con: con, cpus: make([]atomic.Uint64, runtime.NumCPU())}
	if g.disk, err = openDisk("/dev/vda", seed); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	go g.counter()
	go g.ticker()
	go g.paced(&g.dirtyRate, m.dirty)
	go g.paced(&g.watchRate, g.watch())
	for i := range g.cpus {
		go g.cpu(i)
	}
	for _, name := range []string{"fill", "tick", "dirty", "watch"} {
		if value, ok := options[name]; ok {
			if _, err := g.run(name, []string{value}); err != nil {
				return nil, fmt.Errorf("ramjet.%s=%s: %w", name, value, err)
			}
		}
	}
	return g, nil
}

func (g *guest) say(format string, args ...any) {
	g.out.Lock()
	defer g.out.Unlock()
	fmt.Fprintf(g.con, "ramjet-guest: "+format+"\n", args...)
}

// serve answers requests until it is told to power off.
func (g *guest) serve(in io.Reader) {
	g.say("ready %s", g.info())
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue // what a new connection sends to end a torn line
		}
		tag := ""
		if _, err := strconv.ParseUint(words[0], 10, 64); err == nil && len(words) > 1 {
			tag, words = words[0]+" ", words[1:]
		}
		if words[0] == "poweroff" {
			g.say("%spoweroff", tag)
			return
		}
		answer, err := g.run(words[0], words[1:])
		if err != nil {
			answer = "error " + err.Error()
		}
		g.say("%s%s", tag, answer)
	}
}

// run carries out one command:
//
//	ping                  answers pong
//	info                  what the guest is
//	count                 the counter: one every 10 ms since boot
//	cpus                  a counter for each processor, counted by a thread that is bound to it
//	tick MS               say the counter every MS milliseconds (0: do not)
//	fill MIB              have the first MIB MiB in use: write what is not yet
//	zero FIRST N          write zeros into N pages
//	free FIRST N          give N pages back to the kernel
//	touch N [STRIDE]      rewrite exactly N different pages, every STRIDE-th
//	dirty MIBPS           keep rewriting pages at random, at this rate in MiB/s (0: stop)
//	watch MIBPS           keep checking pages in order, at this rate (0: stop)
//	check                 check all pages in use
//	where PAGE            the page's guest physical address
//	disk write FIRST N    write the next generation of N 4 KiB blocks of /dev/vda
//	disk check            read and check every block that was ever written
//	drop                  drop the kernel's caches
//	sleep                 suspend to RAM (S3), a moment after the answer
//	poweroff
func (g *guest) run(name string, args []string) (string, error) {
	n, err := numbers(args)
	switch {
	case name == "disk" && len(args) > 0:
		return g.runDisk(args[0], args[1:])
	case err != nil:
		return "", err
	}
	switch form := fmt.Sprint(name, " ", len(n)); form {
	case "ping 0":
		return "pong", nil
	case "info 0":
		return "info " + g.info(), nil
	case "count 0":
		return fmt.Sprintf("count %d", g.count.Load()), nil
	case "cpus 0":
		return g.counts(), nil
	case "tick 1":
		g.tick.Store(int64(n[0]))
	case "fill 1":
		err = g.memory.fill(n[0] * pagesPerMiB)
	case "zero 2":
		err = g.memory.zero(n[0], n[1])
	case "free 2":
		err = g.memory.free(n[0], n[1])
	case "touch 1":
		err = g.memory.touch(n[0], 1)
	case "touch 2":
		err = g.memory.touch(n[0], n[1])
	case "dirty 1":
		g.dirtyRate.Store(int64(n[0]) * pagesPerMiB)
	case "watch 1":
		g.watchRate.Store(int64(n[0]) * pagesPerMiB)
	case "check 0":
		return g.checked(g.memory.check()), nil
	case "where 1":
		addr, err := g.memory.physical(n[0])
		return fmt.Sprintf("where %d", addr), err
	case "drop 0":
		err = os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
	case "sleep 0":
		time.AfterFunc(100*time.Millisecond, func() {
			if err := os.WriteFile("/sys/power/state", []byte("mem"), 0); err != nil {
				g.say("no sleep: %v", err)
			}
		})
	default:
		return "", fmt.Errorf("no command %s with %d arguments", name, len(args))
	}
	return strings.Join(append([]string{name, "done"}, args...), " "), err
}

func numbers(args []string) ([]int, error) {
	n := make([]int, len(args))
	for i, a := range args {
		v, err := strconv.ParseUint(a, 10, 40)
		if err != nil {
			return nil, fmt.Errorf("%s is not a number", a)
		}
		n[i] = int(v)
	}
	return n, nil
}

func (g *guest) runDisk(verb string, args []string) (string, error) {
	n, err := numbers(args)
	switch {
	case err != nil:
		return "", err
	case g.disk == nil:
		return "", errors.New("there is no /dev/vda")
	case verb == "write" && len(n) == 2:
		return "disk write done", g.disk.write(n[0], n[1])
	case verb == "check" && len(n) == 0:
		r, err := g.disk.check()
		return "disk " + g.checked(r), err
	}
	return "", errors.New("disk write FIRST N, or disk check")
}

func (g *guest) checked(r report) string {
	word := "ok"
	if r.wrong > 0 {
		word = fmt.Sprintf("bad first=%d", r.first)
	}
	return fmt.Sprintf("check %s pages=%d zero=%d wrong=%d sum=%016x", word, r.pages, r.zero, r.wrong, r.sum)
}

func (g *guest) info() string {
	var si unix.Sysinfo_t
	unix.Sysinfo(&si)
	var uptime unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &uptime)
	var uts unix.Utsname
	unix.Uname(&uts)
	g.memory.mu.Lock()
	used, wrong := g.memory.used, g.memory.wrong
	g.memory.mu.Unlock()
	s := fmt.Sprintf("kernel=%s uptime=%dms cpus=%d seed=%d pages=%d watched_wrong=%d total=%d free=%d",
		unix.ByteSliceToString(uts.Release[:]), time.Duration(uptime.Nano()).Milliseconds(), len(g.cpus),
		g.memory.seed, used, wrong, si.Totalram*uint64(si.Unit), si.Freeram*uint64(si.Unit))
	if g.disk != nil {
		s += fmt.Sprintf(" disk=%d", g.disk.size())
	}
	if mac, err := os.ReadFile("/sys/class/net/eth0/address"); err == nil {
		s += " mac=" + strings.TrimSpace(string(mac))
	}
	return s
}

func (g *guest) counts() string {
	s := make([]string, len(g.cpus))
	for i := range g.cpus {
		s[i] = strconv.FormatUint(g.cpus[i].Load(), 10)
	}
	return "cpus " + strings.Join(s, " ")
}
