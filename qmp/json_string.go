// SPDX-License-Identifier: Apache-2.0

package qmp

import "unicode/utf8"

// decodeRune decodes the first character of s, which is not empty, as QEMU's
// mod_utf8_codepoint: -1 for what is not a character, with the number of bytes
// that this mistake takes. Stricter than UTF-8, it refuses the 66 noncharacters;
// more lenient, it takes U+0000 as the two bytes C0 80.
func decodeRune[T string | []byte](s T) (r rune, size int) {
	b := s[0]
	switch {
	case b == 0, b >= 0xFE, b&0xC0 == 0x80:
		return -1, 1
	case b < 0x80:
		return rune(b), 1
	}
	n := 0
	for mask := byte(0x80); b&mask != 0; mask >>= 1 {
		n++
	}
	cp := int64(b) & (0x7F >> n)
	for size = 1; size < n; size++ {
		if size == len(s) || s[size]&0xC0 != 0x80 {
			return -1, size
		}
		cp = cp<<6 | int64(s[size]&0x3F)
	}
	smallest := [...]int64{2: 0x80, 3: 0x800, 4: 0x10000, 5: 0x200000, 6: 0x4000000}
	if cp > utf8.MaxRune || !isCharacter(rune(cp)) {
		return -1, size
	}
	if cp < smallest[n] && !(cp == 0 && n == 2) {
		return -1, size // longer than need be
	}
	return rune(cp), size
}

// isCharacter tells characters from surrogates, noncharacters and numbers
// outside Unicode.
func isCharacter(r rune) bool {
	return utf8.ValidRune(r) && !(r >= 0xFDD0 && r <= 0xFDEF) && r&0xFFFE != 0xFFFE
}

// escapes are the characters after a backslash and what they stand for.
var escapes = map[byte]byte{
	'"': '"', '\'': '\'', '\\': '\\', '/': '/',
	'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t',
}

// unquote returns the content of a string token, or what is wrong with it.
func unquote(text []byte) (s, mistake string) {
	text = text[1:] // the closing quote stays: it ends the scan
	quote := text[len(text)-1]
	out := make([]byte, 0, len(text))
	for text[0] != quote {
		if text[0] != '\\' {
			r, n := decodeRune(text)
			if r < 0 {
				return "", "invalid UTF-8 sequence in string"
			}
			out = utf8.AppendRune(out, r)
			text = text[n:]
			continue
		}
		if text[1] == 'u' {
			r, n := unicodeEscape(text)
			if !isCharacter(r) {
				return "", string(text[:n]) + " is not a valid Unicode character"
			}
			out = utf8.AppendRune(out, r)
			text = text[n:]
			continue
		}
		c, ok := escapes[text[1]]
		if !ok {
			return "", "invalid escape sequence in string"
		}
		out = append(out, c)
		text = text[2:]
	}
	return string(out), ""
}

// unicodeEscape decodes the \uXXXX, or the two that make a surrogate pair, at the
// start of s. A bad one is -1, and as long as one \uXXXX if there is so much.
func unicodeEscape(s []byte) (r rune, size int) {
	first := hex4(s[2:])
	if first >= 0xD800 && first <= 0xDBFF && len(s) >= 12 && s[6] == '\\' && s[7] == 'u' {
		second := hex4(s[8:])
		if second >= 0xDC00 && second <= 0xDFFF {
			return 0x10000 + (first&0x3FF)<<10 + second&0x3FF, 12
		}
		return -1, 6
	}
	return first, min(6, len(s))
}

func hex4(s []byte) rune {
	if len(s) < 4 {
		return -1
	}
	var r rune
	for _, c := range s[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}
