// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// exchange sends input to a monitor, resets its parser and returns what it says
// up to the answer to a last command, as JSON values.
func (w *wire) exchange(input string, n int) []any {
	w.t.Helper()
	id := fmt.Sprintf(`"end %d"`, n)
	w.send(input + "\xff" + `{"execute":"query-name","id":` + id + `}`)
	var all []any
	for {
		line := w.line()
		if line == `{"return": {}, "id": `+id+"}\r\n" {
			return all
		}
		var v any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			w.t.Fatalf("%q after %q: %v", line, input, err)
		}
		all = append(all, v)
	}
}

// TestAgainstQEMU says the same to a QEMU and to the server and compares the
// answers: tokens in random order, half of them in the shape of commands.
func TestAgainstQEMU(t *testing.T) {
	path, _ := startQEMU(t)
	var conn net.Conn
	var err error
	for range 100 {
		if conn, err = net.Dial("unix", path); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	theirs := &wire{t, conn.(*net.UnixConn), bufio.NewReader(conn)}
	var greeting struct{ QMP wireGreeting }
	if err := json.Unmarshal([]byte(theirs.line()), &greeting); err != nil {
		t.Fatal(err)
	}
	otherParser := greeting.QMP.Version.QEMU.Major >= 11
	ours := serve(t, testServer())
	for _, w := range []*wire{theirs, ours} {
		w.negotiate()
	}

	compare := func(n int, input string) {
		t.Helper()
		a, b := theirs.exchange(input, n), ours.exchange(input, n)
		if otherParser {
			a, b = withoutParsers(a), withoutParsers(b)
		}
		if len(a) == len(b) {
			for i := range a {
				// Several mistakes in one command: QEMU finds the first in the
				// order of its hash table.
				if shape(a[i]) && shape(b[i]) {
					b[i] = a[i]
				}
			}
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%q\nQEMU   %v\nserver %v", input, a, b)
		}
	}
	for i, test := range parserTests {
		if !strings.Contains(test.input, "1e400") { // not JSON, in QEMU's answer
			compare(i, test.input)
		}
	}
	r := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	rounds := 1500
	if os.Getenv("RAMJET_LONG") != "" {
		rounds = 50000
	}
	for i := range rounds {
		compare(1000+i, soup(r))
		if t.Failed() {
			return
		}
	}
}

// withoutParsers takes what a JSON parser says of a mistake for the same, however often it says so: that of QEMU 11 is another than that
// of 10, with other texts, positions in the input, and its own way to go on after a mistake.
func withoutParsers(answers []any) (out []any) {
	const mistake = "JSON mistake"
	for _, v := range answers {
		m, _ := v.(map[string]any)
		e, _ := m["error"].(map[string]any)
		if desc, _ := e["desc"].(string); strings.Contains(desc, "JSON ") && !strings.HasPrefix(desc, "QMP input") {
			v = mistake
		}
		if v == any(mistake) && len(out) > 0 && out[len(out)-1] == any(mistake) {
			continue
		}
		out = append(out, v)
	}
	return out
}

func shape(answer any) bool {
	m, _ := answer.(map[string]any)
	e, _ := m["error"].(map[string]any)
	desc, _ := e["desc"].(string)
	return strings.HasPrefix(desc, "QMP input member") || strings.HasPrefix(desc, "QMP input lacks")
}

var soupTokens = strings.Split(`{|}|{|}|[|]|[|]|:|:|,|,|"a"|"b"|'c'|"execute"|"exec-oob"|"arguments"|"id"|null|true|false|nul|1|-1|0|00|1.5|1e3|-|.|e|`+
	"\x01|\n| |\t|\xff|\xc3\xa9|\"\xc3\xa9\"|\"\xed\xa0\x80\"|\"\xe2\x82\"|\"\\u00e9\"|\"\\ud83d\\ude00\"|\"\\ud83d\"|\"\\u12\"|\"\\x\"|\"\\'\"|'\\''|\"|'|\\|@|%d|X|"+
	`"query-name"|"execute":"query-name"|"execute":"add-fd"|"arguments":{"x":1}|"id":[1,{"a":"b"}]|"execute":"no"|"foo":1|`+
	"18446744073709551615|18446744073709551616|-9223372036854775809|\"\xf4\x90\x80\x80\"|\"\xef\xbf\xbf\"|\"\x7f\"", "|")

func soup(r *rand.Rand) string {
	var b strings.Builder
	command := r.IntN(2) == 0
	if command {
		b.WriteString("{")
	}
	for i := range 1 + r.IntN(8) {
		if command && i > 0 {
			b.WriteString(",")
		}
		b.WriteString(soupTokens[r.IntN(len(soupTokens))])
		if command && r.IntN(4) == 0 {
			b.WriteString(":" + soupTokens[r.IntN(len(soupTokens))])
		}
	}
	if command {
		b.WriteString("}")
	}
	return b.String()
}
