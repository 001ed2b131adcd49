// SPDX-License-Identifier: Apache-2.0

package conformance

import "strings"

// upstreamScenes are QEMU's own tests of migration to files: tests/qtest/migration/file-tests.c. Their guest writes all the
// time; this one has no processor, so that "live" is a guest that is not stopped. Live saves of guests that do write
// are tested with a Linux guest in test/e2e.
var upstreamScenes = []scene{
	upstream("/migration/precopy/file", plain, "", "stop"),
	upstream("/migration/precopy/file/offset", plain, ",offset=0x1000", ""),
	upstreamSet("/migration/precopy/file/offset/fdset", plain, "w", "r", ""),
	{
		name: "/migration/precopy/file/offset/bad", source: fileTests, paths: true,
		script: `
migrate {"uri":"file:DIR/image,offset=0x20M"}
query-migrate
`},
	upstream("/migration/precopy/file/mapped-ram", mapped, "", "stop"),
	upstream("/migration/precopy/file/mapped-ram/live", mapped, "", ""),
	upstream("/migration/multifd/file/mapped-ram", multifd, "", "stop"),
	upstream("/migration/multifd/file/mapped-ram/live", multifd, "", ""),
	upstream("/migration/multifd/file/mapped-ram/ignore-shared", mapped+ignoreShared, "", "stop"),
	upstream("/migration/multifd/file/mapped-ram/dio", direct, "", "stop"),
	upstreamSet("/migration/multifd/file/mapped-ram/fdset", multifd, "w w", "r r", "stop"),
	upstreamSet("/migration/multifd/file/mapped-ram/fdset/dio", direct, "w w+direct", "r r+direct", "stop"),
}

const (
	fileTests = "tests/qtest/migration/file-tests.c"

	plain = `
migrate-set-capabilities {"capabilities":[{"capability":"events","state":true}]}
`
	ignoreShared = `
differs own: this guest's memory is never shared with the one that loads it
migrate-set-capabilities {"capabilities":[{"capability":"x-ignore-shared","state":true}]}
`
)

// upstream is test_file_common with a path: stop perhaps, save, load, look at the memory and at what is before the stream.
func upstream(name, setup, offset, stop string) scene {
	ours := ""
	if strings.Contains(setup, "ignore-shared") {
		ours = "differs own: QEMU 10.0 cannot load what it saved so\n"
	}
	s := "make image 4096 X\nfill 7\n" + setup + stop + "\n" +
		`migrate {"uri":"file:DIR/image` + offset + `"}` + "\nwait\nevents\n" + looked(offset) + "restart incoming\n" + setup +
		`migrate-incoming {"uri":"file:DIR/image` + offset + `"}` + "\n" + ours + "wait\n" + ours + "query-status\n" + ours + "check 7\n"
	return scene{name: name, source: fileTests, paths: true, script: s}
}

// upstreamSet is the same with descriptors and an offset.
func upstreamSet(name, setup, save, load, stop string) scene {
	const uri = `{"uri":"file:/dev/fdset/1,offset=4096"}` + "\nwait\n"
	s := "make image 4096 X\nfill 7\n" + setup + stop + "\n" + pass("a", save) + "migrate " + uri + "events\n" + looked(",offset=4096") +
		"remove-fd {\"fdset-id\":1}\nquery-fdsets\nleak\nrestart incoming\n" + setup + pass("b", load) + "migrate-incoming " + uri +
		"query-status\ncheck 7\nremove-fd {\"fdset-id\":1}\nquery-fdsets\nleak\n"
	return scene{name: name, source: fileTests, script: s}
}

func looked(offset string) string {
	if offset == "" {
		return "head image 0\n"
	}
	return "head image 0x1000\n"
}

// pass opens descriptors of the image, in modes that are words, and adds them to set 1.
func pass(name, modes string) string {
	s := ""
	for i, m := range strings.Fields(modes) {
		n := name + string(rune('0'+i))
		s += "open " + n + " " + m + " image\nadd-fd {\"fdset-id\":1} < " + n + "\n"
	}
	return s
}
