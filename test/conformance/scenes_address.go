// SPDX-License-Identifier: Apache-2.0

package conformance

// addressScenes are about where a migration goes.
var addressScenes = []scene{{
	name: "URIs: offsets", source: "migration/file.c file_parse_offset; util/cutils.c do_strtosz", paths: true,
	script: offsets("-0", "+5", "1.5M", "1.", "1.k", ".5k", ".k", "1e3", "0x1b", "0x", "0X1B", "0x1k", "5k ", "5kk", "16E",
		"15E", "7E", "8E", "1.5", "1.0", "1.5B", "5b", "00k", "0x1.8", "1e1k", "-5", "-1k", "18446744073709551615",
		"9223372036854775807", "9223372036854775808", "18446744073709551616", "0.1k", "0.0001k", "-0x5", "+0x5", "0x20M", "",
		"1k,offset=2k"),
}, {
	name: "URIs and channels", source: "migration/migration.c qmp_migrate, migrate_uri_parse; qtest misc-tests validate_uri", paths: true,
	script: mapped + `
migrate
migrate {"uri":"x","channels":[]}
migrate {"channels":[]}
migrate {"uri":"file:DIR/i","channels":[{"channel-type":"main","addr":{"transport":"file","filename":"DIR/i","offset":0}}]}
migrate {"uri":""}
migrate {"uri":"nope:"}
migrate {"uri":"tcp:127.0.0.1:1"}
migrate {"uri":"unix:DIR/nobody"}
migrate {"uri":"exec:true"}
migrate {"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"DIR/i"}}]}
migrate {"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"DIR/i","offset":-1,"foo":1}}]}
migrate {"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"DIR/i","offset":"1"}}]}
migrate {"channels":[{"channel-type":"main","addr":{"transport":"nope"}}]}
migrate {"channels":[{"channel-type":"other","addr":{"transport":"file","filename":"DIR/i","offset":0}}]}
migrate {"channels":[{"channel-type":"main"}]}
migrate {"channels":[{"channel-type":"main","addr":{"transport":"socket","type":"unix","path":"DIR/nobody"}}]}
migrate {"channels":[{"channel-type":"main","addr":{"transport":"socket","type":"inet","host":"x"}}]}
migrate {"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"DIR/i","offset":0}},{"channel-type":"main","addr":{"transport":"file","filename":"DIR/i","offset":0}}]}
migrate {"uri":1}
differs own since 11.0: QEMU 11 has no argument detach any more
migrate {"uri":"file:DIR/i","detach":1}
migrate {"uri":"file:DIR/i","nope":1}
migrate {"uri":"file:DIR/i","resume":true}
query-migrate
migrate {"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"DIR/i,offset=4","offset":8192}}]}
wait
head i,offset=4 8192
fate
`}, {
	name: "channels without a main one", source: "migration/migration.c qmp_migrate, of QEMU 10.0",
	script: `
differs own,vm: QEMU 10.0 crashes, later ones and ramjet say what is wrong
migrate {"channels":[{"channel-type":"cpr","addr":{"transport":"file","filename":"DIR/i","offset":0}}]}
fate
query-status
`}, {
	name: "files that cannot be written to", source: "migration/file.c file_start_outgoing_migration; util/osdep.c", paths: true,
	script: mapped + `
migrate {"uri":"file:DIR/no/such"}
query-migrate
migrate {"uri":"file:"}
migrate {"uri":"file:/dev/null"}
migrate {"uri":"file:/dev/full,offset=4096"}
migrate {"uri":"file:DIR"}
events
query-status
migrate {"uri":"file:DIR/image"}
wait
`}, {
	name: "a path where the file system is out of reach", source: "ramjet serve in its sandbox",
	script: mapped + `
differs own,vm: without --no-sandbox ramjet serve opens no path, and says so
migrate {"uri":"file:DIR/image"}
only own,vm
query-status
`}}

func offsets(list ...string) string {
	s := ""
	for _, o := range list {
		s += `migrate {"uri":"file:/dev/null,offset=` + o + `"}` + "\n"
	}
	return mapped + s + "events\n"
}
