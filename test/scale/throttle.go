// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// throttle is a control group whose processes get so many bytes a second of the device that a directory is on
// (cgroups(7): io.max of version 2, blkio.throttle of version 1).
type throttle struct {
	dir    string
	v2     bool
	device string // major:minor
}

func newThrottle(dir string) (*throttle, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, err
	}
	t := &throttle{device: fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))}
	name := fmt.Sprintf("ramjet-scale-%d", os.Getpid())
	if b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil && strings.Contains(string(b), "io") {
		t.dir, t.v2 = filepath.Join("/sys/fs/cgroup", name), true
	} else {
		t.dir = filepath.Join("/sys/fs/cgroup/blkio", name)
	}
	if err := os.Mkdir(t.dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make a control group to slow the device down with: %w", err)
	}
	return t, nil
}

// set sets the speed in MB/s for reading and writing, 0 for none.
func (t *throttle) set(speed int) error {
	if t.v2 {
		limit := "max"
		if speed > 0 {
			limit = fmt.Sprint(speed * 1e6)
		}
		return t.write("io.max", fmt.Sprintf("%s rbps=%s wbps=%[2]s", t.device, limit))
	}
	for _, way := range []string{"read", "write"} {
		if err := t.write("blkio.throttle."+way+"_bps_device", fmt.Sprintf("%s %d", t.device, speed*1e6)); err != nil {
			return err
		}
	}
	return nil
}

func (t *throttle) write(name, text string) error {
	return os.WriteFile(filepath.Join(t.dir, name), []byte(text), 0)
}

// command is a program's arguments so that it runs in the group.
func (t *throttle) command(args []string) []string {
	return append([]string{"sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(t.dir, "cgroup.procs")}, args...)
}

func (t *throttle) close() { os.Remove(t.dir) }
