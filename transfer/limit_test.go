// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"
	"iter"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/vmstate"
)

// TestMaxBandwidth saves with a limit and looks at every second of it, but for the last incomplete one: none may have more than
// five per cent more or less than the limit.
func TestMaxBandwidth(t *testing.T) {
	const limit, size, tries = 100 << 20, 256 << 20, 5
	for n := 1; ; n++ {
		writes := limitedWrites(t, limit, size)
		if took := writes[len(writes)-1].at; took < 2*time.Second {
			t.Fatalf("%d bytes at %d bytes a second took %v", size, limit, took)
		}
		err := steady(writes, limit*95/100, limit)
		if err == nil {
			return
		}
		if n == tries {
			// A machine that cannot do much more without a limit says nothing of the least, only of the most.
			free := limitedWrites(t, 0, size)
			if took := free[len(free)-1].at; took > time.Second*size/(3*limit) && steady(writes, 0, limit) == nil {
				t.Logf("%v, %d times out of %d; without a limit it took %v", err, n, n, took)
				return
			}
			t.Fatalf("%v, %d times out of %d", err, n, n)
		}
		t.Log(err) // perhaps the processors had other things to do
	}
}

// written is a write of some bytes, so long after the first.
type written struct {
	at    time.Duration
	bytes int
}

// limitedWrites saves memory of that size with a limit of so many bytes a second, and returns what was written when.
func limitedWrites(t *testing.T, limit, size int64) (writes []written) {
	t.Helper()
	var mu sync.Mutex
	var first time.Time
	c := sys.Kernel()
	c.Pwrite = func(_ int, p []byte, _ int64) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if first.IsZero() {
			first = time.Now()
		}
		writes = append(writes, written{time.Since(first), len(p)})
		return len(p), nil
	}
	layout, err := mappedram.NewLayout(0, vmstate.Config{MachineType: "pc", Capabilities: []string{"mapped-ram"}}, []mappedram.Block{{Name: "ram", Length: size}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := &Save{Layout: layout, Memory: []guestmem.Memory{ones(size)}, Image: directio.Reopen{File: f}, Params: Params{MaxBandwidth: limit, Calls: c}}
	if err := s.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	return writes
}

// steady says in which second five per cent more than the limit were written, or less than least.
func steady(writes []written, least, limit int) error {
	last := writes[len(writes)-1].at
	for i, from := range writes {
		if last-from.at < time.Second {
			return nil
		}
		n := 0
		for _, w := range writes[i:] {
			if w.at-from.at >= time.Second {
				break
			}
			n += w.bytes
		}
		if n < least || n > limit*105/100 {
			return fmt.Errorf("in the second from %v on %d bytes were written, %.1f%% of the limit", from.at, n, 100*float64(n)/float64(limit))
		}
	}
	return nil
}

// TestLimitChanges: who waits for a limit waits as long as the new one asks for when it changes, and no longer than its context.
func TestLimitChanges(t *testing.T) {
	l := NewLimit(1)
	if n, err := l.Wait(t.Context(), 3*directio.PageSize); err != nil || n != directio.PageSize {
		t.Fatal(n, err) // the burst
	}
	wait := func(ctx context.Context, n int) chan error {
		done := make(chan error)
		go func() {
			for n > 0 {
				k, err := l.Wait(ctx, n)
				if err != nil {
					done <- err
					return
				}
				n -= k
			}
			done <- nil
		}()
		return done
	}
	waits := func(what string, done chan error) {
		t.Helper()
		select {
		case err := <-done:
			t.Fatalf("%s: it did not wait, %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	ends := func(what string, done chan error, want error) {
		t.Helper()
		select {
		case err := <-done:
			if err != want {
				t.Fatalf("%s: %v", what, err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: it waits", what)
		}
	}
	a, b := wait(t.Context(), 1<<20), wait(t.Context(), 2*directio.PageSize)
	ctx, cancel := context.WithCancelCause(t.Context())
	c := wait(ctx, 4096)
	waits("a byte a second", a)
	cancel(os.ErrClosed)
	ends("given up", c, os.ErrClosed)
	l.Set(2)
	waits("two bytes a second", b)
	l.Set(0)
	ends("no limit", a, nil)
	ends("no limit", b, nil)
	l.Set(1)
	d := wait(t.Context(), 1<<20)
	waits("a byte a second again", d)
	l.Set(100 << 20)
	ends("fast", d, nil)
}

// ones is memory of that many bytes, none of which is zero.
type ones int64

func (o ones) Size() int64 { return int64(o) }

func (o ones) Populated(within guestmem.Range) iter.Seq2[guestmem.Range, error] {
	return func(yield func(guestmem.Range, error) bool) { yield(within, nil) }
}

func (o ones) Read(p []byte, _ int64) error {
	for i := range p {
		p[i] = 1
	}
	return nil
}

func (o ones) Write([]byte, int64) error { return nil }
func (o ones) Close() error              { return nil }
