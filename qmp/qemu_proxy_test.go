// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestProxyQEMU puts the server in front of a real QEMU and has the client talk
// to it as if it were the QEMU.
func TestProxyQEMU(t *testing.T) {
	path, _ := startQEMU(t)
	dialRetry(t, path).Close()
	var up *Client
	var err error
	front := new(Server)
	dialer := Dialer{OOB: true, Events: func(e Event) { front.Emit(e) }}
	for range 100 { // until QEMU has noticed that the first client left
		if up, err = dialer.Dial(t.Context(), path); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	front.Greeting, front.Fallback = up.Greeting(), up.Forward

	near, far := pair(t)
	served := make(chan error, 1)
	go func() { served <- front.ServeConn(context.Background(), far) }()
	before := countFDs(t)
	c, err := Dialer{OOB: true}.NewClient(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	if c.Greeting().Version() != up.Greeting().Version() {
		t.Errorf("greeting %+v", c.Greeting())
	}
	checkSets(t, c)
	if n := countFDs(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
	var schema []json.RawMessage
	if err := c.Execute(t.Context(), "query-qmp-schema", nil, &schema); err != nil || len(schema) < 500 {
		t.Errorf("schema: %d entries, %v", len(schema), err)
	}
	if err := c.ExecuteOOB(t.Context(), "query-yank", nil, nil); err != nil {
		t.Errorf("out of band: %v", err)
	}
	for cmd, want := range map[string]string{"add-fd": "No file descriptor supplied via SCM_RIGHTS", "nothing": "The command nothing has not been found"} {
		var qe *Error
		if err := c.Execute(t.Context(), cmd, nil, nil); !errors.As(err, &qe) || qe.Desc != want {
			t.Errorf("%s: %v", cmd, err)
		}
	}
	shutdown, _ := c.Subscribe("SHUTDOWN")
	if err := c.Execute(t.Context(), "quit", nil, nil); err != nil {
		t.Errorf("quit: %v", err)
	}
	select {
	case e := <-shutdown:
		if e.Name != "SHUTDOWN" || !strings.Contains(string(e.Data), "host-qmp-quit") {
			t.Errorf("event %+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("no SHUTDOWN")
	}
	if err := c.Execute(t.Context(), "query-status", nil, nil); err == nil || !strings.Contains(err.Error(), "went away") {
		t.Errorf("after the end: %v", err)
	}
	c.Close()
	if err := <-served; err != nil {
		t.Errorf("ServeConn: %v", err)
	}
}

// TestClientOOBDescriptors: with out-of-band execution QEMU reads ahead, and
// still every descriptor has to reach its own command.
func TestClientOOBDescriptors(t *testing.T) {
	path, _ := startQEMU(t)
	dialRetry(t, path).Close()
	time.Sleep(50 * time.Millisecond)
	c, err := Dialer{OOB: true}.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	checkSets(t, c)
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%5)*100*time.Microsecond)
				c.Execute(ctx, "getfd", map[string]string{"fdname": "x"}, nil, f)
				cancel()
			}
		}()
	}
	wg.Wait()
	if err := c.Execute(t.Context(), "getfd", map[string]string{"fdname": "y"}, nil, f); err != nil {
		t.Errorf("after cancelled ones: %v", err)
	}
}
