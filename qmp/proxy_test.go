// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
)

// TestProxy: a monitor in front of a monitor, in which one command is its own.
func TestProxy(t *testing.T) {
	back := testServer()
	near, far := pair(t)
	go back.ServeConn(t.Context(), far)
	front := new(Server)
	up, err := Dialer{OOB: true, Events: func(e Event) { front.Emit(e) }}.NewClient(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	front.Greeting, front.Fallback = up.Greeting(), up.Forward
	front.Commands = map[string]Command{
		"mine": {Run: func(context.Context, *Request) (any, error) { return json.RawMessage(`{"a":[1]}`), nil }},
	}
	w := serve(t, front)
	w.send(`{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}`)
	w.expect(`{"return": {}}`)
	f := tempFile(t, "content")
	before := countFDs(t)
	for _, test := range [][2]string{
		{`{"execute":"mine"}`, `{"return": {"a": [1]}}`},
		{`{"execute":"query-name","id":[1]}`, `{"return": {}, "id": [1]}`},
		{`{"execute":"echo","arguments":{"é":1e3},"id":"x"}`, `{"return": {"\u00E9": 1000}, "id": "x"}`},
		{`{"execute":"nothing"}`, notFound("The command nothing has not been found")},
		{`{"execute":"not-active"}`, `{"error": {"class": "DeviceNotActive", "desc": "no device"}}`},
		{`{"exec-oob":"oob-name"}`, `{"return": {}}`},
		{`{"exec-oob":"echo"}`, generic("The command echo does not support OOB")},
		{`{"execute":"query-name","arguments":{"a":1}}`, generic("Parameter 'a' is unexpected")},
	} {
		w.send(test[0])
		w.expect(test[1])
	}
	w.send(`{"execute":"add-fd"}`, f)
	w.expect(`{"return": "content"}`)
	w.send(`{"execute":"add-fd"}`)
	w.expect(generic("No file descriptor supplied via SCM_RIGHTS"))
	w.send(`{"execute":"event"}`)
	w.expect(`{"timestamp": {"seconds": 3, "microseconds": 4}, "event": "ALL", "data": {"a": "\u00E9"}}`)
	if one := w.line(); !strings.Contains(one, `"ONE"`) {
		t.Errorf("got %s", one)
	}
	w.expect(`{"return": {}}`)
	if n := countFDs(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}
