// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Kind is the kind of an Exclusive. It decides how to find out whether somebody has it.
type Kind int

// Kinds of Exclusives. Who has one of OtherKind shows only in the command lines of other QEMUs.
const (
	OtherKind      Kind = iota
	SocketKind          // Name is the path of a Unix socket that is listened on
	TCPKind             // Name is HOST:PORT, the host possibly empty
	UDPKind             // the same
	MemoryFileKind      // Name is the path of a file, or of a directory for files without names, that is mapped shared
	FileKind            // Name is the path of a file that is written
	DeviceFileKind      // Name is the path of a device of the host that one process at a time can use
	DiskKind            // Name is the path of a disk image that is written
	RemoteDiskKind      // Name is the address of a disk that is written and is no file of this host
)

// Exclusive is something that a command line asks for and that only one QEMU at a time can have.
type Exclusive struct {
	What string // "port 2222 of this host (tcp)", "the socket /run/vm.qmp"
	Arg  Arg    // that asks for it
	Kind Kind
	Name string // see Kind
	Disk Disk   // of a DiskKind or RemoteDiskKind
}

// exclusives collects them.
type exclusives struct {
	args  Args
	dir   string // what relative paths start from
	arg   Arg
	found []Exclusive
}

// Exclusive finds them: ports and sockets that are listened on, files and disks that are written, devices of the host.
// Files written by -trace, -audiodev and the like do no harm when two write them, and are not looked for.
func (args Args) Exclusive(dir string) []Exclusive {
	e := &exclusives{args: args, dir: dir}
	for _, a := range args {
		e.arg = a
		e.option(a)
	}
	for _, d := range args.allDisks() {
		if d.ReadOnly || d.Shared {
			continue
		}
		e.arg = args[d.Arg]
		if d.remote {
			e.add(RemoteDiskKind, d.Path, "the disk %s, which is written", blankURLs(blankValue("drive", d.Path)))
		} else {
			e.add(DiskKind, e.path(d.Path), "the disk image %s, which is written", e.path(d.Path))
		}
		e.found[len(e.found)-1].Disk = d.Disk
	}
	return e.found
}

func (e *exclusives) add(kind Kind, name, format string, values ...any) {
	e.found = append(e.found, Exclusive{What: fmt.Sprintf(format, values...), Arg: e.arg, Kind: kind, Name: name})
}

func (e *exclusives) socket(path string) {
	e.add(SocketKind, e.path(path), "the socket %s", e.path(path))
}

func (e *exclusives) file(path string) { e.add(FileKind, e.path(path), "the file %s", e.path(path)) }

func (e *exclusives) device(path string) {
	e.add(DeviceFileKind, e.path(path), "the file %s", e.path(path))
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
		e.port("tcp", "", "1234")
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
		e.file(a.Value)
	case "tpmdev":
		if p := ParseProperties(a.Value, "type"); p.Get("type") == "passthrough" {
			path := p.Get("path")
			if path == "" {
				path = "/dev/tpm0"
			}
			e.device(path)
		}
	case "object":
		p := ParseProperties(a.Value, "qom-type")
		disk := e.args.memoryOfDisk(p.Get("id"))
		if p.Get("qom-type") == "memory-backend-file" && isOn(p, "share") && !isOn(p, "readonly") && !disk {
			path := e.path(p.Get("mem-path"))
			e.add(MemoryFileKind, path, "the memory in the file %s", path)
		}
	case "device":
		e.hostDevice(ParseProperties(a.Value, "driver"))
	}
}

func (e *exclusives) hostDevice(p Properties) {
	driver := p.Get("driver")
	if cid := p.Get("guest-cid"); cid != "" {
		e.add(OtherKind, cid, "the vsock address %s", cid)
	}
	for _, key := range []string{"host", "sysfsdev"} {
		if v := p.Get(key); v != "" && strings.HasPrefix(driver, "vfio-") {
			e.add(OtherKind, v, "the host's device %s", v)
		}
	}
	if v := p.Get("hostaddr"); v != "" && driver == "usb-host" {
		e.add(OtherKind, "hostaddr", "the host's USB device %s.%s", p.Get("hostbus"), v)
	}
}

// port takes a port and the address of this host on which it is, which may be empty for all.
func (e *exclusives) port(protocol, host, port string) {
	if port != "" && port != "0" {
		kind := map[string]Kind{"tcp": TCPKind, "udp": UDPKind}[protocol]
		e.add(kind, net.JoinHostPort(strings.Trim(host, "[]"), port), "port %s of this host (%s)", port, protocol)
	}
}

