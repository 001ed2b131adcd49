// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"fmt"
	"strings"
)

// row is a scene that was played to everybody.
type row struct {
	scene
	steps   []step
	version version             // QEMU's
	answers map[string][]string // by kind
}

// others are the kinds that are compared with QEMU.
var others = []string{own, front}

// different lists the kinds that answered a step otherwise than QEMU.
func (r row) different(i int) (kinds []string) {
	for _, kind := range others {
		if r.played(i, kind) && r.played(i, stock) && r.answers[kind][i] != r.answers[stock][i] {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

func (r row) played(i int, kind string) bool { return r.steps[i].only == nil || r.steps[i].only[kind] }

// crashed reports whether QEMU was gone already before step i.
func (r row) crashed(i int) bool {
	if i == 0 || r.answers[stock][i] != monitorGone && !strings.HasPrefix(r.answers[stock][i], "killed") &&
		!strings.HasPrefix(r.answers[stock][i], "ended") {
		return false
	}
	for ; i > 0; i-- {
		if a := r.answers[stock][i-1]; a == monitorGone || a == "(it hangs)" {
			return true
		}
		if r.steps[i-1].text == "restart" || r.steps[i-1].text == "restart incoming" {
			return false
		}
	}
	return false
}

// undeclared lists the differences that no reason is given for.
func (r row) undeclared() (list []string) {
	for i, st := range r.steps {
		for _, kind := range others {
			if st.want != "" && r.played(i, kind) && r.answers[kind][i] != st.want {
				list = append(list, fmt.Sprintf("%s\n  %s says %s\n  wanted is %s", st.text, kind, r.answers[kind][i], st.want))
			}
		}
		for _, kind := range r.different(i) {
			mine, theirs := r.answers[kind][i], r.answers[stock][i]
			ended := mine == monitorGone || strings.HasPrefix(mine, "killed")
			_, declared := st.declared(kind, r.version)
			if ended || !declared && !r.crashed(i) {
				list = append(list, fmt.Sprintf("%s\n  QEMU says %s\n  %s says %s", st.text, theirs, kind, mine))
			}
		}
	}
	return list
}

const head = `<!-- Made by make conformance from test/conformance. Do not edit. -->

# The table of conformance

This is the appendix of [conformance.md](conformance.md), which explains the differences. The same commands, with the same
descriptors, were given to a stock QEMU 10.0, to ` + "`ramjet serve`" + ` with memory of its own, and to ` + "`ramjet serve --vm`" + ` in front of a
QEMU, and their answers were compared: every word of every error, every state and event, and the state of files, guest
memory and the client's descriptors afterwards. Times, rates and counts of bytes on the wire are not compared; descriptors are numbered in
the order in which they appear.

A row of QEMU's own test suite has the name of the test, any other row that of its subject. "As QEMU" means that all answers
were the same; every other answer is listed below the table with its reason.

`

// render makes the table.
func render(rows []row) []byte {
	var b, details bytes.Buffer
	b.WriteString(head)
	var table bytes.Buffer
	table.WriteString("| row | holds to | answers | serve | serve --vm |\n|---|---|---:|---|---|\n")
	for n, r := range rows {
		count, differ := r.count()
		cell := map[string]string{}
		for _, kind := range others {
			cell[kind] = "as QEMU"
			if differ[kind] > 0 {
				cell[kind] = fmt.Sprintf("[%d otherwise](#row-%d)", differ[kind], n+1)
			}
		}
		fmt.Fprintf(&table, "| %s | %s | %d | %s | %s |\n", escape(r.name), escape(r.source), count, cell[own], cell[front])
		if differ[own]+differ[front] > 0 {
			r.detail(&details, n+1)
		}
	}
	answers, same := totals(rows)
	fmt.Fprintf(&b, "%d rows, %d answers each; %d of the %d comparisons of a row are without any difference.\n\n", len(rows), answers, same, 2*len(rows))
	b.Write(table.Bytes())
	b.WriteString(unreachable)
	b.WriteString("\n## Differences\n")
	b.Write(details.Bytes())
	return b.Bytes()
}

// count counts the answers, and the different ones by kind.
func (r row) count() (n int, differ map[string]int) {
	differ = map[string]int{}
	for i := range r.steps {
		if r.answers[own][i] == nothing && r.answers[stock][i] == nothing {
			continue
		}
		n++
		for _, kind := range r.different(i) {
			differ[kind]++
		}
	}
	return n, differ
}

// detail lists a row's differences.
func (r row) detail(b *bytes.Buffer, n int) {
	fmt.Fprintf(b, "\n### <a id=\"row-%d\"></a>%s\n\n", n, escape(r.name))
	for i, st := range r.steps {
		kinds := r.different(i)
		if len(kinds) == 0 {
			continue
		}
		reason, ok := st.declared(kinds[0], r.version)
		if !ok {
			reason = "QEMU is gone"
		}
		fmt.Fprintf(b, "- `%s`: %s\n    - QEMU: %s\n", st.text, escape(reason), code(r.answers[stock][i]))
		if len(kinds) == 2 && r.answers[own][i] == r.answers[front][i] {
			fmt.Fprintf(b, "    - both: %s\n", code(r.answers[own][i]))
			continue
		}
		for _, kind := range kinds {
			fmt.Fprintf(b, "    - %s: %s\n", kind, code(r.answers[kind][i]))
		}
	}
}

func code(s string) string {
	if s == nothing {
		return "nothing"
	}
	return "`" + strings.ReplaceAll(s, "`", "'") + "`"
}

var escaper = strings.NewReplacer("|", `\|`, "<", `\<`, "*", `\*`)

func escape(s string) string { return escaper.Replace(s) }
