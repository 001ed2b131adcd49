// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/save"
)

// TestThenHangs: a save with --then stay or quit hangs when its pages are written, and is cancelled, or its pause gets too long.
// The VM goes on at once, and does not end; nothing is published but by the call that hung.
func TestThenHangs(t *testing.T) {
	p := newPretender(t)
	stopped := errors.New("the user is tired of it")
	for _, then := range []save.Then{save.ThenStay, save.ThenQuit} {
		for _, k := range []kind{fsync, link} {
			for _, limit := range []time.Duration{0, 200 * time.Millisecond} {
				p.reset(nil)
				at := &place{dir: t.TempDir()}
				at.image = filepath.Join(at.dir, "image")
				hangs, release := make(chan struct{}), make(chan struct{})
				first := true
				calls := injected(func(now kind, _ int) (int, error) {
					if now == k && first {
						first = false
						close(hangs)
						<-release
					}
					return 0, nil
				})
				ctx, cancel := context.WithCancelCause(t.Context())
				ended := make(chan error, 1)
				go func() {
					_, err := save.Save(ctx, save.Options{Image: at.image, Socket: p.socket, Then: then, MaxPause: limit, Calls: calls})
					ended <- err
				}()
				<-hangs
				if status, _ := p.now(); status != "paused" && limit == 0 {
					t.Errorf("%s: the VM is %s before the end", then, status)
				}
				if limit == 0 {
					cancel(stopped)
				}
				status := ""
				for deadline := time.Now().Add(3 * time.Second); status != "running" && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
					status, _ = p.now()
				}
				if status != "running" {
					t.Errorf("--then %s, %s hangs, limit %v: the VM is %s", then, k, limit, status)
				}
				close(release)
				err := <-ended
				cancel(nil)
				if err == nil || limit == 0 && !errors.Is(err, stopped) {
					t.Errorf("--then %s, %s hangs, limit %v: the save says %v", then, k, limit, err)
				}
				oneLine(t, err)
				if isNew := at.what(t); isNew != (k == link) {
					t.Errorf("--then %s, %s hangs, limit %v: new image: %v (%v)", then, k, limit, isNew, err)
				}
				if status, _ = p.now(); status != "running" {
					t.Errorf("--then %s, %s hung, limit %v: the VM is %s in the end", then, k, limit, status)
				}
			}
		}
	}
}
