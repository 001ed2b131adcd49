// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/json"
	"fmt"
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

// Args is a QEMU command line taken apart (system/vl.c, lookup_opt). The order matters to QEMU and is kept.
type Args []Arg

// withoutValue are the options that take none (qemu-options.hx).
var withoutValue = map[string]bool{}

func init() {
	for _, n := range strings.Fields(`h help version snapshot no-fd-bootchk no-reboot no-shutdown S daemonize nographic
		nodefaults no-user-config nouserconfig no-acpi no-hpet win2k-hack singlestep one-insn-per-tb enable-kvm mem-prealloc portrait
		enable-sync-profile preconfig only-migratable full-screen usb semihosting old-param xen-attach
		xen-domid-restrict s no-quit ctrl-grab alt-grab curses no-frame`) {
		withoutValue[n] = true
	}
}

// ParseArgs takes a command line, without the program's name, apart. Anything QEMU may know and we
// do not is passed on as it is.
func ParseArgs(words []string) Args {
	var args Args
	for i := 0; i < len(words); i++ {
		w := words[i]
		if !strings.HasPrefix(w, "-") || w == "-" {
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

// Words is the command line again.
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

// Without leaves out the options of these names.
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

// With adds an option at the end.
func (args Args) With(name, value string) Args {
	return append(slices.Clip(args), Arg{Name: name, Value: value, HasValue: true})
}

// Properties are the parts of an option's value: "first,key=value,..." (a comma within is doubled),
// or a JSON object of which only plain members are seen.
type Properties struct {
	first string
	keys  []string
	vals  map[string]string
}

// ParseProperties reads an option's value. The first part, if it is no key=value, is
// the value of implied: "qom-type" for -object, say.
func ParseProperties(value, implied string) Properties {
	p := Properties{vals: map[string]string{}}
	if strings.HasPrefix(strings.TrimSpace(value), "{") {
		var m map[string]any
		if json.Unmarshal([]byte(value), &m) == nil {
			for k, v := range m {
				p.Set(k, jsonScalar(v))
			}
			slices.Sort(p.keys)
			return p
		}
	}
	for i, part := range splitCommas(value) {
		k, v, ok := strings.Cut(part, "=")
		switch {
		case ok:
			p.Set(k, v)
		case i == 0:
			p.Set(implied, part)
		default:
			p.Set(part, "on")
		}
	}
	return p
}

func jsonScalar(v any) string {
	switch v := v.(type) {
	case bool:
		return map[bool]string{true: "on", false: "off"}[v]
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case string:
		return v
	}
	return fmt.Sprint(v)
}

// splitCommas splits at single commas; two are one that is meant (QEMU get_opt_value).
func splitCommas(s string) []string {
	const held = "\x00"
	parts := strings.Split(strings.ReplaceAll(s, ",,", held), ",")
	for i := range parts {
		parts[i] = strings.ReplaceAll(parts[i], held, ",")
	}
	return parts
}

// Get returns a property or "".
func (p Properties) Get(key string) string { return p.vals[key] }

// Set adds or changes a property.
func (p *Properties) Set(key, value string) {
	if _, ok := p.vals[key]; !ok {
		p.keys = append(p.keys, key)
	}
	p.vals[key] = value
}

// Delete takes properties out.
func (p *Properties) Delete(keys ...string) {
	for _, k := range keys {
		delete(p.vals, k)
	}
	p.keys = slices.DeleteFunc(p.keys, func(k string) bool { return slices.Contains(keys, k) })
}

// String writes them as key=value, the implied key's value first and bare.
func (p Properties) String(implied string) string {
	parts := []string{}
	if v, ok := p.vals[implied]; ok {
		parts = append(parts, Double(v))
	}
	for _, k := range p.keys {
		if k != implied {
			parts = append(parts, k+"="+Double(p.vals[k]))
		}
	}
	return strings.Join(parts, ",")
}

// Double writes a text as part of an option's value, where a comma is doubled.
func Double(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// monitor is one that a command line asks for.
type monitor struct {
	qmp     bool
	path    string // of a Unix socket it serves; "" if it is something else
	index   int    // of the option
	chardev int    // index of the -chardev that it uses, or -1
}

// monitors finds the -qmp, -qmp-pretty, -monitor and -mon options.
func (args Args) monitors() []monitor {
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
					m.path = c.Get("path")
				}
			}
			found = append(found, m)
		}
	}
	return found
}

// Monitor is the absolute path of the first QMP server socket that args ask for, or "".
func (args Args) Monitor(dir string) string {
	path, err := CommandLine{Args: args.Words(), Dir: dir}.monitorSocket()
	if err != nil {
		return ""
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

// isOn reads a switch, which a bare name sets too.
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

// withoutQMP leaves out every QMP monitor with the chardev that serves it.
func (args Args) withoutQMP() Args {
	drop := map[int]bool{}
	for _, m := range args.monitors() {
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

// MemorySize is what -m says, in bytes; QEMU's default is 128 MiB, its unit MiB.
func (args Args) MemorySize() (int64, error) {
	size := int64(128 << 20)
	for _, a := range args {
		if a.Name != "m" {
			continue
		}
		v := ParseProperties(a.Value, "size").Get("size")
		if v == "" {
			continue
		}
		n, err := parseSize(v)
		if err != nil {
			return 0, fmt.Errorf("cannot read the memory size in -m %s", a.Value)
		}
		size = n
	}
	return size, nil
}

func parseSize(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n << 20, nil
	}
	return units.RAMInBytes(s)
}
