// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/test/allocs"
)

// parse returns what a parser makes of the input, fed in pieces of the given
// size: each value in QEMU's form, each error's text.
func parse(input string, piece int) []string {
	var got []string
	p := newParser(func(v value, err *Error) {
		if err != nil {
			got = append(got, "error: "+err.Desc)
		} else {
			got = append(got, string(appendValue(nil, &v)))
		}
	})
	for len(input) > 0 {
		n := min(piece, len(input))
		p.feed([]byte(input[:n]))
		input = input[n:]
	}
	return got
}

// stray is what a byte that begins no token gives.
func stray(s string) string { return "error: JSON parse error, stray '" + s + "'" }

func wrong(s string) string { return "error: JSON parse error, " + s }

// parserTests are inputs with the answers of QEMU 10.0.2.
var parserTests = []struct {
	input string
	want  []string
}{
	{`{"a": [1, -2.5, true, false, null, "x"]}`, []string{`{"a": [1, -2.5, true, false, null, "x"]}`}},
	{`{'a':'it\'s "x"'}`, []string{`{"a": "it's \"x\""}`}},
	{"{}{}\n[ ]\t[]", []string{"{}", "{}", "[]", "[]"}},
	{"{\n'a'\r\n:1}", []string{`{"a": 1}`}},
	{"1 -0 0.1 9223372036854775808 123456789012345678901234567890 1E2 ", []string{
		"1", "0", "0.10000000000000001", "9223372036854775808", "1.2345678901234568e+29", "100"}},
	{"1e400 ", []string{"1.7976931348623157e+308"}},
	{`"\"\\\/\b\f\n\r\t\u00e9\ud83d\uDE00\u0000"`, []string{`"\"\\/\b\f\n\r\t\u00E9\uD83D\uDE00\u0000"`}},
	{"\"\u00e9\U0001F600\x7f\"", []string{`"\u00E9\uD83D\uDE00\u007F"`}},
	{"\"\xc0\x80\"", []string{`"\u0000"`}},
	{"tru\n", []string{wrong("invalid keyword 'tru'")}},
	{"True\n", []string{stray("T")}},
	{strings.Repeat("x", 2000) + "\n", []string{wrong("invalid keyword '" + strings.Repeat("x", 1006))}},
	{",", []string{wrong("expecting value")}},
	{"}", []string{wrong("expecting value")}},
	{"[1,]", []string{wrong("expecting value")}},
	{"[1}", []string{wrong("expected separator in list")}},
	{"[1 2]", []string{wrong("expected separator in list")}},
	{`{"a":1]`, []string{wrong("expected separator in dict")}},
	{`{"a":1 "b"}`, []string{wrong("expected separator in dict")}},
	{`{"a":1,}`, []string{wrong("expecting value")}},
	{`{"a":}`, []string{wrong("expecting value")}},
	{`{"a" 1}`, []string{wrong("missing : in object pair")}},
	{`{1:2}`, []string{wrong("key is not a string in object")}},
	{`{[]:2}`, []string{wrong("key is not a string in object")}},
	{`{a:1}`, []string{wrong("invalid keyword 'a'")}},
	{`{"a":1,"a":2}`, []string{wrong("duplicate key")}},
	{`{"a":[},"b":foo]}`, []string{wrong("expecting value"), wrong("expecting value")}},
	{`"\x"`, []string{wrong("invalid escape sequence in string")}},
	{`"\u12"`, []string{wrong(`\u12" is not a valid Unicode character`)}},
	{`"\ud800"`, []string{wrong(`\ud800 is not a valid Unicode character`)}},
	{`"\ud800\u0041"`, []string{wrong(`\ud800 is not a valid Unicode character`)}},
	{`"\ud800\u12"`, []string{wrong(`\ud800 is not a valid Unicode character`)}},
	{`"\udc00"`, []string{wrong(`\udc00 is not a valid Unicode character`)}},
	{`"\ufffe"`, []string{wrong(`\ufffe is not a valid Unicode character`)}},
	{"\"\xed\xa0\x80\"", []string{wrong("invalid UTF-8 sequence in string")}},
	{"\"\xc1\x81\"", []string{wrong("invalid UTF-8 sequence in string")}},
	{"\"\xf8\x88\x80\x80\x80\"", []string{wrong("invalid UTF-8 sequence in string")}},
	{"\"\xe2\x82\"", []string{wrong("invalid UTF-8 sequence in string")}},
	{"\"\x80\"", []string{wrong("invalid UTF-8 sequence in string")}},
	{"\x01", []string{stray("\x01")}},
	{"\x01\x01\xff{}", []string{stray("\x01"), stray("\x01"), stray("\xff"), "{}"}},
	{"\x00", []string{stray("")}},
	{"ab\x00", []string{wrong("invalid keyword 'ab'"), stray("")}},
	{"\"a\x01b\"\n{}", []string{stray("\"a\x01"), "{}"}},
	{"{\"execute\":\"\xff\"}\n", []string{stray("\"\xff"), wrong("expecting value")}},
	{`{"a":%d}`, []string{stray("%"), wrong("expecting value")}},
	{"@ skipped\t\xe9\n{}", []string{stray("@"), "{}"}},
	{"[00]", []string{stray("00"), wrong("expecting value")}},
	{"-\n", []string{stray("-\n")}},
	{"--\n", []string{stray("--")}},
	{"-0x", []string{"0"}},
	{".5\n", []string{stray(".")}},
	{"1.\n", []string{stray("1.\n")}},
	{"[1e]\n", []string{stray("1e]")}},
	{"1e+\n", []string{stray("1e+\n")}},
	{"0e1\n", []string{"0", wrong("invalid keyword 'e'"), "1"}},
	{"1.5e-2.5\n", []string{"0.014999999999999999", stray(".")}},
	{strings.Repeat("[", 1025), []string{"error: JSON nesting depth limit exceeded"}},
	{strings.Repeat("[", 1024) + strings.Repeat("]", 1024), []string{strings.Repeat("[", 1024) + strings.Repeat("]", 1024)}},
}

