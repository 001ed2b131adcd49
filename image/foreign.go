// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/ramjet-vm/ramjet/mappedram"
)

// foreignFormats are kinds of files that people keep beside VM images, by bytes near their beginning.
var foreignFormats = []struct {
	at    int
	magic string
	is    string
}{
	{0, "QFI\xfb", "a qcow2 disk image; the memory of a snapshot inside (savevm) is not a file of its own"},
	{0, "\x7fELF", "an ELF file, a core dump perhaps; ramjet writes those (ramjet export) and does not read them"},
	{0, "KDUMP   ", "a kdump core, as dump-guest-memory writes it"},
	{0, "makedumpfile", "a makedumpfile stream"},
	{0, "PMDM", "a Windows crash dump"},
	{0, "PAGEDU", "a Windows crash dump"},
	{0, "\x1f\x8b", "compressed with gzip: decompress it first"},
	{0, "BZh", "compressed with bzip2: decompress it first"},
	{0, "\xfd7zXZ\x00", "compressed with xz: decompress it first"},
	{0, "\x28\xb5\x2f\xfd", "compressed with zstd: decompress it first"},
	{0, "\x04\x22\x4d\x18", "compressed with lz4: decompress it first"},
	{0, "\x89LZO\x00", "compressed with lzop: decompress it first"},
	{0, "PK\x03\x04", "a zip archive"},
	{257, "ustar", "a tar archive"},
	{0, "age-encryption.org/v1", "a file encrypted with age: ramjet import --identity reads what ramjet export encrypted"},
	{0, "\x00\x00\x64\x86\x84\x19\x10\x07", "the state file of a Firecracker snapshot"},
	{0, "\x64\x86\x84\x19\x10\x07\x00\x00", "the state file of a Firecracker snapshot"},
	{0, "\x00\x00\xaa\xaa\x84\x19\x10\x07", "the state file of a Firecracker snapshot"},
	{0, "LibxlFmt", "a save file of Xen"},
	{0, "XenSavedDomain", "a save file of Xen"},
	{0, "\x7fVirtualBox SavedState", "a saved state of VirtualBox"},
	{0, "\xd2\xbe\xd2\xbe", "a saved state of VMware"},
	{0, "\xd1\xba\xd1\xba", "a saved state of VMware"},
	{0, "\xd0\xbe\xd2\xbe", "a saved state of VMware"},
	{0, "KDMV", "a VMDK disk image"},
	{0, "# Disk DescriptorFile", "a VMDK disk image"},
	{0, "<<< ", "a VDI disk image"},
	{0, "vhdxfile", "a VHDX disk image"},
	{0, "conectix", "a VHD disk image"},
	{0x8001, "CD001", "an ISO 9660 image"},
	{510, "\x55\xaa", "a disk with a boot sector"},
	{0x438, "\x53\xef", "an ext4 file system"},
	{0, "#!", "a script"},
	{0, "{", "a text file, JSON perhaps; Cloud Hypervisor keeps its state in state.json"},
}

// notAnImage adds to the error of opening a file that is no image what the file is, if its beginning shows that.
func notAnImage(r io.ReaderAt, size int64, err error) error {
	if !errors.Is(err, mappedram.ErrNotImage) {
		return err
	}
	if size == 0 {
		return fmt.Errorf("%w: it is empty", mappedram.ErrNotImage)
	}
	b := make([]byte, min(size, 64<<10))
	if n, e := r.ReadAt(b, 0); n < len(b) && e != nil {
		return err
	}
	for _, f := range foreignFormats {
		if len(b) >= f.at+len(f.magic) && string(b[f.at:f.at+len(f.magic)]) == f.magic {
			return fmt.Errorf("%w: it looks like %s", mappedram.ErrNotImage, f.is)
		}
	}
	if bytes.Equal(b, make([]byte, len(b))) {
		return fmt.Errorf("%w: it begins with nothing but zeros, as raw guest memory does (Firecracker, Cloud Hypervisor, pmemsave) or a save that was interrupted", mappedram.ErrNotImage)
	}
	return err
}
