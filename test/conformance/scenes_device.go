// SPDX-License-Identifier: Apache-2.0

package conformance

// deviceScenes have a block device in the place of a file. QEMU 10.0 truncates it, which fails.
var deviceScenes = []scene{{
	name: "a block device", source: "migration/file.c file_start_outgoing_migration",
	script: mapped + `
device disk 33554432
fill 2
open a w disk
add-fd {"fdset-id":1} < a
differs own,vm: QEMU cannot save to a block device; ramjet writes from its beginning and leaves what is behind
want completed
save {"uri":"file:/dev/fdset/1"}
differs own,vm: as above
want a stream
head disk 0
flags a
cont
remove-fd {"fdset-id":1}
restart incoming
` + mapped + `
open b r disk
add-fd {"fdset-id":1} < b
differs own,vm: as above
want completed
load {"uri":"file:/dev/fdset/1"}
want as it was
check 2
`}, {
	name: "a block device that is too small", source: "migration/file.c file_start_outgoing_migration",
	script: multifd + `
device disk 8388608
fill 2
open a w disk
add-fd {"fdset-id":1} < a
differs own,vm: QEMU says what it always says of a block device
save {"uri":"file:/dev/fdset/1"}
query-status
flags a
`}}
