// SPDX-License-Identifier: Apache-2.0

package conformance

// mixedScenes have migrations of both formats in turn, which in front of a QEMU are done by different engines.
var mixedScenes = []scene{{
	name: "a plain stream, then mapped-ram, then a plain stream", source: "migration/migration.c migrate_prepare",
	script: plain + `
migrate-set-parameters {"max-bandwidth":0}
fill 8
open a w one
add-fd {"fdset-id":1} < a
open b w two
add-fd {"fdset-id":2} < b
migrate {"uri":"file:/dev/fdset/1"}
wait
query-status
` + caps("mapped-ram") + `
migrate {"uri":"file:/dev/fdset/2"}
cont
migrate {"uri":"file:/dev/fdset/2"}
wait
migrate_cancel
query-status
events
migrate-set-capabilities {"capabilities":[{"capability":"mapped-ram","state":false}]}
migrate {"uri":"file:/dev/fdset/1"}
cont
migrate {"uri":"file:/dev/fdset/1"}
wait
query-migrate
cont
events
check 8
`}, {
	name: "one failure is told once", source: "migration/multifd.c, migration/migration.c migrate_set_error",
	script: mapped + `
migrate {"uri":"file:/dev/fdset/4"}
wait
want MIGRATION{"status":"setup"} MIGRATION{"status":"failed"}
events
`}}
