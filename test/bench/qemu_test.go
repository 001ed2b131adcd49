// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestQEMUEnds: a QEMU that ends before it greets is an error with what it said, and nobody waits for it.
func TestQEMUEnds(t *testing.T) {
	vm.Need(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b := &bench{Config: Config{Quick: true}}
	l := &load{v: &vm.VM{Program: vm.Program(), Args: []string{"-no-such-option"}}}
	_, err := b.incoming(ctx, l, 0, func(*qmp.Client) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "QEMU ended: exit status 1") || !strings.Contains(err.Error(), "no-such-option") {
		t.Error(err)
	}
}
