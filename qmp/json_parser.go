// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bytes"
	"math"
	"strconv"
)

// parser turns a stream of bytes into values and errors, both in the places and
// the words of QEMU's (qobject/json-streamer.c and json-parser.c).
//
// QEMU collects tokens until braces and brackets balance, whatever is between
// them, and parses then. This parser builds the value as it goes, which needs
// less memory, but speaks as late: a mistake is kept until the balance is
// reached, and forgotten if a byte that begins no token comes first, because
// QEMU drops everything collected then.
type parser struct {
	// emit is called with a value or, if err is not nil, with what is wrong.
	emit func(v value, err *Error)

	lex              lexer
	braces, brackets int // open ones, -1 for one that closed too much
	count, size      int // tokens of this value, and their bytes
	stack            []frame
	top              value  // the complete value
	err              *Error // the first mistake
}

// frame is an object or a list that is not complete.
type frame struct {
	value value
	want  want
	key   string              // of the next value, in an object
	known map[string]struct{} // the keys so far, once there are many
}

// want is what may come next in a frame.
type want uint8

const (
	wantFirst     want = iota // key or value, or the end
	wantKey                   // after a comma in an object
	wantColon                 // after a key
	wantValue                 // after a colon, or a comma in a list
	wantSeparator             // a comma, or the end
)

func newParser(emit func(v value, err *Error)) *parser {
	p := &parser{emit: emit}
	p.lex.token = p.token
	return p
}

func (p *parser) feed(data []byte) {
	for _, b := range data {
		p.lex.feed(b)
	}
}

// token counts a token against the limits, adds it to the value and emits the
// value or the error if it ends here.
func (p *parser) token(t token, text []byte) {
	switch t {
	case tokenLeftBrace:
		p.braces++
	case tokenRightBrace:
		p.braces--
	case tokenLeftBracket:
		p.brackets++
	case tokenRightBracket:
		p.brackets--
	case tokenError:
		p.fail(Errorf("JSON parse error, stray '%s'", cString(text)))
		return
	}
	switch {
	case p.size+len(text)+1 > maxTokenSize:
		p.fail(Errorf("JSON token size limit exceeded"))
		return
	case p.count+1 > maxTokenCount:
		p.fail(Errorf("JSON token count limit exceeded"))
		return
	case p.braces+p.brackets > maxNesting:
		p.fail(Errorf("JSON nesting depth limit exceeded"))
		return
	}
	p.count++
	p.size += len(text)

	if p.err == nil {
		p.accept(t, text)
	}
	if (p.braces > 0 || p.brackets > 0) && p.braces >= 0 && p.brackets >= 0 {
		return
	}
	if p.err != nil {
		p.fail(p.err)
		return
	}
	v := p.top
	p.reset()
	p.emit(v, nil)
}

func (p *parser) fail(err *Error) {
	p.reset()
	p.emit(value{}, err)
}

func (p *parser) reset() {
	p.braces, p.brackets, p.count, p.size = 0, 0, 0, 0
	p.stack, p.top, p.err = nil, value{}, nil
}

// wrong notes a mistake, cut to the length of QEMU's buffer.
func (p *parser) wrong(text string) {
	const most = 1023
	if len(text) > most {
		text = text[:most]
	}
	p.err = Errorf("JSON parse error, %s", text)
}

// accept adds a token to the innermost frame.
func (p *parser) accept(t token, text []byte) {
	if len(p.stack) == 0 {
		p.value(t, text)
		return
	}
	f := &p.stack[len(p.stack)-1]
	object := f.value.kind == kindObject
	end := tokenRightBracket
	if object {
		end = tokenRightBrace
	}
	switch {
	case f.want == wantColon && t == tokenColon:
		f.want = wantValue
	case f.want == wantColon:
		p.wrong("missing : in object pair")
	case t == end && (f.want == wantFirst || f.want == wantSeparator):
		v := f.value
		p.stack = p.stack[:len(p.stack)-1]
		p.complete(v)
	case f.want == wantSeparator && t == tokenComma && object:
		f.want = wantKey
	case f.want == wantSeparator && t == tokenComma:
		f.want = wantValue
	case f.want == wantSeparator && object:
		p.wrong("expected separator in dict")
	case f.want == wantSeparator:
		p.wrong("expected separator in list")
	default:
		p.value(t, text)
	}
}

// value takes a token where a value has to begin.
func (p *parser) value(t token, text []byte) {
	switch t {
	case tokenLeftBrace:
		p.stack = append(p.stack, frame{value: value{kind: kindObject}})
	case tokenLeftBracket:
		p.stack = append(p.stack, frame{value: value{kind: kindList}})
	case tokenInteger, tokenFloat:
		p.complete(number(t, string(text)))
	case tokenString:
		s, mistake := unquote(text)
		if mistake != "" {
			p.wrong(mistake)
			return
		}
		p.complete(value{kind: kindString, str: s})
	case tokenKeyword:
		switch string(text) {
		case "null":
			p.complete(value{kind: kindNull})
		case "true":
			p.complete(value{kind: kindBool, num: 1})
		case "false":
			p.complete(value{kind: kindBool})
		default:
			p.wrong("invalid keyword '" + string(text) + "'")
		}
	default:
		p.wrong("expecting value")
	}
}

// complete puts a complete value where it belongs.
func (p *parser) complete(v value) {
	if len(p.stack) == 0 {
		p.top = v
		return
	}
	f := &p.stack[len(p.stack)-1]
	switch {
	case f.value.kind == kindList:
	case f.want == wantFirst || f.want == wantKey:
		if v.kind != kindString {
			p.wrong("key is not a string in object")
			return
		}
		f.key, f.want = v.str, wantColon
		return
	case f.has(f.key):
		p.wrong("duplicate key")
		return
	default:
		f.value.keys = append(f.value.keys, f.key)
	}
	f.value.list = append(f.value.list, v)
	f.want = wantSeparator
}

// has reports whether the object has the key, and remembers it if not.
func (f *frame) has(key string) bool {
	const few = 16
	if f.known == nil && len(f.value.keys) < few {
		return f.value.member(key) != nil
	}
	if f.known == nil {
		f.known = make(map[string]struct{}, 2*few)
		for _, k := range f.value.keys {
			f.known[k] = struct{}{}
		}
	}
	_, ok := f.known[key]
	f.known[key] = struct{}{}
	return ok
}

// number converts an integer to the first of int64, uint64 and float64 that
// holds it, as QEMU's QNum.
func number(t token, text string) value {
	if t == tokenInteger {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return value{kind: kindInt, num: uint64(n)}
		}
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			return value{kind: kindUint, num: n}
		}
	}
	// Its error is only that the number is out of range, and then the result is
	// infinite, as strtod's.
	f, _ := strconv.ParseFloat(text, 64)
	return value{kind: kindFloat, num: math.Float64bits(f)}
}

// cString is what C's %s prints of b.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
