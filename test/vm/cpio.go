// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"io"
)

// cpioWriter writes an archive in the "newc" format, which is what the kernel
// unpacks as its first file system (Documentation/driver-api/early-userspace/
// buffer-format.rst): for each file
//
//	"070701"                     magic
//	13 numbers, 8 hex digits     ino mode uid gid nlink mtime filesize
//	                             devmajor devminor rdevmajor rdevminor namesize check
//	name, NUL, padding to 4
//	data, padding to 4
//
// and a file named TRAILER!!! at the end.
type cpioWriter struct {
	w   io.Writer
	ino int
	err error
}

const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
)

// add writes one entry; major and minor are for device nodes.
func (c *cpioWriter) add(name string, mode uint32, data []byte, major, minor int) {
	c.ino++
	c.print(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name))
	c.print(data)
}

// print writes b and pads it to 4 bytes.
func (c *cpioWriter) print(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(append(b, make([]byte, -len(b)&3)...))
	}
}

// close ends the archive.
func (c *cpioWriter) close() error {
	c.add("TRAILER!!!", 0, nil, 0, 0)
	return c.err
}
