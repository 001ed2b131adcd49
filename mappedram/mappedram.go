// SPDX-License-Identifier: Apache-2.0

// Package mappedram is the image of a virtual machine: QEMU's mapped-ram migration file, laid out, written and read.
//
// In such a file every page of guest memory has a fixed place, so that many channels can write and read it at once, in
// any order, with O_DIRECT, and so that the memory can be mapped from it. An image that this package wrote stock QEMU
// loads (9.0 and later, capability mapped-ram), and the package reads what QEMU and libvirt write.
//
// Layout. Integers are big-endian, bitmaps little-endian; offsets in headers are those of the file, not of the stream,
// so an image cannot be moved to another offset. The stream may begin anywhere in the file:
//
//	header                         package vmstate; with capability mapped-ram
//	[FULL sections]                devices that QEMU loads before memory; see Layout.Early
//	01 be32 03 "ram" be32 0 be32 4 START of the section "ram", version 4
//	be64                           sum of all blocks' lengths | 4 (RAM_SAVE_FLAG_MEM_SIZE)
//	then for each block, one behind the other:
//	    u8 name                    length of the name, the name                      <- Block.HeaderOffset
//	    be64                       length of the block
//	    [be64]                     guest-physical address; only with capability x-ignore-shared
//	    be32 1                     version of the mapped-ram header
//	    be64 4096                  page size
//	    be64                       offset of the bitmap, which is right behind this header
//	    be64                       offset of the pages: the bitmap's end, rounded up to 1 MiB
//	    bitmap                     bit i (byte i/8, bit i%8) set: page i counts      <- Block.BitmapOffset
//	    ...                        nothing, a hole
//	    pages                      page i at i*4096; as long as the block            <- Block.PagesOffset
//	be64 10, footer ...            the end of memory, then devices: vmstate.Tail     <- Layout.RAMEnd
//	                               (before the parts of the section "ram": Layout.Setup)
//	[seal]                         package seal; only in sealed images
//
// A block that both sides share (x-ignore-shared) has both offsets 0, no bitmap and no pages.
//
// A page whose bit is clear is zero in a whole image, and as in the base in a diff; what the file holds in its place
// does not count. A page that became zero is in a diff with its bit set and a hole in its place.
//
// What the package promises: everything read is hostile until it is checked; no length is believed beyond the file's
// size; errors that mean "this file is no good" all match ErrImage, errors of the disk do not.
package mappedram

// imageError is a sentinel that also matches ErrImage.
type imageError string

func (e imageError) Error() string { return string(e) }

// Is makes each sentinel of this package match ErrImage too.
func (e imageError) Is(target error) bool { return target == ErrImage }

// ErrImage matches every error that says that a file is damaged, incomplete or not an image, whatever the reason.
const ErrImage = imageError("not a usable image")

// What is wrong with a file. Test with errors.Is.
const (
	// ErrNotImage: the file holds no migration stream.
	ErrNotImage = imageError("not an image of a virtual machine")
	// ErrDamaged: a value in the file cannot be right.
	ErrDamaged = imageError("the image is damaged")
	// ErrIncomplete: the file is the beginning of an image; the save did not end or the file was cut.
	ErrIncomplete = imageError("the image is not complete")
	// ErrPlainStream: a migration stream in which pages have no fixed place.
	ErrPlainStream = imageError("the file is a migration stream without mapped-ram")
	// ErrNewer: the file needs a newer program.
	ErrNewer = imageError("the image's format is newer than this program")
	// ErrUnsupported: a valid file of a kind that this program does not handle.
	ErrUnsupported = imageError("the image is of a kind that this program does not handle")
)

const (
	// PageSize is the only size of pages for now: that of x86 and of most other targets. It is the unit of bitmaps, not
	// of huge pages, which are stored as so many small ones.
	PageSize = 4096
	// Alignment of each block's pages in the file (QEMU: MAPPED_RAM_FILE_OFFSET_ALIGNMENT).
	Alignment = 1 << 20
	// HeaderVersion is the version of the mapped-ram header that QEMU 9.0 to 11 write.
	HeaderVersion = 1
	// DefaultSectionID is the id of the section "ram" in images that this package lays out. It must not be 0: in QEMU
	// every device that is not yet loaded has the id 0, and the end of the section would go to one of those.
	DefaultSectionID = 1
)

// Limits on what is read and written.
const (
	MaxBlocks      = 4096
	MaxBlockLength = 1 << 43 // bytes, 8 TiB: a bitmap of 256 MiB
	MaxEarly       = 1 << 20 // bytes of sections before the memory
)

const (
	capMappedRAM    = "mapped-ram"
	capIgnoreShared = "x-ignore-shared"

	headerSize = 28   // mapped-ram header of a block
	flagSize   = 0x04 // RAM_SAVE_FLAG_MEM_SIZE
	flagMask   = 0xfff
)
