// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/directio"
)

// punch makes [off, off+n) of the channel's file read as zeros, and take no disk where the file system can do that.
func (c *channel) punch(off, n int64) error {
	err := c.file.Punch(off, n)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return c.writeZeros(off, n)
	}
	return err
}

func (c *channel) writeZeros(off, n int64) error {
	zeros, err := directio.NewBuffer(int(min(n, 64<<10)))
	if err != nil {
		return err
	}
	defer zeros.Free()
	for n > 0 {
		k := min(n, int64(len(zeros)))
		if _, err := c.file.WriteAt(zeros[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}
