// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// defaultProgram is the QEMU that is run where nothing names another.
const defaultProgram = "qemu-system-x86_64"

// Program finds the QEMU program to run for a recorded path. A path in a file is text that somebody wrote, so the
// program there is run only if its name is a QEMU's and nobody but root and this process's user can have put it there
// or can change it. Otherwise the program of that name in PATH is taken, and why says what is wrong with the recorded
// one.
func Program(recorded string) (path string, why, err error) {
	if recorded == "" {
		path, err = FindExecutable(defaultProgram)
		return path, nil, err
	}
	if why = checkProgram(recorded, os.Geteuid()); why == nil {
		return recorded, nil, nil
	}
	name := filepath.Base(recorded)
	if !cmdline.IsQEMU(name) {
		name = defaultProgram
	}
	path, err = FindExecutable(name)
	return path, why, err
}

// checkProgram returns what is wrong with the program at path, for a process of the user uid. A name that leads
// elsewhere by symbolic links counts as what it leads to.
func checkProgram(path string, uid int) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s is not an absolute path", path)
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if !cmdline.IsQEMU(filepath.Base(path)) {
		return fmt.Errorf("%s is not named qemu-system-*", path)
	}
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	return othersMayChange(path, st, uid)
}

// othersMayChange returns an error if somebody other than root and the user uid may write the file, or may put another
// one in its place: who can write to one of its directories can do that, unless the directory is sticky.
func othersMayChange(path string, st os.FileInfo, uid int) error {
	for {
		owner := int(st.Sys().(*syscall.Stat_t).Uid)
		sticky := st.IsDir() && st.Mode()&os.ModeSticky != 0
		switch {
		case owner != 0 && owner != uid:
			return fmt.Errorf("%s belongs to user %d", path, owner)
		case st.Mode().Perm()&0o022 != 0 && !sticky:
			return fmt.Errorf("%s can be written by others than its owner (mode %v)", path, st.Mode().Perm())
		}
		parent := filepath.Dir(path)
		if parent == path {
			return nil
		}
		var err error
		if st, err = os.Lstat(parent); err != nil {
			return err
		}
		path = parent
	}
}

// processUser is the user of the process whose directory in /proc is proc. A process that has several users (real,
// effective, saved) has none here. The owner of the directory would not do: of a process that cannot be dumped it is
// root (task_dump_owner).
func processUser(proc string) *uint32 {
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		return nil
	}
	for _, line := range strings.Split(string(status), "\n") {
		text, ok := strings.CutPrefix(line, "Uid:")
		if !ok {
			continue
		}
		uids := strings.Fields(text)
		if len(uids) == 0 {
			return nil
		}
		for _, other := range uids {
			if other != uids[0] {
				return nil
			}
		}
		if uid, err := strconv.ParseUint(uids[0], 10, 32); err == nil {
			u := uint32(uid)
			return &u
		}
	}
	return nil
}
