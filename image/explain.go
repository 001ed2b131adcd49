// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DiskFull replaces errors of a full disk or quota by one that says what to do, without the place of the write that failed.
func DiskFull(err error, path string) error {
	errno := unix.ENOSPC
	if errors.Is(err, unix.EDQUOT) {
		errno = unix.EDQUOT
	}
	full := fmt.Errorf("%s: %w: make room in %s, or save elsewhere", path, errno, filepath.Dir(path))
	for _, other := range parts(err) {
		if !errors.Is(other, errno) {
			full = errors.Join(full, other)
		}
	}
	return full
}

// Interrupted returns why ctx ended if err has no other cause, without what was being waited for; else err.
func Interrupted(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil || err == nil {
		return err
	}
	for _, part := range parts(err) {
		if !errors.Is(part, cause) && !errors.Is(part, context.Canceled) {
			return err
		}
	}
	return cause
}

// parts are the errors that were joined into err.
func parts(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || !strings.Contains(err.Error(), "\n") {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, parts(e)...)
	}
	return all
}
