// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bufio"
	"strings"
	"testing"
)

// TestGuardianReads: the guardian begins to read anywhere in what the monitor says, on one line each or on many.
func TestGuardianReads(t *testing.T) {
	for name, said := range map[string]string{
		"flat":             `{"return": {"a": {}}, "id": 1}` + "\r\n" + `{"event": "STOP"}` + "\r\n",
		"flat, cut off":    `turn": {"b": 1}, "id": 0}` + "\r\n" + `{"return": {"a": {}}, "id": 1}` + "\r\n" + `{"event": "STOP"}` + "\r\n",
		"pretty":           "{\r\n    \"return\": {\r\n        \"a\": {}\r\n    },\r\n    \"id\": 1\r\n}\r\n{\r\n    \"event\": \"STOP\"\r\n}\r\n",
		"pretty, cut off":  "urn\": {\r\n    },\r\n    \"id\": 0\r\n}\r\n{\r\n    \"return\": {\r\n    },\r\n    \"id\": 1\r\n}\r\n{\r\n    \"event\": \"STOP\"\r\n}\r\n",
		"pretty, at a key": "    \"id\": 0\r\n}\r\n{\r\n    \"return\": {\r\n    },\r\n    \"id\": 1\r\n}\r\n{\r\n    \"event\": \"STOP\"\r\n}\r\n",
	} {
		m := &lastMonitor{in: bufio.NewReader(strings.NewReader(said))}
		for _, want := range []string{`"id": 1`, `"STOP"`} {
			if b, err := m.message(); err != nil || !strings.Contains(string(b), want) {
				t.Errorf("%s: %q, %v", name, b, err)
			}
		}
	}
}
