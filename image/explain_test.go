// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDiskFull (issue 16, section 3): a full disk has a plain sentence.
func TestDiskFull(t *testing.T) {
	write := fmt.Errorf("block pc.ram: write 266240 bytes at 65536 of /d/(unfinished): %w", unix.ENOSPC)
	for _, c := range []struct {
		err  error
		want string
	}{
		{write, "/d/image: no space left on device: make room in /d, or save elsewhere"},
		{errors.Join(write, nil), "/d/image: no space left on device: make room in /d, or save elsewhere"},
		{fmt.Errorf("x: %w", unix.EDQUOT), "/d/image: disk quota exceeded: make room in /d, or save elsewhere"},
		{errors.Join(write, errors.New("the VM does not go on")), "/d/image: no space left on device: make room in /d, or save elsewhere\nthe VM does not go on"},
	} {
		if got := DiskFull(c.err, "/d/image"); got.Error() != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestInterrupted (issue 16, section 3): what was being waited for when the user ended it is not told, anything else is.
func TestInterrupted(t *testing.T) {
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(context.Background())
	waiting := fmt.Errorf("cannot ask for the RAM blocks: %w", cause)
	if err := Interrupted(ctx, waiting); err != waiting {
		t.Errorf("before: %v", err)
	}
	cancel(cause)
	other := errors.New("the VM does not go on")
	for _, c := range []struct{ err, want error }{
		{waiting, cause}, {errors.Join(waiting, fmt.Errorf("x: %w", context.Canceled)), cause}, {other, other}, {nil, nil},
	} {
		if got := Interrupted(ctx, c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	if got := Interrupted(ctx, errors.Join(waiting, other)); got == nil || !strings.Contains(got.Error(), other.Error()) {
		t.Errorf("with something else: %v", got)
	}
}
