// SPDX-License-Identifier: Apache-2.0

package conformance

// objectScenes are about memory backends.
var objectScenes = []scene{{
	name: "memory backends", source: "qom/object_interfaces.c, backends/hostmem*.c",
	script: `
qom-list {"path":"/objects"}
qom-list {"path":"objects"}
qom-list {"path":"/nope"}
qom-list
object-add {"qom-type":"memory-backend-memfd","id":"m1","size":1048576}
object-add {"qom-type":"memory-backend-memfd","id":"m1","size":1048576}
object-add {"qom-type":"memory-backend-memfd","id":"m2"}
object-add {"qom-type":"memory-backend-memfd","id":"m2","size":0}
object-add {"qom-type":"memory-backend-memfd","id":"m2","size":5000}
object-add {"qom-type":"memory-backend-memfd","id":"9m","size":4096}
object-add {"qom-type":"memory-backend-memfd","id":"m3","size":4096,"foo":1}
object-add {"qom-type":"memory-backend-memfd","size":4096}
object-add {"qom-type":"memory-backend-file","id":"m2","size":5000}
object-add {"qom-type":"nope","id":"m2"}
object-add {"id":"m2"}
qom-list {"path":"/objects"}
differs own since 11.0: QEMU 11 has another text
object-del {"id":"m0"}
object-del {"id":"m1"}
object-del {"id":"m1"}
object-del
`}, {
	name: "memory in a passed descriptor", source: "ramjet serve",
	script: mapped + `
memfd m 4194304
add-fd {"fdset-id":9} < m
differs own: QEMU opens the path of a memory backend itself and knows no descriptor sets there
object-add {"qom-type":"memory-backend-file","id":"m1","size":4194304,"mem-path":"/dev/fdset/9","share":true}
remove-fd {"fdset-id":9}
only own
qom-list {"path":"/objects"}
open a w image
add-fd {"fdset-id":1} < a
migrate {"uri":"file:/dev/fdset/1"}
wait
only own
query-migrate
only own
object-del {"id":"m1"}
`}}
