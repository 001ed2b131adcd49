// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// What the guest does while it is saved live, and what the target takes.
const (
	liveDirt  = 10     // MiB/s
	liveLimit = "300M" // bytes/s
)

// busy measures a save, with these flags and onto a target that is limited, of a guest that dirties memory all the time.
func busy(flags ...string) measure {
	return func(ctx context.Context, b *bench) (s Sample, err error) {
		v, err := b.guest(ctx, vm.Memfd)
		if err != nil {
			return s, err
		}
		if err := v.Dirty(liveDirt); err != nil {
			return s, err
		}
		defer func() { err = errors.Join(err, v.Dirty(0)) }()
		return saved(append(flags, "--max-bandwidth", liveLimit)...)(ctx, b, v)
	}
}
