// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/migration"
	"github.com/ramjet-vm/ramjet/qmp"
)

// The types of memory backends, as QEMU's objects have them. In QEMU a device makes a backend part of the guest; here a
// backend is guest memory at once, as there are no devices.
const (
	memfdType = "memory-backend-memfd"
	fileType  = "memory-backend-file"
)

type objectType string

func (objectType) Values() []string { return []string{memfdType, fileType} }

// objectArgs are the arguments of object-add. Some are accepted and have no effect.
type objectArgs struct {
	Type  objectType `json:"qom-type"`
	ID    string     `json:"id"`
	memfd memfdArgs
	file  fileArgs
}

func (a *objectArgs) Branch() any {
	if a.Type == fileType {
		return &a.file
	}
	return &a.memfd
}

type memfdArgs struct {
	Dump     *bool  `json:"dump"`
	Merge    *bool  `json:"merge"`
	Prealloc *bool  `json:"prealloc"`
	Reserve  *bool  `json:"reserve"`
	Share    *bool  `json:"share"`
	Size     uint64 `json:"size"`
	Seal     *bool  `json:"seal"`
}

type fileArgs struct {
	Dump     *bool   `json:"dump"`
	Merge    *bool   `json:"merge"`
	Prealloc *bool   `json:"prealloc"`
	Reserve  *bool   `json:"reserve"`
	Share    *bool   `json:"share"`
	Size     uint64  `json:"size"`
	Align    *uint64 `json:"align"`
	Offset   *uint64 `json:"offset"`
	Discard  *bool   `json:"discard-data"`
	Path     string  `json:"mem-path"`
	ReadOnly *bool   `json:"readonly"`
}

func (m *Monitor) objectAdd(_ context.Context, r *qmp.Request) (any, error) {
	var args objectArgs
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	if !validID(args.ID) {
		return nil, qmp.Errorf("Parameter 'id' expects an identifier")
	}
	p := &piece{name: args.ID, kind: string(args.Type), size: int64(args.memfd.Size)}
	if args.Type == fileType {
		p.size = int64(args.file.Size)
		if o := args.file.Offset; o != nil {
			p.offset = int64(*o)
		}
	}
	if p.size == 0 {
		return nil, qmp.Errorf("property 'size' of %s doesn't take value '0'", p.kind)
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	if m.migrating() {
		return nil, qmp.Errorf("There's a migration process in progress")
	}
	var err error
	if args.Type == fileType {
		p.file, err = m.openBacking(args.file)
		p.writable = args.file.ReadOnly == nil || !*args.file.ReadOnly
	} else {
		p.file, err = memfd(p.name, p.size)
		p.writable = true
	}
	if err != nil {
		return nil, err
	}
	if err := p.backed(); err != nil {
		p.file.Close()
		return nil, err
	}
	if err := m.memory.add(p); err != nil {
		if errors.Is(err, errDuplicate) {
			err = qmp.Errorf("attempt to add duplicate property '%s' to object (type 'container')", p.name)
		}
		return nil, err
	}
	return nil, nil
}

// Check refuses sizes and offsets that are not whole pages, or more than there can be.
func (p *piece) Check() error {
	const page = guestmem.PageSize
	switch {
	case p.size < 0 || p.size > maxMemory || p.offset < 0 || p.offset > maxMemory:
		return qmp.Errorf("memory '%s' would go beyond %d bytes", p.name, int64(maxMemory))
	case p.offset%page != 0:
		return qmp.Errorf("offset 0x%x must be multiples of page size 0x%x", p.offset, page)
	case p.size%page != 0:
		return p.tooSmall(p.size, (p.size+page-1)/page*page)
	}
	return nil
}

func (p *piece) tooSmall(have, want int64) error {
	return qmp.Errorf("%s backing store size 0x%x is too small for 'size' option 0x%x plus 'offset' option 0x%x", p.name, have, want, p.offset)
}

// backed refuses a file that is shorter than the memory: access beyond its end would fail much later.
func (p *piece) backed() error {
	st, err := p.file.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return qmp.Errorf("memory '%s' needs a regular file or a memfd", p.name)
	}
	if st.Size() < p.offset+p.size {
		return p.tooSmall(st.Size(), p.size)
	}
	return nil
}

// openBacking opens the file of a memory-backend-file: from a descriptor set, which QEMU does not support here, or by
// its path where paths are allowed.
func (m *Monitor) openBacking(args fileArgs) (*os.File, error) {
	if args.Share == nil || !*args.Share {
		return nil, qmp.Errorf("memory that is not shared would be lost with this process: use share=true")
	}
	o, err := m.out.Files.Opener(args.Path)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDWR
	if args.ReadOnly != nil && *args.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := o.Open(flags)
	var no unix.Errno
	if errors.As(err, &no) && strings.HasPrefix(err.Error(), "Could not open") {
		err = qmp.Errorf("can't open backing store %s for guest RAM: %s", args.Path, migration.Strerror(no))
	}
	return f, err
}

func (m *Monitor) objectDel(_ context.Context, r *qmp.Request) (any, error) {
	var args struct {
		ID string `json:"id"`
	}
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	m.memory.mu.Lock()
	defer m.memory.mu.Unlock()
	i := m.memory.Find(args.ID)
	switch {
	case i < 0:
		return nil, qmp.Errorf("object '%s' not found", args.ID)
	case m.memory.pieces[i].fixed, m.migrating():
		return nil, qmp.Errorf("object '%s' is in use, can not be deleted", args.ID)
	}
	m.memory.pieces[i].file.Close()
	m.memory.pieces = slices.Delete(m.memory.pieces, i, i+1)
	return nil, nil
}

// property is an element of qom-list's answer.
type property struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

func (m *Monitor) qomList(_ context.Context, r *qmp.Request) (any, error) {
	var args struct {
		Path string `json:"path"`
	}
	if err := r.Args(&args); err != nil {
		return nil, err
	}
	m.memory.mu.Lock()
	defer m.memory.mu.Unlock()
	path := strings.Trim(args.Path, "/")
	if path == "" {
		return []property{{"type", "string"}, {"objects", "child<container>"}}, nil
	}
	name, in := strings.CutPrefix(path, "objects/")
	switch {
	case path == "objects":
		list := []property{{"type", "string"}}
		for _, p := range m.memory.pieces {
			list = append(list, property{p.name, "child<" + p.kind + ">"})
		}
		return list, nil
	case in && m.memory.Find(name) >= 0:
		return []property{{"type", "string"}, {"share", "bool"}, {"size", "int"}}, nil
	}
	return nil, &qmp.Error{Class: qmp.DeviceNotFound, Desc: "Device '" + args.Path + "' not found"}
}
