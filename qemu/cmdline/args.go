// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// Arg is one option of a QEMU command line with its value.
type Arg struct {
	Name     string // without dashes; empty for a bare word, which is a disk image
	Value    string
	HasValue bool
}

// Args is a parsed QEMU command line (lookup_opt in system/vl.c). The order matters to QEMU and is kept.
type Args []Arg

// withoutValue are the options that take none (qemu-options.hx).
var withoutValue = map[string]bool{}

func init() {
	for _, n := range strings.Fields(`h help version snapshot no-fd-bootchk no-reboot no-shutdown S daemonize nographic
		nodefaults no-user-config nouserconfig no-acpi no-hpet win2k-hack singlestep one-insn-per-tb enable-kvm mem-prealloc portrait
		enable-sync-profile preconfig only-migratable full-screen usb semihosting old-param perfmap jitdump xen-attach
		xen-domid-restrict s no-quit ctrl-grab alt-grab curses no-frame`) {
		withoutValue[n] = true
	}
}

// ParseArgs parses a command line without the program's name. Options that are not known here are kept as they are.
func ParseArgs(words []string) Args {
	var args Args
	for i := 0; i < len(words); i++ {
		w := words[i]
		if !strings.HasPrefix(w, "-") || w == "-" || w == "--" {
			args = append(args, Arg{Value: w, HasValue: true})
			continue
		}
		a := Arg{Name: strings.TrimPrefix(strings.TrimPrefix(w, "-"), "-")}
		if !withoutValue[a.Name] && i+1 < len(words) {
			i++
			a.Value, a.HasValue = words[i], true
		}
		args = append(args, a)
	}
	return args
}

// Words is the command line as a list of words, the reverse of ParseArgs.
func (args Args) Words() []string {
	var words []string
	for _, a := range args {
		if a.Name != "" {
			words = append(words, "-"+a.Name)
		}
		if a.HasValue {
			words = append(words, a.Value)
		}
	}
	return words
}

// Without returns args without the options of these names.
func (args Args) Without(names ...string) Args {
	return args.keep(func(a Arg) bool { return a.Name == "" || !slices.Contains(names, a.Name) })
}

func (args Args) keep(f func(Arg) bool) Args {
	var out Args
	for _, a := range args {
		if f(a) {
			out = append(out, a)
		}
	}
	return out
}

// With returns args with one more option at the end.
func (args Args) With(name, value string) Args {
	return append(slices.Clip(args), Arg{Name: name, Value: value, HasValue: true})
}

// monitor is a monitor that a command line asks for.
type monitor struct {
	qmp     bool
	Path    string // of a Unix socket it serves; "" if it is something else
	index   int    // of the option
	chardev int    // index of the -chardev that it uses, or -1
}

// Monitors finds the -qmp, -qmp-pretty, -monitor and -mon options.
func (args Args) Monitors() []monitor {
	var found []monitor
	for i, a := range args {
		switch a.Name {
		case "qmp", "qmp-pretty", "monitor":
			found = append(found, monitor{a.Name != "monitor", serverPath(a.Value), i, -1})
		case "mon":
			p := ParseProperties(a.Value, "chardev")
			m := monitor{p.Get("mode") == "control", "", i, args.chardev(p.Get("chardev"))}
			if m.chardev >= 0 {
				c := ParseProperties(args[m.chardev].Value, "backend")
				if c.Get("backend") == "socket" && isOn(c, "server") {
					m.Path = c.Get("path")
				}
			}
			found = append(found, m)
		}
	}
	return found
}

// Monitor is the absolute path of the first QMP server socket that args ask for, or "". Relative paths begin in dir.
func (args Args) Monitor(dir string) string {
	for _, m := range args.Monitors() {
		if m.qmp && m.Path != "" {
			return Absolute(m.Path, dir)
		}
	}
	return ""
}

// Absolute is the absolute path for one that starts in dir or, if dir is empty, in this process's directory.
func Absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	if dir != "" {
		return filepath.Join(dir, path)
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// serverPath takes the path out of "unix:PATH,server=on,...".
func serverPath(value string) string {
	rest, ok := strings.CutPrefix(value, "unix:")
	if !ok {
		return ""
	}
	p := ParseProperties(rest, "path")
	if !isOn(p, "server") {
		return ""
	}
	return p.Get("path")
}

// isOn reports whether a switch is on; a bare name sets a switch too.
func isOn(p Properties, key string) bool {
	v := p.Get(key)
	return v == "on" || v == "yes" || v == "true"
}

func (args Args) chardev(id string) int {
	for i, a := range args {
		if a.Name == "chardev" && ParseProperties(a.Value, "backend").Get("id") == id {
			return i
		}
	}
	return -1
}

// WithoutQMP returns args without QMP monitors and the character devices that serve them.
func (args Args) WithoutQMP() Args {
	drop := map[int]bool{}
	for _, m := range args.Monitors() {
		if m.qmp {
			drop[m.index], drop[m.chardev] = true, true
		}
	}
	var out Args
	for i, a := range args {
		if !drop[i] {
			out = append(out, a)
		}
	}
	return out
}

// MemorySize is the value of -m in bytes, and whether the option is there; QEMU's default is 128 MiB, its unit MiB.
func (args Args) MemorySize() (size int64, given bool, err error) {
	size = 128 << 20
	for _, a := range args {
		if a.Name != "m" {
			continue
		}
		v := ParseProperties(a.Value, "size").Get("size")
		if v == "" {
			continue
		}
		if size, err = parseSize(v); err != nil {
			return 0, true, fmt.Errorf("cannot read the memory size in -m %s", a.Value)
		}
		given = true
	}
	return size, given, nil
}

func parseSize(s string) (int64, error) {
	if _, err := strconv.ParseInt(s, 10, 64); err == nil {
		s += "M"
	}
	n, err := units.RAMInBytes(s)
	if err == nil && (n <= 0 || n > MaxBlockSize) {
		err = strconv.ErrRange
	}
	return n, err
}

// FreeID is an id that no option has: the given one, with a number behind it if necessary.
func (args Args) FreeID(id string) string {
	words := strings.Join(args.Words(), ",") + ","
	taken := func(id string) bool {
		return strings.Contains(words, "id="+id+",") || strings.Contains(words, `"`+id+`"`)
	}
	free := id
	for n := 1; taken(free); n++ {
		free = fmt.Sprint(id, n)
	}
	return free
}

// IsQEMU reports whether a file name is that of a QEMU system emulator. Red Hat's is qemu-kvm.
func IsQEMU(name string) bool { return strings.HasPrefix(name, "qemu-system-") || name == "qemu-kvm" }

// SplitCommand divides a command at the word that is a QEMU. The words before it (nice -n 5, env, ip netns exec NAME)
// run QEMU. A command that begins with an option has no program. If no word is known to be a QEMU the first one is
// taken for it.
func SplitCommand(words []string) (wrapper []string, program string, args []string) {
	if len(words) == 0 || strings.HasPrefix(words[0], "-") {
		return nil, "", words
	}
	for i, w := range words {
		if IsQEMU(filepath.Base(w)) {
			return words[:i], w, words[i+1:]
		}
	}
	return nil, words[0], words[1:]
}
