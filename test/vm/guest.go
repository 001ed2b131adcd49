// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// AnswerTimeout is how long the methods that ask the guest wait. An emulated
// processor checks some 500 MiB/s.
const AnswerTimeout = 2 * time.Minute

// Command sends a line to the guest and returns its answer, see test/guest for
// both. What the guest refuses is an error.
func (v *VM) Command(line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), AnswerTimeout)
	defer cancel()
	return v.CommandContext(ctx, line)
}

// CommandContext is Command with a limit of the caller's.
func (v *VM) CommandContext(ctx context.Context, line string) (string, error) {
	return v.console.ask(ctx, line)
}

// Count is the guest's counter: one for every 10 ms of its own clock.
func (v *VM) Count() (uint64, error) {
	s, err := v.Command("count")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "count "), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the guest answered count with %q", s)
	}
	return n, nil
}

// CPUCounts are the counters that each processor of the guest counts by itself.
func (v *VM) CPUCounts() ([]uint64, error) {
	s, err := v.Command("cpus")
	if err != nil {
		return nil, err
	}
	var counts []uint64
	for _, w := range strings.Fields(s)[1:] {
		n, err := strconv.ParseUint(w, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the guest answered cpus with %q", s)
		}
		counts = append(counts, n)
	}
	return counts, nil
}

// Checked is what the guest found out about its memory, or its disk.
type Checked struct {
	Pages int    // of 4 KiB, that were checked
	Zero  int    // how many of them have to be zero
	Wrong int    // how many are not what they have to be
	First int    // number of the first wrong one, -1 if there is none
	Sum   uint64 // checksum of all as they are
}

// String says it in a line.
func (c Checked) String() string {
	if c.Wrong > 0 {
		return fmt.Sprintf("%d of %d pages are wrong, the first is %d", c.Wrong, c.Pages, c.First)
	}
	return fmt.Sprintf("%d pages are right, sum %016x", c.Pages, c.Sum)
}

// Check has the guest compare every page of its memory with what it has to be.
// Wrong pages are no error. The sum of two checks is the same only if nothing
// was rewritten in between.
func (v *VM) Check() (Checked, error) { return v.check("check") }

// CheckDisk is Check for the blocks of the disk that were written with "disk write".
func (v *VM) CheckDisk() (Checked, error) { return v.check("disk check") }

func (v *VM) check(command string) (Checked, error) {
	s, err := v.Command(command)
	if err != nil {
		return Checked{}, err
	}
	return parseChecked(s)
}

// parseChecked reads "check ok pages=1 ..." and "check bad first=2 pages=...".
func parseChecked(s string) (Checked, error) {
	c := Checked{First: -1}
	seen := 0
	for _, word := range strings.Fields(s) {
		name, value, _ := strings.Cut(word, "=")
		var err error
		switch name {
		case "pages":
			c.Pages, err = strconv.Atoi(value)
		case "zero":
			c.Zero, err = strconv.Atoi(value)
		case "wrong":
			c.Wrong, err = strconv.Atoi(value)
		case "first":
			c.First, err = strconv.Atoi(value)
		case "sum":
			c.Sum, err = strconv.ParseUint(value, 16, 64)
		default:
			continue
		}
		if err != nil {
			return c, fmt.Errorf("the guest answered check with %q", s)
		}
		seen++
	}
	if seen < 4 {
		return c, fmt.Errorf("the guest answered check with %q", s)
	}
	return c, nil
}

// Fill has the first mib MiB of the guest's memory be in use.
func (v *VM) Fill(mib int) error { return v.do("fill", mib) }

// Dirty has the guest rewrite pages at random, at mib MiB/s, until told otherwise.
func (v *VM) Dirty(mib int) error { return v.do("dirty", mib) }

// Watch has the guest check pages all the time, at mib MiB/s; see Corrupt.
func (v *VM) Watch(mib int) error { return v.do("watch", mib) }

// Touch has the guest rewrite exactly n different pages, every stride-th.
func (v *VM) Touch(n, stride int) error { return v.do("touch", n, stride) }

// Zero has the guest write zeros into n pages from page first.
func (v *VM) Zero(first, n int) error { return v.do("zero", first, n) }

// Free has the guest give n pages from page first back to its kernel.
func (v *VM) Free(first, n int) error { return v.do("free", first, n) }

// WriteDisk has the guest write n 4 KiB blocks of its disk.
func (v *VM) WriteDisk(first, n int) error { return v.do("disk write", first, n) }

// PowerOff has the guest shut down; QEMU ends then.
func (v *VM) PowerOff() error { return v.do("poweroff") }

// Sleep has the guest suspend itself (S3), and returns when it has. QMP's system_wakeup wakes it.
func (v *VM) Sleep() error {
	if err := v.do("sleep"); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s, err := v.Status()
		if err != nil || s == "suspended" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the guest does not sleep, it is %s: %s", s, v.Console())
		}
	}
}

func (v *VM) do(command string, args ...int) error {
	for _, a := range args {
		command += " " + strconv.Itoa(a)
	}
	_, err := v.Command(command)
	return err
}

// Where is the guest physical address of a page, as long as the guest's kernel
// does not move it.
func (v *VM) Where(page int) (uint64, error) {
	s, err := v.Command("where " + strconv.Itoa(page))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimPrefix(s, "where "), 10, 64)
}

// Tick is the last counter that the guest said by itself over this connection,
// and when; zero if none came yet.
func (v *VM) Tick() (uint64, time.Time) {
	v.console.mu.Lock()
	defer v.console.mu.Unlock()
	return v.console.tick, v.console.ticked
}

// Corrupt are the wrong pages that the guest's watch told over this connection.
func (v *VM) Corrupt() []string {
	v.console.mu.Lock()
	defer v.console.mu.Unlock()
	return append([]string(nil), v.console.corrupt...)
}

// Console is what came over the console, the last 64 KiB.
func (v *VM) Console() string { return v.console.transcript() }