// address is port for "HOST:PORT".
func (e *exclusives) address(protocol, address string) {
	colon := strings.LastIndex(address, ":")
	e.port(protocol, address[:max(colon, 0)], address[colon+1:])
}

// character takes the short form of a character device (qemu_chr_parse_compat).
func (e *exclusives) character(value string) {
	value = strings.TrimPrefix(value, "mon:")
	kind, rest, _ := strings.Cut(value, ":")
	p := ParseProperties(rest, "path")
	switch kind {
	case "unix":
		if isOn(p, "server") {
			e.socket(p.Get("path"))
		}
	case "tcp", "telnet", "websocket", "tn3270":
		if isOn(p, "server") {
			e.address("tcp", p.Get("path"))
		}
	case "udp":
		if _, local, ok := strings.Cut(rest, "@"); ok {
			e.address("udp", local)
		}
	case "file", "pipe":
		e.file(p.Get("path"))
	}
}

func (e *exclusives) chardev(p Properties) {
	if log := p.Get("logfile"); log != "" {
		e.file(log)
	}
	path := p.Get("path")
	switch p.Get("backend") {
	case "socket":
		switch {
		case path != "" && isOn(p, "server"):
			e.socket(path)
		case path != "" && e.args.takesOneClient(p.Get("id")):
			e.add(OtherKind, path, "the server at the socket %s", e.path(path))
		case path == "" && isOn(p, "server"):
			e.port("tcp", p.Get("host"), p.Get("port"))
		}
	case "udp":
		e.port("udp", p.Get("localaddr"), p.Get("localport"))
	case "file", "pipe":
		e.file(path)
	case "serial", "parallel", "tty", "parport":
		e.device(path)
	}
}

// takesOneClient reports whether the server that a chardev connects to serves one VM: swtpm, vhost-user.
func (args Args) takesOneClient(id string) bool {
	return slices.ContainsFunc(args, func(a Arg) bool {
		switch a.Name {
		case "tpmdev", "netdev", "device":
			p := ParseProperties(a.Value, "type")
			kind := p.Get("type") + p.Get("driver")
			return p.Get("chardev") == id && (a.Name == "tpmdev" || strings.Contains(kind, "vhost-user"))
		}
		return false
	})
}

func (e *exclusives) network(value string) {
	p := ParseProperties(value, "type")
	for _, rule := range forwards(value) {
		// [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport, or unix:path-...
		host, _, _ := strings.Cut(rule, "-")
		f := strings.Split(host, ":")
		if f[0] == "unix" {
			e.socket(strings.TrimPrefix(host, "unix:"))
			continue
		}
		protocol := f[0]
		if protocol == "" {
			protocol = "tcp"
		}
		e.address(protocol, strings.TrimPrefix(strings.TrimPrefix(host, f[0]), ":"))
	}
	if name := p.Get("ifname"); name != "" {
		e.add(OtherKind, name, "the network interface %s", name)
	}
	if listen := p.Get("listen"); listen != "" {
		e.address("tcp", listen)
	}
	if p.Get("udp") != "" {
		e.address("udp", p.Get("localaddr"))
	}
	switch {
	case p.Get("type") == "stream" && isOn(p, "server"):
		if path := p.Get("addr.path"); path != "" {
			e.socket(path)
		}
		e.port("tcp", p.Get("addr.host"), p.Get("addr.port"))
	case p.Get("type") == "dgram" && p.Get("remote.host") != "" && p.Get("local.port") != "":
		e.port("udp", p.Get("local.host"), p.Get("local.port"))
	case p.Get("type") == "dgram" && p.Get("local.path") != "":
		e.socket(p.Get("local.path"))
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
		e.socket(path)
		return
	}
	colon := strings.LastIndex(address, ":")
	host := address[:max(colon, 0)]
	display, err := strconv.Atoi(address[colon+1:])
	if err != nil || p.Get("to") != "" || isOn(p, "reverse") {
		return
	}
	e.port("tcp", host, strconv.Itoa(5900+display))
	if p.Get("websocket") == "on" {
		e.port("tcp", host, strconv.Itoa(5700+display))
	} else {
		e.address("tcp", p.Get("websocket"))
	}
}

func (e *exclusives) spice(p Properties) {
	if isOn(p, "unix") {
		e.socket(p.Get("addr"))
		return
	}
	e.port("tcp", p.Get("addr"), p.Get("port"))
	e.port("tcp", p.Get("addr"), p.Get("tls-port"))
}
