// SPDX-License-Identifier: Apache-2.0

package conformance

// textScenes have the error texts that no other row comes by. Those that cannot be had at all are listed in unreachable.
var textScenes = []scene{{
	name: "texts: descriptors by name, for a migration", source: "monitor/fds.c monitor_get_fd, monitor_fd_param",
	script: `
differs own: a guest that is only memory goes to files
migrate {"uri":"fd:nope"}
differs own: as above
migrate {"uri":"fd:9x"}
differs own: as above, and nothing has begun
query-migrate
query-status
`}, {
	name: "texts: members of an address", source: "qapi/qapi-visit-core.c", paths: true,
	script: mapped + `
migrate {"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"DIR/i","offset":0,"foo":1}}]}
migrate {"channels":[{"channel-type":"main","addr":{"transport":"file","offset":0}}]}
migrate {"channels":[{"channel-type":"main","addr":{"filename":"DIR/i","offset":0}}]}
migrate {"channels":[{"addr":{"transport":"file","filename":"DIR/i","offset":0}}]}
migrate {"channels":[{"channel-type":"main","addr":1}]}
migrate {"channels":{}}
`}, {
	name: "texts: capabilities that exclude each other", source: "migration/options.c migrate_caps_check",
	script: caps("postcopy-ram", "x-ignore-shared") + caps("xbzrle", "multifd") + caps("xbzrle", "mapped-ram") +
		caps("background-snapshot", "return-path") + caps("background-snapshot", "auto-converge") + caps("background-snapshot", "release-ram") +
		caps("background-snapshot", "dirty-bitmaps") + caps("background-snapshot", "late-block-activate") + caps("background-snapshot", "postcopy-blocktime") +
		caps("background-snapshot", "pause-before-switchover") + caps("background-snapshot", "xbzrle") + caps("background-snapshot", "validate-uuid") +
		caps("background-snapshot", "multifd") +
		"\ndiffers own since 11.0: in QEMU 11 x-colo requires return-path, and that is checked first\n" + caps("background-snapshot", "x-colo") + caps("background-snapshot", "rdma-pin-all") + `
query-migrate-capabilities
`}, {
	name: "texts: TLS", source: "migration/migration.c migrate_prepare", paths: true,
	script: `
migrate-set-parameters {"tls-creds":"tls0"}
` + caps("mapped-ram") + `
want error: Cannot use TLS with mapped-ram
migrate {"uri":"file:DIR/i"}
query-migrate
query-status
want error: Mapped-ram only available for non-compressed non-TLS multifd migration
migrate-set-parameters {"max-bandwidth":0}
differs own,vm: QEMU checks the value of before, so that TLS cannot be switched off any more
migrate-set-parameters {"tls-creds":""}
`}, {
	name: "texts: another mode", source: "migration/migration.c migration_channels_and_transport_compatible", paths: true,
	script: `
differs own: this guest has no processes that it could be handed to
migrate-set-parameters {"mode":"cpr-transfer"}
only qemu,vm
migrate {"uri":"file:DIR/i"}
only qemu,vm
query-status
`}, {
	name: "texts: multifd after the load", source: "migration/options.c migrate_caps_check, migrate_incoming_started", paths: true,
	script: mapped + `
migrate {"uri":"file:DIR/i"}
wait
restart incoming
` + mapped + `
migrate-incoming {"uri":"file:DIR/i"}
wait
` + caps("multifd"),
}, {
	name: "texts: a path that cannot be loaded", source: "util/osdep.c; migration/file.c", paths: true, incoming: true,
	script: mapped + `
migrate-incoming {"uri":"file:DIR/no/such"}
query-status
`}, {
	name: "texts: the parser", source: "qobject/json-lexer.c, json-parser.c, json-streamer.c",
	script: `
raw {"execute":"a\xc3("}
raw {"execute":"a\xf5\x80\x80\x80"}
raw {"execute":"\\ud800"}
raw {"execute":"\\q"}
differs own,vm since 11.0: QEMU 11 has another text
raw {"execute" "query-name"}
raw {"execute":}
differs own,vm since 11.0: as above
raw {1:2}
differs own,vm since 11.0: as above
raw [1 2]
raw [,]
raw }
repeat 1025 [
differs own,vm since 11.0: QEMU 11 has not found the end of the nested brackets and does not answer
raw \x01
differs own,vm since 11.0: as above
query-name
`}}
