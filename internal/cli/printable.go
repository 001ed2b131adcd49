// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// printable makes a text that comes from a file, a guest or a monitor fit for a terminal: one line, in which control characters, other
// characters without a shape (those that turn the direction of writing, say) and bytes that are no UTF-8 are written as in a Go string:
// \n, \x1b, \u202e. A terminal would obey them: move, overwrite what stands there, answer as if the user had typed.
func printable(s string) string { return filter(s, false) }

// printableLines is printable for a text of ours with several lines and tables, as a last safeguard before it is written.
func printableLines(s string) string { return filter(s, true) }

func filter(s string, lines bool) string {
	if plain(s, lines) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case shown(r, lines):
			b.WriteString(s[:n])
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
		s = s[n:]
	}
	return b.String()
}

func plain(s string, lines bool) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !shown(r, lines) }) < 0
}

func shown(r rune, lines bool) bool { return unicode.IsPrint(r) || lines && (r == '\n' || r == '\t') }

// sayf is fmt.Fprintf for results that people read: texts among args are printable.
func sayf(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, format, printables(args)...)
}

// saidf is fmt.Sprintf in the same way.
func saidf(format string, args ...any) string { return fmt.Sprintf(format, printables(args)...) }

func printables(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		switch v := a.(type) {
		case string:
			a = printable(v)
		case error:
			a = printable(v.Error())
		case fmt.Stringer:
			a = printable(v.String())
		}
		out[i] = a
	}
	return out
}

// printableJSON escapes in a JSON text what is not printable and what encoding/json leaves: delete, C1 controls, characters without
// a shape.
func printableJSON(text []byte) string {
	var b strings.Builder
	for _, r := range string(text) { // only strings have such characters in them
		switch {
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// shellQuote writes words so that a shell (bash, zsh, ksh) reads them as they are. What is not printable is written as $'\x1b', which
// dash does not know.
func shellQuote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		q, err := syntax.Quote(w, syntax.LangBash)
		if err != nil { // it holds a NUL, which no argument of a program can
			q = strconv.QuoteToASCII(w)
		}
		quoted[i] = q
	}
	return strings.Join(quoted, " ")
}
