// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/qmp"
)

// MonitorTimeout is how long the methods that ask QEMU wait.
const MonitorTimeout = 30 * time.Second

// Execute runs a QMP command on the VM's own monitor, over a connection that
// lasts as long as the command. result may be nil.
func (v *VM) Execute(command string, args, result any) error {
	if v.monitor == "" {
		return errors.New("no monitor was given for this VM")
	}
	ctx, cancel := context.WithTimeout(context.Background(), MonitorTimeout)
	defer cancel()
	c, err := qmp.Dial(ctx, v.monitor)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Execute(ctx, command, args, result)
}

// Human runs a command of the human monitor and returns what it prints.
func (v *VM) Human(line string) (string, error) {
	var out string
	err := v.Execute("human-monitor-command", map[string]string{"command-line": line}, &out)
	return out, err
}

// Status is the run state as query-status tells it: running, paused, ...
func (v *VM) Status() (string, error) {
	var s struct {
		Status string `json:"status"`
	}
	err := v.Execute("query-status", nil, &s)
	return s.Status, err
}

// Stop, and Cont, stop the guest's processors and let them go on.
func (v *VM) Stop() error { return v.Execute("stop", nil, nil) }

// Cont is described at Stop.
func (v *VM) Cont() error { return v.Execute("cont", nil, nil) }

// Query runs a QMP command without arguments and returns its answer as it is.
func (v *VM) Query(command string) (json.RawMessage, error) {
	var raw json.RawMessage
	err := v.Execute(command, nil, &raw)
	return raw, err
}

var hvaLine = regexp.MustCompile(`is (0x[0-9a-f]+)`)

// Peek reads len(b) bytes at a guest physical address, and Poke writes them,
// through the memory of QEMU's process, behind the guest's back.
func (v *VM) Peek(addr uint64, b []byte) error { return v.access(addr, b, unix.Pread) }

// Poke is described at Peek.
func (v *VM) Poke(addr uint64, b []byte) error { return v.access(addr, b, unix.Pwrite) }

func (v *VM) access(addr uint64, b []byte, transfer func(fd int, b []byte, offset int64) (int, error)) error {
	out, err := v.Human(fmt.Sprintf("gpa2hva %#x", addr))
	if err != nil {
		return err
	}
	m := hvaLine.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("gpa2hva %#x: %s", addr, strings.TrimSpace(out))
	}
	hva, err := strconv.ParseInt(m[1], 0, 64)
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", v.PID), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	if n, err := transfer(int(mem.Fd()), b, hva); err != nil || n != len(b) {
		return fmt.Errorf("%s at %#x: %d of %d bytes: %w", mem.Name(), hva, n, len(b), err)
	}
	return nil
}

// Allocated is how many bytes the files or memfds behind the guest's RAM take,
// holes not counted. Anonymous memory has no file: 0.
func (v *VM) Allocated() (int64, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", v.PID))
	if err != nil {
		return 0, err
	}
	var sum int64
	seen := make(map[uint64]bool)
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasPrefix(f[5], "/memfd:memory-backend-memfd") && (v.memPath == "" || !strings.HasPrefix(f[5], v.memPath)) {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/map_files/%s", v.PID, f[0]), &st); err != nil {
			return 0, fmt.Errorf("mapping %s of process %d: %w", f[0], v.PID, err)
		}
		if !seen[st.Ino] {
			seen[st.Ino] = true
			sum += st.Blocks * 512
		}
	}
	return sum, nil
}
