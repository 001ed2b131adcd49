// SPDX-License-Identifier: Apache-2.0

package conformance

import "strings"

// wrongSetScenes are sets that do not fit. QEMU finds out when the migration has begun, most often by crashing; ramjet
// looks first.
var wrongSetScenes = []scene{
	wrongSet("direct-io with one descriptor, without O_DIRECT", "open a w image", "a", "migration/multifd-device-state.c multifd_device_state_send_cleanup"),
	wrongSet("direct-io with two descriptors that are one (dup), without O_DIRECT", "open a w image\ndup b a", "a b", "migration/multifd-device-state.c multifd_device_state_send_cleanup"),
	wrongSet("direct-io with two descriptors without O_DIRECT", "open a w image\nopen b w image", "a b", "migration/multifd-device-state.c multifd_device_state_send_cleanup"),
	wrongSet("direct-io on a file system without it", "memfd a 0\nopen b w image", "b a", "migration/multifd-device-state.c multifd_device_state_send_cleanup"),
	wrongSet("direct-io with two descriptors of different files", "open a w image\nopen b w+direct other", "a b", "docs/devel/migration/main.rst"),
	wrongSet("direct-io with descriptors for reading and writing", "open a rw image\nopen b rw+direct image", "a b", "util/osdep.c"),
	wrongSet("direct-io with one descriptor, with O_DIRECT", "open b w+direct image", "b", "util/osdep.c"),
	wrongSet("direct-io with two descriptors that are one (dup), with O_DIRECT", "open b w+direct image\ndup c b", "b c", "util/osdep.c"),
	wrongSet("descriptors for reading only", "open a w image\nopen b r image\nopen c r+direct image", "b c", "util/osdep.c"),
	wrongSet("a pipe", "pipe a\nopen b w+direct image", "a b", "migration/file.c"),
	wrongSet("/dev/null", "open a w /dev/null\nopen b w+direct image", "a b", "migration/file.c"),
	wrongSet("O_SYNC", "open a w+sync image\nopen b w+direct image", "a b", "util/osdep.c qemu_dup_flags"),
	{
		name: "O_APPEND", source: "util/osdep.c qemu_dup_flags",
		script: direct + `
fill 2
open a w+append image
open b w+direct image
add-fd {"fdset-id":1} < a
add-fd {"fdset-id":1} < b
differs own,vm: QEMU takes O_APPEND away from the client's descriptor too; ramjet changes no flags, and O_APPEND moves all writes to the end
migrate {"uri":"file:/dev/fdset/1"}
differs own,vm: as above
wait
differs own,vm: as above
flags a
query-fdsets
fate
check 2
`}, {
		name: "O_NOATIME, and the position", source: "util/osdep.c qemu_dup_flags",
		script: multifd + `
fill 2
open a w+noatime image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1,offset=4096"}
wait
differs own,vm: QEMU sets the flags that it wants, on what it shares with the client, and moves the position; ramjet leaves both alone
flags a
fate
`}, {
		name: "three descriptors, newest first", source: "monitor/fds.c monitor_fdset_dup_fd_add",
		script: direct + `
fill 2
open a w other
open b w image
open c w+direct image
add-fd {"fdset-id":1} < a
add-fd {"fdset-id":1} < b
add-fd {"fdset-id":1} < c
migrate {"uri":"file:/dev/fdset/1"}
wait
size other
head image 0
differs own,vm: QEMU writes where the descriptor stands, ramjet at offsets
flags b
flags c
`}, {
		name: "two descriptors that are one, without direct-io", source: "docs/devel/migration/main.rst",
		script: multifd + `
fill 2
open a w image
dup b a
add-fd {"fdset-id":1} < a
add-fd {"fdset-id":1} < b
migrate {"uri":"file:/dev/fdset/1"}
wait
head image 0
restart incoming
` + multifd + `
open c r image
add-fd {"fdset-id":1} < c
migrate-incoming {"uri":"file:/dev/fdset/1"}
wait
check 2
`}, {
		name: "direct-io without multifd", source: "migration/options.c migrate_direct_io",
		script: mapped + `
fill 2
migrate-set-parameters {"direct-io":true}
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1"}
wait
head image 0
`}, {
		name: "direct-io, loading: wrong sets", source: "util/osdep.c", incoming: true,
		script: direct + `
make image 4096 X
open a r image
open w w image
add-fd {"fdset-id":1} < a
add-fd {"fdset-id":2} < w
differs own,vm: ramjet says which descriptor is missing
migrate-incoming {"uri":"file:/dev/fdset/1"}
differs own,vm: QEMU can only try once
migrate-incoming {"uri":"file:/dev/fdset/2"}
query-fdsets
query-status
leak
`}}

// wrongSet passes a set that does not fit a direct save, and looks at what has become of everybody.
func wrongSet(name, open, add, source string) scene {
	s := direct + "fill 2\n" + open + "\n"
	for _, n := range strings.Fields(add) {
		s += "add-fd {\"fdset-id\":1} < " + n + "\n"
	}
	s += `
differs own,vm: ramjet looks at the whole set before it touches anything
save {"uri":"file:/dev/fdset/1"}
want running
fate
differs own,vm: as above
want {"running":true,"status":"running"}
query-status
want as it was
check 2
query-fdsets
`
	for _, n := range strings.Fields(add) {
		s += "differs own,vm: nothing of the client's is touched\nwant unchanged\nflags " + n + "\n"
	}
	return scene{name: name, source: source, script: s + "remove-fd {\"fdset-id\":1}\nwant none\nleak\n"}
}
