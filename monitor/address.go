// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"syscall"

	"github.com/ramjet-vm/ramjet/qmp"
)

// Address is where a migration goes to or comes from.
type Address struct {
	Transport string // file, socket, exec, rdma; only a file is more than a name here
	Path      string // of the file, /dev/fdset/N for a descriptor set
	Offset    uint64 // of the stream in the file, in bytes; may be beyond what files can have
}

// Target is the part of the arguments of migrate and migrate-incoming that says where.
type Target struct {
	URI      *string
	Channels []Channel
}

// Channel is a MigrationChannel of the schema.
type Channel struct {
	Type channelType `json:"channel-type"`
	Addr channelAddr `json:"addr"`
}

type channelType string

func (channelType) Values() []string { return []string{"main", "cpr"} }

// channelAddr is a MigrationAddress, a flat union.
type channelAddr struct {
	Transport transport `json:"transport"`
	file      fileAddr
	socket    socketAddr
	exec      struct {
		Args []string `json:"args"`
	}
	rdma inetAddr
}

type transport string

func (transport) Values() []string { return []string{"socket", "exec", "rdma", "file"} }

func (a *channelAddr) Branch() any {
	switch a.Transport {
	case "file":
		return &a.file
	case "socket":
		return &a.socket
	case "exec":
		return &a.exec
	}
	return &a.rdma
}

type fileAddr struct {
	Filename string `json:"filename"`
	Offset   uint64 `json:"offset"`
}

type inetAddr struct {
	Host    string  `json:"host"`
	Port    string  `json:"port"`
	Numeric *bool   `json:"numeric"`
	To      *uint16 `json:"to"`
	IPv4    *bool   `json:"ipv4"`
	IPv6    *bool   `json:"ipv6"`
	Keep    *bool   `json:"keep-alive"`
	MPTCP   *bool   `json:"mptcp"`
}

type socketAddr struct {
	Type socketType `json:"type"`
	inet inetAddr
	unix struct {
		Path     string `json:"path"`
		Abstract *bool  `json:"abstract"`
		Tight    *bool  `json:"tight"`
	}
	vsock struct {
		CID  string `json:"cid"`
		Port string `json:"port"`
	}
	fd struct {
		Str string `json:"str"`
	}
}

type socketType string

func (socketType) Values() []string { return []string{"inet", "unix", "vsock", "fd"} }

func (s *socketAddr) Branch() any {
	switch s.Type {
	case "inet":
		return &s.inet
	case "unix":
		return &s.unix
	case "vsock":
		return &s.vsock
	}
	return &s.fd
}

// schemes are those of URIs and the transports that they mean (migrate_uri_parse).
var schemes = map[string]string{
	"exec": "exec", "rdma": "rdma", "tcp": "socket", "unix": "socket", "vsock": "socket", "fd": "socket", "file": "file",
}

// Address finds out where, with the errors of QEMU's qmp_migrate, or of its qmp_migrate_incoming.
func (t Target) Address(incoming bool) (Address, error) {
	if (t.URI == nil) == (len(t.Channels) == 0) {
		return Address{}, qmp.Errorf("need either 'uri' or 'channels' argument")
	}
	if t.URI != nil {
		return ParseURI(*t.URI)
	}
	if incoming && len(t.Channels) > 1 {
		return Address{}, qmp.Errorf("Channel list must have only one entry, for type 'main'")
	}
	var main *Channel
	for i := range t.Channels {
		c := &t.Channels[i]
		if c.Type != "main" {
			continue
		}
		if main != nil {
			return Address{}, qmp.Errorf("Channel list has more than one main entry")
		}
		main = c
	}
	if main == nil {
		return Address{}, qmp.Errorf("Channel list has no main entry")
	}
	a := Address{Transport: string(main.Addr.Transport)}
	if a.Transport == "file" {
		a.Path, a.Offset = main.Addr.file.Filename, main.Addr.file.Offset
	}
	return a, nil
}

// ParseURI takes a migration URI apart.
func ParseURI(uri string) (Address, error) {
	scheme, rest, ok := strings.Cut(uri, ":")
	transport := schemes[scheme]
	if !ok || transport == "" {
		return Address{}, qmp.Errorf("unknown migration protocol: %s", uri)
	}
	if transport != "file" {
		return Address{Transport: transport}, nil
	}
	path, size, ok := strings.Cut(rest, ",offset=")
	a := Address{Transport: "file", Path: path}
	if !ok {
		return a, nil
	}
	n, err := parseSize(size)
	if err != nil {
		text := map[error]string{syscall.EINVAL: "Invalid argument", syscall.ERANGE: "Numerical result out of range"}[err]
		return Address{}, qmp.Errorf("file URI has bad offset %s: %s", size, text)
	}
	a.Offset = n
	return a, nil
}

// parseSize is QEMU's qemu_strtosz: a decimal number, with a fraction where a suffix gives it meaning, or a hexadecimal
// one without a suffix. The error is EINVAL or ERANGE.
func parseSize(s string) (uint64, error) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	minus := strings.HasPrefix(s, "-")
	if minus || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	if len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X") && !minus {
		n, err := strconv.ParseUint(s[2:], 16, 64)
		return n, sizeError(err)
	}
	whole, rest := digits(s)
	fraction := ""
	if strings.HasPrefix(rest, ".") {
		fraction, rest = digits(rest[1:])
	}
	if whole == "" && fraction == "" {
		return 0, syscall.EINVAL
	}
	if minus {
		if whole == s {
			return 0, syscall.ERANGE
		}
		return 0, syscall.EINVAL
	}
	shift := uint(0)
	if rest != "" {
		k := strings.Index("BKMGTPE", strings.ToUpper(rest[:1]))
		if k < 0 || len(rest) > 1 {
			return 0, syscall.EINVAL
		}
		shift = uint(10 * k)
	}
	n, err := strconv.ParseUint("0"+whole, 10, 64)
	if err != nil {
		return 0, sizeError(err)
	}
	part, _ := strconv.ParseFloat("0."+fraction+"0", 64)
	if part > 0 && shift == 0 {
		return 0, syscall.EINVAL
	}
	if n > math.MaxUint64>>shift {
		return 0, syscall.ERANGE
	}
	return n<<shift + uint64(part*float64(uint64(1)<<shift)), nil
}

// digits splits s behind the digits that it begins with.
func digits(s string) (number, rest string) {
	rest = strings.TrimLeft(s, "0123456789")
	return s[:len(s)-len(rest)], rest
}

func sizeError(err error) error {
	switch {
	case errors.Is(err, strconv.ErrRange):
		return syscall.ERANGE
	case err != nil:
		return syscall.EINVAL
	}
	return nil
}
