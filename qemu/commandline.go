// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// CommandLine is how a QEMU was started (proc_pid_cmdline(5)).
type CommandLine struct {
	Executable string   `json:"executable"`
	Args       []string `json:"args"` // without the program's name
	Dir        string   `json:"dir"`  // what relative paths in Args start from; empty: that is not known
	// User is whose process it was, and so who could write Args; nil if that is not known, or no single user.
	User *uint32 `json:"user,omitempty"`

	config error // a -readconfig file of Args that could not be read
}

func (c CommandLine) abs(path string) string { return cmdline.Absolute(path, c.Dir) }

func readCommandLine(pid int) (c CommandLine, err error) {
	proc := fmt.Sprintf("/proc/%d", pid)
	b, err := os.ReadFile(proc + "/cmdline")
	switch {
	case errors.Is(err, os.ErrNotExist):
		return c, fmt.Errorf("there is no process %d", pid)
	case err != nil:
		return c, err
	case len(b) == 0:
		return c, fmt.Errorf("process %d has no command line: it has ended or is no program", pid)
	}
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	c.Args = args[1:]
	if c.Executable, err = os.Readlink(proc + "/exe"); err == nil {
		c.Executable = strings.TrimSuffix(c.Executable, " (deleted)")
		c.Dir, err = os.Readlink(proc + "/cwd")
	}
	if given := givenArgs(proc); given != nil {
		c.Args = given
	}
	c.User = processUser(proc)
	if errors.Is(err, os.ErrPermission) {
		return c, fmt.Errorf("no permission to look at process %d: run as root or as its user", pid)
	}
	c.settle(proc)
	return c, err
}

// givenArgs returns the arguments that the user gave for a QEMU which Ramjet started (givenVariable).
func givenArgs(proc string) []string {
	var list []cmdline.Argument
	if json.Unmarshal([]byte(environmentValue(proc, givenVariable)), &list) != nil {
		return nil
	}
	return cmdline.Words(list)
}

// environmentValue is the value of a variable in a process's environment, or "".
func environmentValue(proc, name string) string {
	b, err := os.ReadFile(proc + "/environ")
	if err != nil {
		return ""
	}
	for _, v := range strings.Split(string(b), "\x00") {
		if text, ok := strings.CutPrefix(v, name+"="); ok {
			return text
		}
	}
	return ""
}

// settle makes the command line one that can be used again: it adds the directory in which QEMU was started, and puts
// the contents of configuration files in the place of their names.
func (c *CommandLine) settle(proc string) {
	args := cmdline.ParseArgs(c.Args)
	if relative := args.RelativePaths(); args.LeavesDirectory() && len(relative) > 0 {
		c.Dir = startDirectory(proc, relative)
	}
	read := func(path string) ([]byte, error) { return cmdline.ReadConfig(proc + "/root" + path) }
	expanded, err := args.ExpandConfig(c.Dir, read)
	if err != nil {
		c.config = err
		return
	}
	c.Args = expanded.Words()
}

// Unknown says what could not be found out about the command line, so that a restore needs another one; "" if nothing.
func (c CommandLine) Unknown() string {
	switch {
	case c.config != nil:
		return c.config.Error()
	case c.Dir == "":
		return c.UnknownDirectory()
	}
	return ""
}

// UnknownDirectory says which path cannot be found because the directory in which QEMU was started is not known; "" if
// none.
func (c CommandLine) UnknownDirectory() string {
	relative := cmdline.ParseArgs(c.Args).RelativePaths()
	if c.Dir != "" || len(relative) == 0 {
		return ""
	}
	return fmt.Sprintf("the VM was started in a directory that it has left (-daemonize or -chroot), so where %s is cannot be told: give QEMU's arguments after --", relative[0])
}

// startDirectory finds the directory in which a process was started that has left it. It tries the directories of the
// files that the process has open, then $PWD, and returns the first in which all the relative paths exist; "" if there
// is none.
func startDirectory(proc string, relative []string) string {
	open := openFiles(proc)
	for _, dir := range append(directoriesOf(open, relative), environmentValue(proc, "PWD")) {
		if filepath.IsAbs(dir) && allThere(proc, dir, relative) {
			return dir
		}
	}
	return ""
}

// openFiles are the paths of what a process has open.
func openFiles(proc string) (paths []string) {
	entries, err := os.ReadDir(proc + "/fd")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if path, err := os.Readlink(proc + "/fd/" + e.Name()); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

// directoriesOf are the directories in which open files are one of the relative ones.
func directoriesOf(open, relative []string) (dirs []string) {
	for _, r := range relative {
		r = filepath.Clean(r)
		for _, path := range open {
			if dir, ok := strings.CutSuffix(path, "/"+r); ok && dir != "" && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// allThere reports whether every relative path leads to something in dir, as the process sees it.
func allThere(proc, dir string, relative []string) bool {
	return !slices.ContainsFunc(relative, func(r string) bool {
		_, err := os.Stat(fmt.Sprintf("%s/root%s", proc, filepath.Join(dir, r)))
		return err != nil
	})
}
