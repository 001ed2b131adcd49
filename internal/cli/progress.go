// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/image"
)

// show makes a Progress and shows it while work is under way, if it is to be shown at all. The returned
// function ends that.
func (a *app) show(p **image.Progress) (done func()) {
	draw := a.drawer()
	if draw == nil {
		return func() {}
	}
	*p = &image.Progress{}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				draw(*p, false)
			case <-stop:
				draw(*p, true)
				return
			}
		}
	}()
	return func() { close(stop); <-ended }
}

func (a *app) drawer() func(p *image.Progress, last bool) {
	switch {
	case a.progress == "json":
		return a.drawJSON
	case a.progress == "bar", a.progress == "auto" && isTerminal(a.err):
		return a.drawBar()
	}
	return nil
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func phase(p *image.Progress) string {
	if s := p.Phase.Load(); s != nil {
		return *s
	}
	return ""
}

func (a *app) drawJSON(p *image.Progress, _ bool) {
	b, err := json.Marshal(map[string]any{
		"phase": phase(p), "done": p.Done.Load(), "total": p.Total.Load(), "bytes": p.Bytes.Load(),
		"seconds": time.Since(began).Seconds(),
	})
	if err == nil {
		fmt.Fprintf(a.err, "%s\n", b)
	}
}

// drawBar draws a bar that is gone when the work is done: the result is what stays.
func (a *app) drawBar() func(*image.Progress, bool) {
	bar := progressbar.NewOptions64(-1,
		progressbar.OptionSetWriter(a.err), progressbar.OptionShowBytes(true), progressbar.OptionFullWidth(),
		progressbar.OptionThrottle(0), progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true))
	return func(p *image.Progress, last bool) {
		if last {
			bar.Finish()
			bar.Clear()
			return
		}
		if t := p.Total.Load(); t > 0 {
			bar.ChangeMax64(t)
		}
		bar.Describe(phase(p))
		bar.Set64(min(p.Done.Load(), max(p.Total.Load()-1, 0)))
	}
}
