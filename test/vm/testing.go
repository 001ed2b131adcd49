// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"os"
	"strings"
	"time"
)

// TB is what this package needs of a *testing.T, so that programs that use the
// package do not link the testing package.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Cleanup(func())
	Failed() bool
}

// Long reports whether the tests are to be thorough (RAMJET_LONG=1, make soak), not only quick enough for every change.
func Long() bool { return os.Getenv("RAMJET_LONG") != "" }

// Need skips the test where there is no QEMU, saying why; where there has to be
// one, because RAMJET_NEED_QEMU=1 says so, it fails the test.
func Need(t TB) {
	t.Helper()
	if err := Available(); err != nil {
		if os.Getenv("RAMJET_NEED_QEMU") == "1" {
			t.Fatalf("no guest can be started: %v", err)
		}
		t.Skipf("no guest can be started: %v", err)
	}
}

// BootTimeout bounds Run. A guest boots in two seconds on an idle machine.
const BootTimeout = 3 * time.Minute

// bootRace is how QEMU's TCG ends now and then while a guest with two processors boots: one of them looks at memory regions that the other
// has just made anew (iotlb_to_section; seen on 10.0.2, before ramjet has anything to do with that QEMU).
const bootRace = "iotlb_to_section"

// Run starts a machine for a test that ends with the test.
func Run(t TB, c Config) *VM {
	t.Helper()
	Need(t)
	ctx, cancel := context.WithTimeout(context.Background(), BootTimeout)
	defer cancel()
	v, err := Start(ctx, c)
	for range 3 {
		if err == nil || !strings.Contains(err.Error(), bootRace) {
			break
		}
		t.Logf("QEMU ended by a fault of its own, and is started again: %v", err)
		v, err = Start(ctx, c)
	}
	if err != nil {
		t.Fatalf("starting a guest: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("QEMU %d said: %s\nits console: %s", v.PID, v.Stderr(), v.Console())
		}
		v.Kill()
	})
	return v
}

// RunAttached is Attach for a test. The machine is killed when the test ends.
func RunAttached(t TB, serialPath, qmpPath string) *VM {
	t.Helper()
	v, err := Attach(context.Background(), serialPath, qmpPath)
	if err != nil {
		t.Fatalf("attaching to a guest: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("QEMU %d's console: %s", v.PID, v.Console())
		}
		v.Kill()
	})
	return v
}
