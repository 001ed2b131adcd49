// SPDX-License-Identifier: Apache-2.0

// Package vmstate writes and reads what surrounds the guest's memory in a QEMU migration stream: the header, the
// configuration, sections and their footers, the end, and QEMU's own description of its device state.
//
// It knows nothing of memory pages; package mappedram puts those between the pieces made here. All integers are
// big-endian. A stream is (QEMU migration/savevm.c):
//
//	0   51 45 56 4d            "QEVM"
//	4   be32                   version, always 3
//	8   07                     configuration; absent where the machine has send-configuration=off
//	9   be32, bytes            length of the machine type's name, the name ("pc-i440fx-10.0")
//	    05 u8 name be32 ...    subsections of the configuration, in this order, each optional:
//	                             configuration/target-page-bits  be32
//	                             configuration/capabilities      be32 count, then u8 length and name of each
//	                             configuration/uuid              16 bytes
//	    elements               each introduced by one byte, see the Type constants
//	    00                     end of the state
//	    06 be32 JSON           description of the device state; absent where the machine suppresses it
//
// An element that is a section has a head, a payload whose length stands nowhere, and a footer:
//
//	01 START, 04 FULL          be32 section id, u8 length and name, be32 instance, be32 version
//	02 PART,  03 END           be32 section id
//	7e                         footer: be32 section id
//	08 COMMAND                 be16 command, be16 length, bytes; has no footer
//
// What the package promises: everything read is taken for hostile, every length has a limit that is checked before
// memory is allocated, nothing panics, and what it appends stock QEMU loads.
package vmstate

import (
	"encoding/binary"
	"errors"
)

// The bytes that introduce an element of a stream (QEMU migration/savevm.h).
const (
	TypeEOF           = 0x00 // the end of the state
	TypeStart         = 0x01 // first part of a section that comes in parts
	TypePart          = 0x02 // a further part
	TypeEnd           = 0x03 // the last part
	TypeFull          = 0x04 // a section in one piece: a device
	TypeSubsection    = 0x05 // inside a payload: an optional group of fields
	TypeDescription   = 0x06 // after TypeEOF: the description, JSON
	TypeConfiguration = 0x07 // after the version
	TypeCommand       = 0x08 // a message to the loading side
	TypeFooter        = 0x7e // after a section's payload
)

const (
	// Version is the only version of the stream that QEMU 9.0 and later write or load.
	Version = 3
	// MagicSize is the length of magic and version, the bytes that make a file a stream.
	MagicSize = 8
	// RAMName and RAMVersion name the section of guest memory; QEMU insists on this version when it loads.
	RAMName    = "ram"
	RAMVersion = 4
	// RAMEndOfSection ends each part of the RAM section (RAM_SAVE_FLAG_EOS, be64).
	RAMEndOfSection = 0x10
)

// Limits on what is read. They are far above what QEMU writes.
const (
	MaxMachineName  = 256      // bytes; QEMU's own names are below 64
	MaxCapabilities = 64       // entries
	MaxSections     = 1 << 16  // device sections of a stream
	MaxDeviceState  = 1 << 30  // bytes of all device sections together
	MaxDescription  = 16 << 20 // bytes of JSON
	MaxSetup        = 64 << 10 // bytes of Tail.Setup
)

// Errors that callers test for with errors.Is.
var (
	ErrNotStream = errors.New("not a QEMU migration stream")
	ErrVersion   = errors.New("unsupported version of the migration stream")
	ErrCorrupt   = errors.New("the migration stream is damaged")
	ErrTruncated = errors.New("the migration stream is not complete")
	// ErrInParts: a whole stream that has a section in parts besides memory (dirty bitmaps, VFIO, htab).
	ErrInParts       = errors.New("the migration stream cannot be taken apart here")
	ErrNoGlobalState = errors.New("the device state has no section globalstate, which holds the VM's run state")
)

var magic = [4]byte{'Q', 'E', 'V', 'M'}

// Magic returns the first eight bytes of every stream: "QEVM" and the version. A writer that puts them last makes the
// file a stream only when all the rest of it is there.
func Magic() [MagicSize]byte {
	var m [MagicSize]byte
	copy(m[:], magic[:])
	binary.BigEndian.PutUint32(m[4:], Version)
	return m
}

// printable reports whether a name from a stream may be shown and stored: not empty, no control characters. QEMU's
// own names are ASCII, but an object's id may hold other bytes.
func printable(name []byte) bool {
	for _, c := range name {
		if c < 0x20 || c == 0x7f {
			return false
		}
	}
	return len(name) > 0
}
