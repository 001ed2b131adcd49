// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// documented is the version of the QEMU whose answers the documents have.
var documented = version{10, 0}

// tableFile is the table's name beside the page.
const tableFile = "conformance-table.md"

// pageHead is the beginning of the page for users. %[1]d and so on are the numbers of rows, answers, comparisons
// without a difference, and comparisons.
const pageHead = `<!-- Made by make conformance from test/conformance. Do not edit. -->

# ramjet serve and QEMU

` + "`ramjet serve`" + ` speaks QEMU's monitor protocol, with QEMU 10.0's answers, word for word. A test gives the same commands and descriptors
to a stock QEMU, to ` + "`ramjet serve --memory`" + ` (a guest that is only memory) and to ` + "`ramjet serve --vm`" + ` in front of a QEMU, and compares the
answers: %[1]d rows of commands, %[2]d answers each. %[3]d of the %[4]d comparisons of a row have no difference. The full table is in
[` + tableFile + `](` + tableFile + `).

The differences below are deliberate. There are no others that the test knows of.
`

// topic is a deliberate difference, for users: a heading, what it means, and the names of the rows of the table that
// show it.
type topic struct {
	title, text string
	rows        []string
}

// topics are all deliberate differences from QEMU 10.0.
var topics = []topic{
	{"A wrong descriptor set is refused before anything is changed",
		"Ramjet checks the whole set when the command arrives. The error names the wrong descriptor or the missing one, the guest runs on, and the " +
			"client's descriptors and files are unchanged. QEMU crashes on some of these sets, hangs on others, and on the rest " +
			"fails after it has truncated the file or stopped the guest.",
		[]string{"direct-io with one descriptor, without O_DIRECT", "direct-io with two descriptors that are one (dup), without O_DIRECT",
			"direct-io with two descriptors without O_DIRECT", "direct-io on a file system without it", "direct-io with two descriptors of different files",
			"direct-io with descriptors for reading and writing", "direct-io with one descriptor, with O_DIRECT",
			"direct-io with two descriptors that are one (dup), with O_DIRECT", "descriptors for reading only", "a pipe", "/dev/null", "O_SYNC",
			"direct-io, loading: wrong sets", "an incoming migration that cannot be"}},
	{"A failed incoming migration can be tried again",
		"QEMU ends, hangs, or refuses a second `migrate-incoming`. Ramjet says what is wrong with the file, and the guest still waits for a migration.",
		[]string{"an incoming migration that cannot be", "loading: no stream", "loading: an empty file", "loading: cut off within the pages",
			"loading: cut off within the device state", "loading: header version 2", "loading: page size 0", "loading: page size 8192",
			"loading: pages at an odd place", "loading: a block of another length", "loading: a block of another name", "loading: another machine",
			"loading: an old version"}},
	{"Flags and positions of the client's descriptors stay as they are",
		"QEMU sets flags on open file descriptions that it shares with the client, and moves their position. Ramjet changes neither. It reads and " +
			"writes at offsets, and refuses a descriptor with O_APPEND, with which Linux writes at the end whatever the offset.",
		[]string{"O_APPEND", "O_NOATIME, and the position", "three descriptors, newest first"}},
	{"A descriptor that no command takes is closed with the command it came with",
		"QEMU keeps it, and gives it to a later command that came without one.",
		[]string{"a descriptor that no command takes"}},
	{"No path is opened without --no-sandbox",
		"By default `ramjet serve` has no access to the file system: pass descriptors with `add-fd` and migrate to `file:/dev/fdset/N`. The error says so.",
		[]string{"a path where the file system is out of reach"}},
	{"Channels without a main one are an error", "QEMU 10.0 crashes.", []string{"channels without a main one"}},
	{"background-snapshot with mapped-ram saves the memory",
		"QEMU reports completion, and the file has lost all memory.", []string{"mapped-ram with background-snapshot"}},
	{"Compression and TLS can be switched off while mapped-ram is on",
		"QEMU checks the values before the change, and so refuses the change that would put them right.", []string{"parameters", "texts: TLS"}},
	{"A block device can be the file of a migration",
		"QEMU fails on one, since it cannot truncate it. Ramjet writes the image at the offset and leaves what is behind it.",
		[]string{"a block device", "a block device that is too small"}},
	{"A guest that is only memory has no devices and no processes",
		"Disks, the migration mode cpr, migration to something other than a file, and memory shared with the process that loads it are refused. A memory backend " +
			"can be a passed descriptor, which QEMU does not allow. This concerns `ramjet serve --memory` only.",
		[]string{"a set for a disk", "/migration/multifd/file/mapped-ram/ignore-shared", "memory in a passed descriptor",
			"texts: descriptors by name, for a migration", "texts: another mode"}},
}

// pageFor renders the page for users.
func pageFor(rows []row) []byte {
	var b bytes.Buffer
	answers, same := totals(rows)
	fmt.Fprintf(&b, pageHead, len(rows), answers, same, 2*len(rows))
	for _, t := range topics {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\nIn the table: ", t.title, t.text)
		for i, name := range t.rows {
			if i > 0 {
				b.WriteString(", ")
			}
			n := slices.IndexFunc(rows, func(r row) bool { return r.name == name })
			fmt.Fprintf(&b, "[%s](%s#row-%d)", escape(name), tableFile, n+1)
		}
		b.WriteString(".\n")
	}
	return b.Bytes()
}

// totals counts the answers of one kind of server, and the comparisons without a difference.
func totals(rows []row) (answers, same int) {
	for _, r := range rows {
		n, differ := r.count()
		answers += n
		for _, kind := range others {
			if differ[kind] == 0 {
				same++
			}
		}
	}
	return answers, same
}

// topicFaults compares the topics with the scenes: each row of a topic exists, and each scene that declares a
// difference from QEMU 10.0 is in a topic.
func topicFaults() (faults []string) {
	mentioned := map[string]bool{}
	for _, t := range topics {
		for _, name := range t.rows {
			mentioned[name] = true
			if !slices.ContainsFunc(scenes(), func(s scene) bool { return s.name == name }) {
				faults = append(faults, fmt.Sprintf("topic %q names a row %q, which does not exist", t.title, name))
			}
		}
	}
	for _, s := range scenes() {
		for _, st := range parse(s.script) {
			_, own := st.declared(own, documented)
			_, front := st.declared(front, documented)
			if (own || front) && !mentioned[s.name] {
				faults = append(faults, fmt.Sprintf("row %q has a difference and is in no topic: %s", s.name, strings.TrimSpace(st.text)))
				break
			}
		}
	}
	return faults
}
