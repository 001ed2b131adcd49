// SPDX-License-Identifier: Apache-2.0

package conformance

// migrationScenes are about states, events and statistics.
var migrationScenes = []scene{{
	name: "states, events and statistics", source: "migration/migration.c",
	script: multifd + `
fill 1
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1"}
wait
events
query-migrate
query-status
migrate {"uri":"file:/dev/fdset/1"}
cont
query-status
events
stop
migrate {"uri":"file:/dev/fdset/1"}
wait
events
query-status
cont
events
check 1
remove-fd {"fdset-id":1}
query-fdsets
leak
`}, {
	name: "no events without the capability", source: "migration/migration.c migrate_generate_event",
	script: `
migrate-set-capabilities {"capabilities":[{"capability":"mapped-ram","state":true}]}
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1"}
wait
events
`}, {
	name: "cancel", source: "migration/migration.c migration_cancel",
	script: multifd + `
fill 1
open a w image
add-fd {"fdset-id":1} < a
migrate-set-parameters {"max-bandwidth":100000}
migrate {"uri":"file:/dev/fdset/1"}
# Earlier QEMU might crash: its channels would fail to open.
until active
migrate {"uri":"file:/dev/fdset/1"}
migrate-set-capabilities {"capabilities":[{"capability":"multifd","state":false}]}
migrate_cancel
migrate_cancel
wait
query-status
migrate-set-parameters {"max-bandwidth":0}
migrate {"uri":"file:/dev/fdset/1"}
wait
check 1
remove-fd {"fdset-id":1}
leak
`}, {
	name: "pause before the switchover", source: "migration/migration.c migration_maybe_pause",
	script: mapped + caps("pause-before-switchover") + `
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1"}
until pre-switchover
query-status
migrate-continue {"state":"device"}
migrate-continue {"state":"pre-switchover"}
wait
events
cont
migrate {"uri":"file:/dev/fdset/1"}
until pre-switchover
migrate_cancel
wait
query-status
`}, {
	name: "pages of zeros", source: "migration/ram.c save_zero_page; parameter zero-page-detection",
	script: multifd + `
fill 1
open a w image
add-fd {"fdset-id":1} < a
migrate-set-parameters {"zero-page-detection":"none"}
migrate {"uri":"file:/dev/fdset/1"}
wait
query-migrate
restart incoming
` + multifd + `
open b r image
add-fd {"fdset-id":1} < b
migrate-incoming {"uri":"file:/dev/fdset/1"}
wait
check 1
`}, {
	name: "incoming: before, during and after", source: "migration/migration.c qmp_migrate_incoming", incoming: true,
	script: mapped + `
query-status
query-migrate
migrate {"uri":"file:/dev/fdset/1"}
cont
stop
query-status
migrate-incoming
migrate-incoming {"uri":"nope:"}
migrate-incoming {"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"x"}}]}
migrate-incoming {"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"x","offset":0}},{"channel-type":"main","addr":{"transport":"file","filename":"x","offset":0}}]}
migrate-incoming {"uri":"file:/dev/fdset/1,offset=x"}
migrate-incoming {"uri":"file:/dev/fdset/1","exit-on-error":1}
query-migrate
restart
` + mapped + `
fill 3
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1"}
wait
restart incoming
` + mapped + `
open b r image
add-fd {"fdset-id":1} < b
stop
migrate-incoming {"uri":"file:/dev/fdset/1"}
wait
events
query-status
check 3
migrate-incoming {"uri":"file:/dev/fdset/1"}
remove-fd {"fdset-id":1}
leak
open c w again
add-fd {"fdset-id":1} < c
migrate {"uri":"file:/dev/fdset/1"}
wait
query-status
`}, {
	name: "a paused guest stays paused", source: "migration/global_state.c",
	script: mapped + `
fill 4
stop
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1"}
wait
events
restart incoming
` + mapped + `
open b r image
add-fd {"fdset-id":1} < b
migrate-incoming {"uri":"file:/dev/fdset/1"}
wait
events
query-status
check 4
`}, {
	name: "an incoming migration that cannot be", source: "migration/migration.c migration_incoming_state_setup", incoming: true,
	script: mapped + `
migrate-incoming {"uri":"file:/dev/fdset/1"}
differs own,vm: QEMU is stuck in setup from now on; ramjet has not begun
events
differs own,vm: as above
query-migrate
open a r /dev/null
add-fd {"fdset-id":1} < a
differs own,vm: QEMU can only try once; ramjet looks at the set first, and can try again
migrate-incoming {"uri":"file:/dev/fdset/1"}
query-status
`}, {
	name: "no migration at all", source: "system/vl.c; migration/migration.c",
	script: mapped + `
migrate-incoming {"uri":"file:/dev/fdset/1"}
migrate_cancel
query-migrate
events
`}}
