// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// normal makes answers of different processes comparable: what depends on the process (numbers of descriptors, times,
// rates, counts of bytes on the wire, versions, names of temporary directories) becomes a name.
type normal struct {
	dir string
	fds map[string]string
}

// varying are members of answers that differ from run to run.
var varying = map[string]bool{
	"total-time": true, "setup-time": true, "downtime": true, "expected-downtime": true, "mbps": true, "pages-per-second": true,
	"transferred": true, "precopy-bytes": true, "downtime-bytes": true, "remaining": true, "dirty-sync-count": true, "dirty-pages-rate": true, "multifd-bytes": true,
	"micro": true, "minor": true, "package": true,
}

var (
	inText = regexp.MustCompile(`\bfd[=:]\d+`)
	places = regexp.MustCompile(`\b(inode|device) [\d:]+`)
)

// fd names a descriptor by the order of its first appearance.
func (n *normal) fd(number string) string {
	if n.fds == nil {
		n.fds = map[string]string{}
	}
	name, ok := n.fds[number]
	if !ok {
		name = fmt.Sprintf("FD%d", len(n.fds)+1)
		n.fds[number] = name
	}
	return name
}

// value replaces what varies within v.
func (n *normal) value(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, m := range v {
			number, isNumber := m.(json.Number)
			switch {
			case key == "fd" && isNumber:
				v[key] = n.fd(string(number))
			case varying[key]:
				v[key] = "*"
			default:
				v[key] = n.value(m)
			}
		}
		return v
	case []any:
		for i := range v {
			v[i] = n.value(v[i])
		}
		if properties(v) { // QEMU lists them in the order of a hash table
			slices.SortFunc(v, func(a, b any) int { return strings.Compare(compact(a), compact(b)) })
		}
		return v
	case string:
		return n.text(v)
	}
	return v
}

func (n *normal) text(s string) string {
	s = strings.ReplaceAll(s, n.dir, "DIR")
	s = places.ReplaceAllString(s, "$1 N")
	return inText.ReplaceAllStringFunc(s, func(m string) string { return m[:3] + n.fd(m[3:]) })
}

// answer is an answer in one line: the value that was returned, or the error's class, unless it is the usual one, and text.
func (n *normal) answer(m map[string]any) string {
	var line string
	switch e := m["error"].(type) {
	case map[string]any:
		line = "error: " + n.text(fmt.Sprint(e["desc"]))
		if e["class"] != "GenericError" {
			line = fmt.Sprintf("%v: %s", e["class"], n.text(fmt.Sprint(e["desc"])))
		}
	default:
		line = compact(n.value(m["return"]))
	}
	if id, ok := m["id"]; ok {
		line += " id=" + compact(id)
	}
	return line
}

func compact(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(v)
	return strings.TrimSpace(b.String())
}

// properties reports whether a list is of names and types, as qom-list's.
func properties(list []any) bool {
	return len(list) > 0 && !slices.ContainsFunc(list, func(v any) bool {
		m, _ := v.(map[string]any)
		return m["name"] == nil || m["type"] == nil
	})
}