func TestParser(t *testing.T) {
	for _, test := range parserTests {
		for _, piece := range []int{1, 3, 1 << 20} {
			if got := parse(test.input, piece); !reflect.DeepEqual(got, test.want) {
				t.Errorf("%.60q in pieces of %d:\n got %q\nwant %q", test.input, piece, got, test.want)
			}
		}
	}
}

func TestParserManyKeys(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, `,"k%d":%d`, i, i)
	}
	in := "{" + b.String()[1:]
	if got := parse(in+"}", 4096); len(got) != 1 || strings.HasPrefix(got[0], "error") {
		t.Errorf("got %.80q", got)
	}
	if got := parse(in+`,"k17":1}`, 4096); !reflect.DeepEqual(got, []string{wrong("duplicate key")}) {
		t.Errorf("got %.80q", got)
	}
}

func TestParserLimits(t *testing.T) {
	if testing.Short() {
		t.Skip("parses 140 MB")
	}
	var got []string
	p := newParser(func(v value, err *Error) {
		if err != nil {
			got = append(got, err.Desc)
		} else {
			got = append(got, fmt.Sprintf("%d bytes", len(v.str)))
		}
	})
	expect := func(want string) {
		t.Helper()
		if len(got) != 1 || got[0] != want {
			t.Errorf("got %.3q, want %q", got, want)
		}
		got = nil
	}
	x := []byte(strings.Repeat("x", 1<<20))
	p.feed([]byte{'"'})
	for range 63 {
		p.feed(x)
	}
	p.feed([]byte{'"'})
	expect("66060288 bytes")
	p.feed([]byte{'"'})
	for range 64 {
		p.feed(x)
	}
	expect("JSON token size limit exceeded")
	p.feed([]byte("\n"))
	got = nil
	p.feed([]byte{'['})
	for range 1 << 20 {
		p.feed([]byte("1,"))
	}
	expect("JSON token count limit exceeded")
}

// TestAppendJSON: what encoding/json writes comes out as QEMU writes it.
func TestAppendJSON(t *testing.T) {
	for _, test := range []struct{ in, want any }{
		{map[string]any{"a": []any{1, 2.5, true, nil}, "b": "x,y:z"}, `{"a": [1, 2.5, true, null], "b": "x,y:z"}`},
		{"é<\u2028>\x00\x7f\U0001F600\b\f\"\\", `"\u00E9<\u2028>\u0000\u007F\uD83D\uDE00\b\f\"\\"`},
		{"\xff\ufffe", `"\uFFFD\uFFFD"`},
		{json.RawMessage(`{ "k\u00e9\/" : "\ud83d\ude00\ud800" }`), `{"k\u00E9/": "\uD83D\uDE00\uFFFD"}`},
		{json.RawMessage(`1e5`), `1e5`},
	} {
		got, err := appendAny(nil, test.in)
		if err != nil || string(got) != test.want {
			t.Errorf("%v: %s, %v, want %s", test.in, got, err, test.want)
		}
	}
}

var minusZero = regexp.MustCompile(`-0([^.0-9]|$)`)

// FuzzParser: any input gives the same in any pieces, and what is taken is valid
// JSON, in ASCII, and the parser's own output means the same to it.
func FuzzParser(f *testing.F) {
	for _, test := range parserTests {
		f.Add(test.input, 2)
	}
	f.Fuzz(func(t *testing.T, input string, piece int) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		whole := parse(input, len(input)+1)
		if got := parse(input, max(1, piece&0xff)); !reflect.DeepEqual(got, whole) {
			t.Fatalf("in pieces %q, whole %q", got, whole)
		}
		for _, s := range whole {
			if strings.HasPrefix(s, "error: ") {
				continue
			}
			if !json.Valid([]byte(s)) {
				t.Fatalf("not JSON: %q", s)
			}
			for _, c := range []byte(s) {
				if c < 0x20 || c > 0x7e {
					t.Fatalf("not ASCII: %q", s)
				}
			}
			if minusZero.MatchString(s) {
				continue // -0.0 is written as -0 (%.17g, as QEMU does), which is read as the integer
			}
			if again := parse(s+" ", 1<<20); len(again) != 1 || again[0] != s {
				t.Fatalf("%q was read back as %q", s, again)
			}
		}
	})
}
