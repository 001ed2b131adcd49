// SPDX-License-Identifier: Apache-2.0

package conformance

import "strings"

// orderScenes are about the places of events between answers. migrate_cancel is not among them: whether QEMU says "cancelled"
// before its answer or after differs from run to run.
var orderScenes = []scene{{
	name: "events before and behind the answers of stop and cont", source: "system/cpus.c do_vm_stop, vm_prepare_start",
	script: strings.Repeat("order STOP stop\norder RESUME cont\n", 10),
}, {
	name: "an event that comes of a command behind its answer", source: "system/runstate.c qemu_system_reset_request",
	script: strings.Repeat("only qemu,vm\norder RESET system_reset\n", 20),
}, {
	name: "events around the answer of quit", source: "system/runstate.c main_loop_should_exit",
	script: "order SHUTDOWN quit\nfate\n",
}, {
	name: "events around the answers of a migration's commands", source: "migration/migration.c qmp_migrate, migration_cancel, qmp_migrate_continue",
	script: mapped + `
migrate-set-capabilities {"capabilities":[{"capability":"pause-before-switchover","state":true}]}
fill 2
open a w image
add-fd {"fdset-id":1} < a
order pre-switchover migrate {"uri":"file:/dev/fdset/1"}
order completed~ migrate-continue {"state":"pre-switchover"}
wait
order RESUME cont
`}, {
	name: "events around the answer of migrate-incoming", source: "migration/file.c file_start_incoming_migration",
	script: mapped + `
fill 2
open a w image
add-fd {"fdset-id":1} < a
order completed migrate {"uri":"file:/dev/fdset/1"}
restart incoming
` + mapped + `
open b r image
add-fd {"fdset-id":1} < b
order completed migrate-incoming {"uri":"file:/dev/fdset/1"}
check 2
`}}
