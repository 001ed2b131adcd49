// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Properties are the parts of an option's value: "first,key=value,..." (a comma within is doubled),
// or a JSON object. What is not changed is written again as it was: keys that repeat, which are lists
// (host-nodes=0,host-nodes=2), and what a JSON object has in it.
type Properties struct {
	pairs []pair
	tree  map[string]any // of a JSON object; nil: it is none
}

type pair struct{ key, value string }

// ParseProperties reads an option's value. The first part, if it is no key=value, is
// the value of implied: "qom-type" for -object, say.
func ParseProperties(value, implied string) Properties {
	if tree, ok := parseObject(value); ok {
		return Properties{tree: tree}
	}
	var p Properties
	for rest := value; rest != ""; {
		end := strings.IndexAny(rest, "=,")
		var e pair
		switch {
		case end >= 0 && rest[end] == '=':
			e.key = rest[:end]
			e.value, rest = cutValue(rest[end+1:])
		case len(p.pairs) == 0:
			e.key = implied
			e.value, rest = cutValue(rest)
		default: // a flag, in whose name no comma is doubled
			e.value = "on"
			e.key, rest, _ = strings.Cut(rest, ",")
		}
		p.pairs = append(p.pairs, e)
	}
	return p
}

// cutValue cuts a value at its end, a single comma; two are one that is meant (QEMU get_opt_value).
func cutValue(s string) (value, rest string) {
	for end := 0; ; end += 2 {
		n := strings.IndexByte(s[end:], ',')
		if n < 0 {
			return strings.ReplaceAll(s, ",,", ","), ""
		}
		if end += n; !strings.HasPrefix(s[end:], ",,") {
			return strings.ReplaceAll(s[:end], ",,", ","), s[end+1:]
		}
	}
}

// parseObject reads a JSON object, numbers as they are written.
func parseObject(value string) (map[string]any, bool) {
	if !strings.HasPrefix(strings.TrimSpace(value), "{") {
		return nil, false
	}
	d := json.NewDecoder(strings.NewReader(value))
	d.UseNumber()
	var tree map[string]any
	if d.Decode(&tree) != nil || d.More() {
		return nil, false
	}
	return tree, true
}

// scalar is a JSON value as key=value would have it; "" for lists and objects.
func scalar(v any) string {
	switch v := v.(type) {
	case bool:
		return map[bool]string{true: "on", false: "off"}[v]
	case json.Number:
		return v.String()
	case int64:
		return strconv.FormatInt(v, 10)
	case string:
		return v
	}
	return ""
}

// Get returns a property or "". Of one that repeats it is the last.
func (p Properties) Get(key string) string {
	if p.tree != nil {
		return scalar(p.tree[key])
	}
	for _, e := range slices.Backward(p.pairs) {
		if e.key == key {
			return e.value
		}
	}
	return ""
}

// All are the properties that have a plain value; a JSON object's in order of their names.
func (p Properties) All() iter.Seq2[string, string] {
	return func(yield func(key, value string) bool) {
		for _, k := range slices.Sorted(maps.Keys(p.tree)) {
			if !yield(k, scalar(p.tree[k])) {
				return
			}
		}
		for _, e := range p.pairs {
			if !yield(e.key, e.value) {
				return
			}
		}
	}
}

// Set adds or changes a property. The value is a string, a bool or an int64, which JSON and QEMU tell apart.
func (p *Properties) Set(key string, value any) {
	if p.tree != nil {
		p.tree[key] = value
		return
	}
	k := slices.IndexFunc(p.pairs, func(e pair) bool { return e.key == key })
	if k < 0 {
		p.pairs = append(p.pairs, pair{key, scalar(value)})
		return
	}
	p.pairs[k].value = scalar(value)
	rest := slices.DeleteFunc(p.pairs[k+1:], func(e pair) bool { return e.key == key })
	p.pairs = p.pairs[:k+1+len(rest)]
}

// Delete takes properties out.
func (p *Properties) Delete(keys ...string) {
	maps.DeleteFunc(p.tree, func(k string, _ any) bool { return slices.Contains(keys, k) })
	p.pairs = slices.DeleteFunc(p.pairs, func(e pair) bool { return slices.Contains(keys, e.key) })
}

// String writes them as they were read: as JSON, or as key=value, the implied key's value first and bare.
func (p Properties) String(implied string) string {
	if p.tree != nil {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(p.tree); err != nil {
			return fmt.Sprint(err) // cannot be: it was JSON, or Set's
		}
		return strings.TrimSpace(b.String())
	}
	parts := []string{}
	if v := p.Get(implied); v != "" {
		parts = append(parts, Double(v))
	}
	for _, e := range p.pairs {
		if e.key != implied {
			parts = append(parts, e.key+"="+Double(e.value))
		}
	}
	return strings.Join(parts, ",")
}

// Double writes a text as part of an option's value, where a comma is doubled.
func Double(s string) string { return strings.ReplaceAll(s, ",", ",,") }
