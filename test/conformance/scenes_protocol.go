// SPDX-License-Identifier: Apache-2.0

package conformance

// protocolScenes are about the protocol itself. Package qmp has more of them.
var protocolScenes = []scene{{
	name: "commands and ids", source: "qapi/qmp-dispatch.c; docs/interop/qmp-spec.rst",
	script: `
raw {"execute":"query-name","id":"x"}
raw {"execute":"query-name","id":{"a":[1,null]}}
raw {"execute":"nothing","id":7}
raw {"execute":"query-name","id":1,"nope":2}
raw {"id":3}
raw {"execute":1,"id":3}
raw {"execute":"query-name","arguments":1}
raw {"execute":"query-name","arguments":[]}
raw {"exec-oob":"query-name"}
raw []
raw "x"
raw 'single'
raw {'execute':'query-name','id':'quo\\'te'}
raw {"execute":"qmp_capabilities"}
raw {"execute":"query-name","execute":"query-name"}
differs own,vm since 11.0: QEMU 11 has another text
raw {"execute":"query-name",}
differs own,vm since 11.0: as above
raw {execute:"query-name"}
raw {"execute":nul}
raw \x01
query-name
`}, {
	name: "before the negotiation", source: "monitor/qmp.c",
	script: `
differs own since 11.0: the version is that of QEMU 10
renew
raw {"execute":"query-name"}
raw {"execute":"nothing"}
raw {"execute":"qmp_capabilities","arguments":{"enable":["nope"]}}
raw {"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}
raw {"execute":"qmp_capabilities"}
raw {"exec-oob":"query-name"}
raw {"exec-oob":"migrate-pause","id":1}
raw {"exec-oob":"nothing"}
query-name
`}, {
	name: "quit", source: "monitor/qmp-cmds.c qmp_quit",
	script: `
quit {"a":1}
quit
fate
`}}
