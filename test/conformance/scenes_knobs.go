// SPDX-License-Identifier: Apache-2.0

package conformance

import "strings"

// knobScenes are about capabilities, parameters and queries.
var knobScenes = []scene{{
	name: "queries of a fresh server", source: "qapi",
	script: `
query-name
query-status
query-migrate
query-migrate-capabilities
query-migrate-parameters
query-fdsets
query-uuid
query-version {"a":1}
query-status {"a":1}
query-migrate {"a":1}
query-name {"a":1}
migrate_cancel
migrate_cancel {"a":1}
migrate-pause
migrate-continue {"state":"pre-switchover"}
migrate-continue {"state":"none"}
migrate-continue {"state":"nope"}
migrate-incoming {"uri":"file:/nope"}
no-such-command
`}, {
	name: "stop and cont", source: "monitor/qmp-cmds.c qmp_stop, qmp_cont",
	script: `
stop
stop
query-status
cont
cont
query-status
stop {"a":1}
cont {"a":1}
events
`}, {
	name: "capabilities that exclude each other", source: "migration/options.c migrate_caps_check",
	script: caps("mapped-ram") + caps("xbzrle") + caps("postcopy-ram") + caps("multifd", "xbzrle") +
		caps("multifd") + "\ndiffers own since 11.0: QEMU 11 allows postcopy with multifd, and refuses it for another reason\n" +
		caps("postcopy-ram") + caps("background-snapshot") + caps("postcopy-preempt") + caps("switchover-ack") + `
migrate-set-capabilities {"capabilities":[{"capability":"nope","state":true}]}
migrate-set-capabilities {"capabilities":[{"capability":"multifd","state":1}]}
migrate-set-capabilities {"capabilities":[{"capability":"multifd"}]}
migrate-set-capabilities {"capabilities":[]}
migrate-set-capabilities
migrate-set-capabilities {"capabilities":{}}
query-migrate-capabilities
migrate {"uri":"tcp:127.0.0.1:1"}
migrate-set-capabilities {"capabilities":[{"capability":"mapped-ram","state":false}]}
migrate {"uri":"file:DIR/image"}
`}, {
	name: "capabilities that mean nothing to files", source: "migration/options.c migrate_caps_check",
	script: caps("mapped-ram") + caps("auto-converge") + caps("release-ram") + caps("return-path") + caps("late-block-activate") +
		caps("dirty-bitmaps") + caps("postcopy-blocktime") + `
migrate-set-capabilities {"capabilities":[{"capability":"zero-copy-send","state":true}]}
migrate-set-capabilities {"capabilities":[{"capability":"x-colo","state":true}]}
query-migrate-capabilities
`}, {
	name: "mapped-ram with background-snapshot", source: "migration/migration.c bg_migration_thread",
	script: caps("mapped-ram", "events") + `
fill 5
migrate-set-capabilities {"capabilities":[{"capability":"background-snapshot","state":true}]}
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1"}
wait
restart incoming
` + mapped + `
open b r image
add-fd {"fdset-id":1} < b
load {"uri":"file:/dev/fdset/1"}
differs own,vm: QEMU says completed and writes no bitmaps: the file has lost all memory. ramjet saves it all
want as it was
check 5
`}, {
	name: "parameters", source: "migration/options.c migrate_params_check; qapi",
	script: `
migrate-set-parameters {"multifd-channels":0}
migrate-set-parameters {"multifd-channels":256}
migrate-set-parameters {"multifd-channels":255}
migrate-set-parameters {"multifd-channels":"4"}
migrate-set-parameters {"max-bandwidth":-1}
migrate-set-parameters {"max-bandwidth":"x"}
migrate-set-parameters {"max-bandwidth":1.5}
migrate-set-parameters {"direct-io":1}
migrate-set-parameters {"direct-io":true}
migrate-set-parameters {"zero-page-detection":"x"}
migrate-set-parameters {"zero-page-detection":"legacy"}
migrate-set-parameters {"downtime-limit":99999999}
migrate-set-parameters {"nope":true}
migrate-set-parameters {"mode":"nope"}
migrate-set-parameters
query-migrate-parameters
migrate-set-parameters {"multifd-compression":"zlib"}
migrate-set-capabilities {"capabilities":[{"capability":"mapped-ram","state":true},{"capability":"multifd","state":true}]}
migrate {"uri":"file:DIR/image"}
differs own,vm: QEMU checks the value of before, so that compression cannot be switched off any more
migrate-set-parameters {"multifd-compression":"none"}
differs own,vm: as above
migrate-set-parameters {"multifd-channels":3}
migrate-set-capabilities {"capabilities":[{"capability":"mapped-ram","state":false}]}
migrate-set-parameters {"multifd-compression":"none"}
migrate-set-capabilities {"capabilities":[{"capability":"mapped-ram","state":true}]}
migrate-set-parameters {"multifd-compression":"zlib"}
`}}

// crawl is a migration that takes minutes.
const crawl = `
migrate-set-parameters {"max-bandwidth":16384}
fill 2
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1"}
until active
`

// hurryScenes change parameters while a migration is under way. With the old ones none would come to its end.
var hurryScenes = []scene{{
	name: "max-bandwidth during a migration", source: "migration/options.c migrate_params_apply",
	script: mapped + crawl + `
migrate-set-parameters {"max-bandwidth":0}
wait
query-migrate-parameters
`}, {
	name: "max-bandwidth during a migration over channels", source: "migration/options.c migrate_params_apply",
	script: multifd + crawl + `
migrate-set-parameters {"max-bandwidth":32768}
query-migrate-parameters
migrate-set-parameters {"max-bandwidth":1000000000000}
wait
`}, {
	name: "max-bandwidth during a plain migration", source: "migration/options.c migrate_params_apply",
	script: strings.Replace(crawl, "until active", "only qemu,vm\nuntil active\nonly own\nuntil device", 1) + `
migrate-set-parameters {"max-bandwidth":18446744073709551615}
wait
`}, {
	name: "max-bandwidth during a migration, by the human monitor", source: "migration/migration-hmp-cmds.c hmp_migrate_set_parameter",
	script: mapped + crawl + `
only qemu,vm
human-monitor-command {"command-line":"migrate_set_parameter max-bandwidth 1000000"}
only own
migrate-set-parameters {"max-bandwidth":1000000000000}
wait
`}, {
	name: "other parameters during a migration", source: "migration/options.c migrate_params_apply",
	script: mapped + crawl + `
migrate-set-parameters {"downtime-limit":100}
migrate-set-parameters {"zero-page-detection":"none"}
migrate-set-parameters {"cpu-throttle-initial":30,"cpu-throttle-increment":20,"max-cpu-throttle":50}
migrate-set-parameters {"avail-switchover-bandwidth":1000,"max-postcopy-bandwidth":1000}
migrate-set-parameters {"multifd-channels":0}
migrate-set-parameters {"nope":1}
migrate-set-capabilities {"capabilities":[{"capability":"multifd","state":true}]}
query-migrate-parameters
migrate-set-parameters {"max-bandwidth":0}
wait
`}}

func caps(names ...string) string {
	s := ""
	for _, n := range names {
		if s != "" {
			s += ","
		}
		s += `{"capability":"` + n + `","state":true}`
	}
	return `migrate-set-capabilities {"capabilities":[` + s + "]}\n"
}
