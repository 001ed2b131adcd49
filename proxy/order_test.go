// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/qmp"
)

// TestEventsKeepTheirPlaces: an event that QEMU sends before an answer comes before it, and one that it sends after
// comes after, whatever the proxy does with the answer.
func TestEventsKeepTheirPlaces(t *testing.T) {
	f := newFake(t)
	fr := newFront(t, f)
	w := fr.dial(t, "")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		command, args string
		files         []*os.File
	}{
		{command: "echo"}, {command: "query-status"}, {command: "query-fdsets"}, {command: "query-migrate"},
		{command: "add-fd", files: []*os.File{null}}, {command: "stop"}, {command: "cont"}, {command: "migrate-set-parameters", args: `{"direct-io":false}`},
		{command: "migrate-set-capabilities", args: `{"capabilities":[]}`}, {command: "migrate", args: `{"uri":"tcp:127.0.0.1:1"}`},
		{command: "migrate-incoming", args: `{"uri":"tcp:127.0.0.1:1"}`},
	} {
		t.Run(c.command, func(t *testing.T) {
			f.at(c.command, func(r *qmp.Request) (any, error) {
				f.server.Emit(qmp.Event{Name: "BEFORE"})
				r.AfterReply(func() { f.server.Emit(qmp.Event{Name: "AFTER"}) })
				f.mu.Lock()
				defer f.mu.Unlock()
				return f.right(r)
			})
			defer f.at(c.command, nil)
			line := fmt.Sprintf(`{"execute":%q}`, c.command)
			if c.args != "" {
				line = fmt.Sprintf(`{"execute":%q,"arguments":%s}`, c.command, c.args)
			}
			for i := range 100 {
				w.send(line, c.files...)
				next := func() string { // but for what the command itself makes
					s := w.line()
					for strings.Contains(s, `"STOP"`) || strings.Contains(s, `"RESUME"`) {
						s = w.line()
					}
					return s
				}
				if b, a, e := next(), next(), next(); !strings.Contains(b, `"BEFORE"`) || strings.Contains(a, `"event"`) || !strings.Contains(e, `"AFTER"`) {
					t.Fatalf("round %d: %s\n%s\n%s", i, b, a, e)
				}
			}
		})
	}
}
