// SPDX-License-Identifier: Apache-2.0

package directio

import (
	"os"

	"golang.org/x/sys/unix"
)

// kind is what a file system's O_DIRECT is worth.
type kind struct {
	direct bool   // it does what one wants of it
	memory bool   // if not direct: there is no other place for the data than the page cache
	probe  bool   // if not direct: only trying tells whether it works
	why    string // half a sentence
}

// fileSystem tells the kind of an f that was opened with O_DIRECT (statfs(2), f_type).
//
// tmpfs takes the flag since Linux 6.6 (shmem_file_open sets FMODE_CAN_ODIRECT) and copies through its page cache all the same.
//
// FUSE takes the flag for every file and hands it to the server with the open (fuse_send_open leaves out O_CREAT, O_EXCL and
// O_NOCTTY only). A server that opens its own file with it, and moves data from buffers of its own alignment, fails with EINVAL
// at the first write, which would be in the pause; virtiofsd drops the flag therefore, unless it has --allow-direct-io. FUSE tells no alignment to go by
// (statx). And each direct request of a reader is waited for before the next is sent (fuse_direct_io), where buffered
// reads are read ahead of. So it is used through the page cache as long as there is memory for that.
//
// NFS has no such flag in its protocol: a client passes its own page cache by and waits for the server, one request after the
// other for each writer (nfs_file_direct_write). open(2) warns that servers may be slow with that, "especially if the I/O size is small", which
// ours is not. Otherwise all of an image lies dirty in this machine's page cache when it is closed, and is written then. Any alignment will do.
//
// overlayfs hands the flag on to the file below, or refuses it as that does (ovl_open_realfile, ovl_change_flags), and so it does with
// statx. That tells apart what is below, whose type statfs does not show: ext4, xfs, btrfs and f2fs name an alignment,
// tmpfs does not.
func fileSystem(f *os.File) kind {
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil {
		return kind{direct: true, why: "the file takes direct I/O"}
	}
	switch uint32(st.Type) {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.HUGETLBFS_MAGIC:
		return kind{memory: true, why: "the file is in memory"}
	case unix.FUSE_SUPER_MAGIC:
		return kind{probe: true, why: "what direct I/O does on FUSE is up to its server"}
	case unix.NFS_SUPER_MAGIC:
		return kind{direct: true, why: "NFS takes direct I/O, past this machine's page cache"}
	case unix.OVERLAYFS_SUPER_MAGIC:
		if _, known := ProbeAlignment(f); !known {
			return kind{why: "the file system below the overlay does not say what direct I/O asks for, it may be memory"}
		}
		return kind{direct: true, why: "the file below the overlay takes direct I/O"}
	}
	return kind{direct: true, why: "the file takes direct I/O"}
}
