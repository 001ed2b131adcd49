// SPDX-License-Identifier: Apache-2.0

package migration

import "github.com/ramjet-vm/ramjet/qmp"

// Address is the place that a migration goes to or comes from.
type Address struct {
	Transport string // file, socket, exec or rdma; only a file has the other fields
	Path      string // of the file; /dev/fdset/N for a descriptor set
	Offset    uint64 // of the stream in the file, in bytes; it may be larger than files allow
}

// File names the address in a Report.
func (a Address) File() string {
	if a.Transport == "file" {
		return a.Path
	}
	return a.Transport + ":"
}

// Target is the part of the arguments of migrate and migrate-incoming that gives the address.
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

// Address returns the target's address, or the error of QEMU's qmp_migrate or qmp_migrate_incoming.
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
