// SPDX-License-Identifier: Apache-2.0

package conformance

// damageScenes load images that something has happened to.
var damageScenes = []scene{
	damaged("no stream", "make image 8192 X"),
	damaged("an empty file", "make image 0 X"),
	damaged("cut off within the pages", "cut image 3000000"),
	damaged("cut off within the device state", "cut image -40"),
	damaged("header version 2", "poke image 0x64 00000002"),
	damaged("page size 0", "poke image 0x68 0000000000000000"),
	damaged("page size 8192", "poke image 0x68 0000000000002000"),
	damaged("pages at an odd place", "poke image 0x78 0000000000100001"),
	damaged("a block of another length", "poke image 0x5c 0000000000400000"),
	damaged("a block of another name", "poke image 0x5a 7878"),
	damaged("another machine", "poke image 0x0d 6d6f7265"),
	damaged("an old version", "poke image 4 00000002"),
}

// damaged saves, does something to the image, and loads it with several channels.
func damaged(name, what string) scene {
	return scene{name: "loading: " + name, source: "migration/ram.c parse_ramblock_mapped_ram, migration/savevm.c",
		script: mapped + `
fill 6
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1"}
wait
` + what + `
restart incoming
` + multifd + `
open b r image
add-fd {"fdset-id":1} < b
differs own,vm: ramjet says what is wrong, where QEMU does so on its standard error, takes it for good, hangs or crashes
load {"uri":"file:/dev/fdset/1","exit-on-error":false}
differs own,vm: as above
want {"running":false,"status":"inmigrate"}
query-status
want running
fate
`}
}
