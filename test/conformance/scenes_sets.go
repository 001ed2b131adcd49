// SPDX-License-Identifier: Apache-2.0

package conformance

// setScenes are about descriptor sets and named descriptors.
var setScenes = []scene{{
	name: "descriptor sets: ids and order", source: "monitor/fds.c monitor_fdset_add_fd, qmp_query_fdsets",
	script: `
open a r /dev/null
add-fd < a
add-fd {"opaque":"second"} < a
add-fd {"fdset-id":5} < a
add-fd < a
add-fd < a
add-fd {"fdset-id":5,"opaque":"x"} < a
query-fdsets
remove-fd {"fdset-id":2}
add-fd < a
query-fdsets
remove-fd {"fdset-id":0}
remove-fd {"fdset-id":1}
remove-fd {"fdset-id":2}
remove-fd {"fdset-id":3}
remove-fd {"fdset-id":5}
query-fdsets
leak
`}, {
	name: "iotest 045: descriptor sets", source: "tests/qemu-iotests/045",
	script: `
open a r /dev/null
add-fd {"opaque":"image0:r"} < a
add-fd {"opaque":"image0:w+"} < a
add-fd {"opaque":"image2:ro"} < a
add-fd {"fdset-id":0,"opaque":"image3"} < a
query-fdsets
remove-fd {"fdset-id":3,"fd":4}
remove-fd {"fdset-id":2,"fd":999}
remove-fd {"fdset-id":3}
query-fdsets
remove-fd {"fdset-id":2}
add-fd
add-fd {"fdset-id":7,"opaque":"new"} < a
query-fdsets
`}, {
	name: "iotest 045: named descriptors", source: "tests/qemu-iotests/045, TestSCMFd",
	script: `
open a r /dev/null
getfd {"fdname":"image0:r"} < a
closefd {"fdname":"image0:r"}
getfd {"fdname":"image0:r"} < a
getfd {"fdname":"image0:r"} < a
closefd {"fdname":"image0:r"}
closefd {"fdname":"image0:r"}
getfd {"fdname":"0:r"} < a
getfd {"fdname":"image0:r"}
closefd {"fdname":"9x"}
leak
`}, {
	name: "descriptor sets: wrong arguments", source: "monitor/fds.c; qapi/qmp-dispatch.c",
	script: `
open a r /dev/null
add-fd {"fdset-id":-1} < a
add-fd {"fdset-id":-1}
add-fd {"fdset-id":9223372036854775807} < a
remove-fd {"fdset-id":9223372036854775807}
add-fd {"fdset-id":9223372036854775808} < a
add-fd {"fdset-id":1.5} < a
add-fd {"fdset-id":"1"} < a
add-fd {"fdset":1} < a
add-fd {"opaque":1} < a
remove-fd
remove-fd {"fdset-id":0}
remove-fd {"fdset-id":0,"fd":0}
remove-fd {"fdset-id":0,"fd":"x"}
query-fdsets {"fdset-id":1}
query-fdsets
getfd
closefd {"fdname":1}
`}, {
	name: "descriptor sets outlive a connection", source: "monitor/qmp.c monitor_qmp_event; QEMU 9.1 and later",
	script: `
open a r /dev/null
add-fd {"fdset-id":3,"opaque":"kept"} < a
getfd {"fdname":"kept"} < a
reconnect
query-fdsets
closefd {"fdname":"kept"}
remove-fd {"fdset-id":3}
query-fdsets
leak
`}, {
	name: "a descriptor that no command takes", source: "chardev/char-socket.c tcp_chr_recv",
	script: `
open a r /dev/null
open b w b
query-name < a
differs own,vm: QEMU keeps it, and gives it to a later command that it was not sent with; ramjet closes it with its command
add-fd {"fdset-id":1}
add-fd {"fdset":1} < a
differs own,vm: the same behind a command that was refused
add-fd {"fdset-id":1}
send DIR < a
raw \x01
only own,vm
leak
`}, {
	name: "a descriptor ahead of its command", source: "tests/qemu-iotests/045; docs/interop/qmp-spec.rst",
	script: `
open a r /dev/null
send < a
add-fd {"fdset-id":1}
query-fdsets
`}, {
	name: "several descriptors with one command", source: "monitor/fds.c qmp_add_fd; chardev/char-fe.c qemu_chr_fe_get_msgfd",
	script: `
open a r /dev/null
open b w b
add-fd {"fdset-id":1} < a b
add-fd {"fdset-id":1}
query-fdsets
remove-fd {"fdset-id":1}
leak
`}, {
	name: "/dev/fdset/N: names", source: "util/osdep.c qemu_parse_fdset, qemu_open_internal",
	script: mapped + `
migrate {"uri":"file:/dev/fdset/"}
migrate {"uri":"file:/dev/fdset/x"}
migrate {"uri":"file:/dev/fdset/-1"}
migrate {"uri":"file:/dev/fdset/0x1"}
migrate {"uri":"file:/dev/fdset/1/"}
migrate {"uri":"file:/dev/fdset/2147483648"}
migrate {"uri":"file:/dev/fdset/2147483647"}
migrate {"uri":"file:/dev/fdset/1"}
query-migrate
events
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/ 1"}
wait
`}, {
	name: "a set in use is removed", source: "monitor/fds.c qmp_remove_fd, monitor_fdset_dup_fd_remove",
	script: mapped + `
fill 1
open a w image
add-fd {"fdset-id":1} < a
migrate-set-parameters {"max-bandwidth":4000000}
migrate {"uri":"file:/dev/fdset/1"}
until active
remove-fd {"fdset-id":1}
query-fdsets
migrate-set-parameters {"max-bandwidth":0}
migrate_cancel
wait
query-fdsets
leak
`}, {
	name: "a set for a disk", source: "block/file-posix.c; util/osdep.c",
	script: `
make disk 1048576 d
open d rw disk
add-fd {"fdset-id":2,"opaque":"disk"} < d
differs own: a guest that is only memory has no disks
blockdev-add {"driver":"file","node-name":"n","filename":"/dev/fdset/2","locking":"off"}
remove-fd {"fdset-id":2}
differs own: nobody has opened it
query-fdsets
open a w image
add-fd {"fdset-id":1} < a
` + mapped + `
migrate {"uri":"file:/dev/fdset/1"}
wait
cont
differs own: as above
blockdev-del {"node-name":"n"}
remove-fd {"fdset-id":1}
query-fdsets
`}}
