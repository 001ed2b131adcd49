// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"
)

// Output is as QEMU's json-writer.c: ASCII, ", " and ": " between the parts.

const hexDigits = "0123456789ABCDEF"

// appendRune appends one character of a string.
func appendRune(dst []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	switch {
	case r >= 0x20 && r < 0x7F:
		return append(dst, byte(r))
	case !isCharacter(r):
		r = utf8.RuneError
	case r > 0xFFFF:
		r -= 0x10000
		return appendHex4(appendHex4(dst, 0xD800+r>>10), 0xDC00+r&0x3FF)
	}
	return appendHex4(dst, r)
}

func appendHex4(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// appendString appends s as a string; what is not UTF-8 becomes U+FFFD.
func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	for len(s) > 0 {
		r, n := decodeRune(s)
		if s[0] == 0 {
			r = 0
		}
		dst = appendRune(dst, r)
		s = s[n:]
	}
	return append(dst, '"')
}

// appendValue appends v. Numbers too large for a float64 come out as the largest
// one: QEMU writes "inf", which no JSON parser takes.
func appendValue(dst []byte, v *value) []byte {
	switch v.kind {
	case kindNull:
		return append(dst, "null"...)
	case kindBool:
		return strconv.AppendBool(dst, v.num != 0)
	case kindInt:
		return strconv.AppendInt(dst, v.int(), 10)
	case kindUint:
		return strconv.AppendUint(dst, v.num, 10)
	case kindFloat:
		f := min(max(v.float(), -math.MaxFloat64), math.MaxFloat64)
		return strconv.AppendFloat(dst, f, 'g', 17, 64)
	case kindString:
		return appendString(dst, v.str)
	}
	begin, end := byte('['), byte(']')
	if v.kind == kindObject {
		begin, end = '{', '}'
	}
	dst = append(dst, begin)
	for i := range v.list {
		if i > 0 {
			dst = append(dst, ',', ' ')
		}
		if v.kind == kindObject {
			dst = append(appendString(dst, v.keys[i]), ':', ' ')
		}
		dst = appendValue(dst, &v.list[i])
	}
	return append(dst, end)
}

// appendAny appends x as encoding/json would, in QEMU's form.
func appendAny(dst []byte, x any) ([]byte, error) {
	raw, err := json.Marshal(x)
	if err != nil {
		return dst, err
	}
	return appendJSON(dst, raw), nil
}

// appendJSON appends raw, which is compact and valid JSON, in QEMU's form.
// Numbers stay as they are written.
func appendJSON(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		c := raw[i]
		i++
		switch c {
		case ',', ':':
			dst = append(dst, c, ' ')
		case '"':
			var n int
			dst, n = appendQuoted(dst, raw[i:])
			i += n
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// appendQuoted appends a string whose rest, after the opening quote, is at the
// start of s, and returns how much of s that was.
func appendQuoted(dst, s []byte) ([]byte, int) {
	dst = append(dst, '"')
	i := 0
	for s[i] != '"' {
		if c := s[i]; c >= 0x20 && c < 0x7F && c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		var r rune
		n := 2
		switch {
		case s[i] != '\\':
			r, n = decodeRune(s[i:])
		case s[i+1] == 'u':
			r, n = unicodeEscape(s[i:])
		default:
			r = rune(escapes[s[i+1]])
		}
		dst = appendRune(dst, r)
		i += n
	}
	return append(dst, '"'), i + 1
}
