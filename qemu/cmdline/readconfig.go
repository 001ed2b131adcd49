// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxConfig bounds a -readconfig file, in bytes.
const maxConfig = 1 << 20

// ExpandConfig puts in the place of each -readconfig option what its file says, as options: the file may be another by
// the time the options are wanted again. read returns the content of an absolute path; relative ones start from dir.
func (args Args) ExpandConfig(dir string, read func(path string) ([]byte, error)) (Args, error) {
	var out Args
	for _, a := range args {
		if a.Name != "readconfig" {
			out = append(out, a)
			continue
		}
		path := a.Value
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		text, err := read(path)
		if err == nil && len(text) > maxConfig {
			err = fmt.Errorf("it has more than %d bytes", maxConfig)
		}
		var more Args
		if err == nil {
			more, err = parseConfig(string(text))
		}
		if err != nil {
			return nil, fmt.Errorf("-readconfig %s cannot be read: %w: give QEMU's arguments after --, with what it says as options", path, err)
		}
		out = append(out, more...)
	}
	return out, nil
}

// ReadConfig reads a file for ExpandConfig, if it is one: a fifo could keep its reader for good.
func ReadConfig(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	return io.ReadAll(io.LimitReader(f, maxConfig+1))
}

// configGroups are the groups of a file whose options have another name on the command line.
var configGroups = map[string]string{"memory": "m", "smp-opts": "smp", "boot-opts": "boot", "acpi": "acpitable"}

// sameGroups are those with the same name.
var sameGroups = strings.Fields(`accel action add-fd audiodev chardev device drive fsdev fw_cfg global icount iscsi machine mon name net
	netdev nic numa object option-rom overcommit plugin rtc run-with sandbox semihosting-config smbios spice tpmdev trace vnc`)

func init() {
	for _, g := range sameGroups {
		configGroups[g] = g
	}
}

var (
	configGroup = Lazily(`^\[\s*([\w-]+)(?:\s+"([^"]*)")?\s*\]$`)
	configValue = Lazily(`^([\w.-]+)\s*=\s*"([^"]*)"$`)
)

// parseConfig reads QEMU's configuration format (qemu_config_foreach): [group "id"], then lines key = "value".
func parseConfig(text string) (Args, error) {
	var args Args
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if m := configGroup().FindStringSubmatch(line); m != nil {
			option, known := configGroups[m[1]]
			if !known {
				return nil, fmt.Errorf("line %d: the group [%s] is not known here", n+1, m[1])
			}
			a := Arg{Name: option, HasValue: true}
			if m[2] != "" {
				a.Value = "id=" + Double(m[2])
			}
			args = append(args, a)
			continue
		}
		m := configValue().FindStringSubmatch(line)
		if m == nil || len(args) == 0 {
			return nil, fmt.Errorf(`line %d: it is neither [GROUP "ID"] nor KEY = "VALUE"`, n+1)
		}
		a := &args[len(args)-1]
		if a.Value != "" {
			a.Value += ","
		}
		a.Value += m[1] + "=" + Double(m[2])
	}
	return args, nil
}
