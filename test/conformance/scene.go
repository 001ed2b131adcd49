// SPDX-License-Identifier: Apache-2.0

package conformance

import "slices"

// scene is a row of the table: a script that is played to each kind of server.
type scene struct {
	name string
	// source is what the row holds ramjet to: a test of QEMU's, or a place in its code.
	source   string
	incoming bool // the server waits for a migration
	paths    bool // files are named by their paths, which ramjet serve does only with --no-sandbox
	script   string
}

// scenes is the table.
func scenes() []scene {
	return slices.Concat(setScenes, addressScenes, knobScenes, migrationScenes, upstreamScenes, wrongSetScenes, damageScenes, protocolScenes, objectScenes, mixedScenes, textScenes, orderScenes, hurryScenes, deviceScenes)
}

// Often used beginnings.
const (
	mapped = `
migrate-set-capabilities {"capabilities":[{"capability":"events","state":true},{"capability":"mapped-ram","state":true}]}
migrate-set-parameters {"max-bandwidth":0}
`
	multifd = `
migrate-set-capabilities {"capabilities":[{"capability":"events","state":true},{"capability":"mapped-ram","state":true},{"capability":"multifd","state":true}]}
migrate-set-parameters {"max-bandwidth":0,"multifd-channels":4}
`
	direct = multifd + `
migrate-set-parameters {"direct-io":true}
`
)
