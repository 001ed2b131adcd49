// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Exclusive is something that a command line asks for and that only one QEMU at a time can have.
type Exclusive struct {
	What string // "port 2222 of this host (tcp)", "the socket /run/vm.qmp"
	Arg  Arg    // that asks for it
}

// exclusives collects them.
type exclusives struct {
	args  Args
	dir   string // what relative paths start from
	arg   Arg
	found []Exclusive
}

// Exclusive finds them: ports and sockets that are listened on, files that are written, devices of the host.
// Files written by -trace, -audiodev and the like do no harm when two write them, and are not looked for.
func (args Args) Exclusive(dir string) []Exclusive {
	e := &exclusives{args: args, dir: dir}
	for _, a := range args {
		e.arg = a
		e.option(a)
	}
	for _, d := range args.Disks() {
		if !d.ReadOnly {
			e.arg = args[d.Arg]
			e.add("the disk image %s, which is written", e.path(d.Path))
		}
	}
	return e.found
}

func (e *exclusives) add(format string, values ...any) {
	e.found = append(e.found, Exclusive{fmt.Sprintf(format, values...), e.arg})
}

func (e *exclusives) path(p string) string {
	if filepath.IsAbs(p) || strings.Contains(p, "://") {
		return p
	}
	return filepath.Join(e.dir, p)
}

func (e *exclusives) option(a Arg) {
	switch a.Name {
	case "qmp", "qmp-pretty", "monitor", "serial", "parallel", "debugcon":
		e.character(a.Value)
	case "gdb":
		e.character(a.Value + ",server=on")
	case "s":
		e.port("tcp", "1234")
	case "chardev":
		e.chardev(ParseProperties(a.Value, "backend"))
	case "netdev", "nic", "net":
		e.network(a.Value)
	case "vnc":
		e.vnc(a.Value)
	case "display":
		if v, ok := strings.CutPrefix(a.Value, "vnc="); ok {
			e.vnc(v)
		}
	case "spice":
		e.spice(ParseProperties(a.Value, ""))
	case "pidfile", "D":
		e.add("the file %s", e.path(a.Value))
	case "object":
		p := ParseProperties(a.Value, "qom-type")
		if p.Get("qom-type") == "memory-backend-file" && isOn(p, "share") && !isOn(p, "readonly") {
			e.add("the memory in the file %s", e.path(p.Get("mem-path")))
		}
	case "device":
		p := ParseProperties(a.Value, "driver")
		if cid := p.Get("guest-cid"); cid != "" {
			e.add("the vsock address %s", cid)
		}
		if host := p.Get("host"); host != "" && strings.HasPrefix(p.Get("driver"), "vfio-") {
			e.add("the host's device %s", host)
		}
	}
}

func (e *exclusives) port(protocol, port string) {
	if port != "" && port != "0" {
		e.add("port %s of this host (%s)", port, protocol)
	}
}

// character takes the short form of a character device (qemu_chr_parse_compat).
func (e *exclusives) character(value string) {
	value = strings.TrimPrefix(value, "mon:")
	kind, rest, _ := strings.Cut(value, ":")
	p := ParseProperties(rest, "path")
	switch kind {
	case "unix":
		if isOn(p, "server") {
			e.add("the socket %s", e.path(p.Get("path")))
		}
	case "tcp", "telnet", "websocket", "tn3270":
		if isOn(p, "server") {
			e.port("tcp", p.Get("path")[strings.LastIndex(p.Get("path"), ":")+1:])
		}
	case "udp":
		if _, local, ok := strings.Cut(rest, "@"); ok {
			e.port("udp", local[strings.LastIndex(local, ":")+1:])
		}
	case "file", "pipe":
		e.add("the file %s", e.path(p.Get("path")))
	}
}

func (e *exclusives) chardev(p Properties) {
	if log := p.Get("logfile"); log != "" {
		e.add("the file %s", e.path(log))
	}
	switch p.Get("backend") {
	case "socket":
		switch {
		case !isOn(p, "server"):
		case p.Get("path") != "":
			e.add("the socket %s", e.path(p.Get("path")))
		default:
			e.port("tcp", p.Get("port"))
		}
	case "udp":
		e.port("udp", p.Get("localport"))
	case "file", "pipe", "serial", "parallel":
		e.add("the file %s", e.path(p.Get("path")))
	}
}

func (e *exclusives) network(value string) {
	p := ParseProperties(value, "type")
	for _, rule := range forwards(value) {
		// [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport, or unix:path-...
		host, _, _ := strings.Cut(rule, "-")
		f := strings.Split(host, ":")
		if f[0] == "unix" {
			e.add("the socket %s", e.path(strings.TrimPrefix(host, "unix:")))
			continue
		}
		protocol := f[0]
		if protocol == "" {
			protocol = "tcp"
		}
		e.port(protocol, f[len(f)-1])
	}
	if name := p.Get("ifname"); name != "" {
		e.add("the network interface %s", name)
	}
	if listen := p.Get("listen"); listen != "" {
		e.port("tcp", listen[strings.LastIndex(listen, ":")+1:])
	}
	if p.Get("type") == "stream" && isOn(p, "server") {
		if path := p.Get("addr.path"); path != "" {
			e.add("the socket %s", e.path(path))
		}
		e.port("tcp", p.Get("addr.port"))
	}
}

// forwards are the hostfwd rules, of which an option may have many.
func forwards(value string) (rules []string) {
	if strings.HasPrefix(strings.TrimSpace(value), "{") {
		var v struct {
			HostFwd []struct{ Str string } `json:"hostfwd"`
		}
		if json.Unmarshal([]byte(value), &v) == nil {
			for _, f := range v.HostFwd {
				rules = append(rules, f.Str)
			}
		}
		return rules
	}
	for key, rule := range ParseProperties(value, "type").All() {
		if key == "hostfwd" {
			rules = append(rules, rule)
		}
	}
	return rules
}

// vnc takes "host:display", "unix:path" or "none", with options. With to= QEMU looks for a free display itself.
func (e *exclusives) vnc(value string) {
	p := ParseProperties(value, "vnc")
	address := p.Get("vnc")
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		e.add("the socket %s", e.path(path))
		return
	}
	display, err := strconv.Atoi(address[strings.LastIndex(address, ":")+1:])
	if err != nil || p.Get("to") != "" || isOn(p, "reverse") {
		return
	}
	e.port("tcp", strconv.Itoa(5900+display))
	if p.Get("websocket") == "on" {
		e.port("tcp", strconv.Itoa(5700+display))
	} else {
		e.port("tcp", p.Get("websocket"))
	}
}

func (e *exclusives) spice(p Properties) {
	if isOn(p, "unix") {
		e.add("the socket %s", e.path(p.Get("addr")))
		return
	}
	e.port("tcp", p.Get("port"))
	e.port("tcp", p.Get("tls-port"))
}
