// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/ramjet-vm/ramjet/directio"
)

// Limit paces page data. It may be changed while others wait for it, who then wait as long as the new one asks for. All methods may
// be called by several goroutines at a time.
type Limit struct {
	mu             sync.Mutex
	bytesPerSecond int64
	limiter        *rate.Limiter // nil: no limit
	changed        chan struct{} // closed when the limit changes
}

// NewLimit is a limit of so many bytes a second; 0 is none.
func NewLimit(bytesPerSecond int64) *Limit {
	l := &Limit{changed: make(chan struct{})}
	l.set(bytesPerSecond)
	return l
}

// Set changes the limit, in bytes a second; 0 is none.
func (l *Limit) Set(bytesPerSecond int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytesPerSecond == l.bytesPerSecond {
		return
	}
	l.set(bytesPerSecond)
	close(l.changed)
	l.changed = make(chan struct{})
}

// set makes the limiter. Its burst is a fiftieth of a second's worth, so that the rate holds over any second.
func (l *Limit) set(bytesPerSecond int64) {
	l.bytesPerSecond, l.limiter = bytesPerSecond, nil
	if bytesPerSecond > 0 {
		l.limiter = rate.NewLimiter(rate.Limit(bytesPerSecond), int(max(bytesPerSecond/50, directio.PageSize)))
	}
}

func (l *Limit) now() (*rate.Limiter, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limiter, l.changed
}

// Wait waits until some of n bytes may be written and returns how many: n, or less, which is a multiple of the page size. When ctx
// ends it returns the cause.
func (l *Limit) Wait(ctx context.Context, n int) (int, error) {
	for {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		limiter, changed := l.now()
		if limiter == nil {
			return n, nil
		}
		some := n
		if some > limiter.Burst() {
			some = limiter.Burst() &^ (directio.PageSize - 1)
		}
		r := limiter.ReserveN(time.Now(), some)
		if r.Delay() == 0 {
			return some, nil
		}
		timer := time.NewTimer(r.Delay())
		select {
		case <-timer.C:
			return some, nil
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		r.Cancel()
	}
}

// write writes p at off as fast as is allowed.
func (l *Limit) write(ctx context.Context, f *directio.File, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := l.Wait(ctx, len(p))
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
