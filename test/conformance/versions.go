// SPDX-License-Identifier: Apache-2.0

package conformance

import "regexp"

// change is something that a version of QEMU changed in many answers. Ramjet's own answers are those of QEMU 10.0, so
// before answers of a later QEMU are compared, the change is undone in all of them. A change in one or two answers is
// declared in the scene (differs).
type change struct {
	since   version
	pattern *regexp.Regexp
	before  string // what the older version has in its place
}

// changes are all such changes, with what QEMU changed beside each.
var changes = []change{
	// A failed migration is "failing" first.
	{version{11, 0}, regexp.MustCompile(`MIGRATION\{"status":"failing"\} `), ""},
	// The first pass has no event.
	{version{11, 0}, regexp.MustCompile(`MIGRATION_PASS\{"pass":1\} `), ""},
	// A syntax error has its line and column.
	{version{11, 0}, regexp.MustCompile(`^error: \d+:\d+: JSON parse error`), "error: JSON parse error"},
	// The capability zero-blocks is gone; there are two more parameters.
	{version{11, 0}, regexp.MustCompile(`\{"capability":"zero-blocks","state":false\},`), ""},
	{version{11, 0}, regexp.MustCompile(`"cpr-exec-command":\[\],`), ""},
	{version{11, 0}, regexp.MustCompile(`,"x-rdma-chunk-size":\d+`), ""},
	// Ranges of parameters are told in other words.
	{version{11, 0}, regexp.MustCompile(`Option multifd-channels expects`), "Parameter 'multifd_channels' expects"},
	{version{11, 0}, regexp.MustCompile(`Option downtime-limit expects`), "Parameter 'downtime_limit' expects"},
	// A monitor is an object.
	{version{11, 0}, regexp.MustCompile(`\{"name":"compat_monitor\d+","type":"child<monitor-qmp>"\},`), ""},
}

// undoChanges returns an answer as the oldest version has it, where v is the version of the QEMU that is compared with.
func undoChanges(v version, answer string) string {
	for _, c := range changes {
		if !v.before(c.since) {
			answer = c.pattern.ReplaceAllString(answer, c.before)
		}
	}
	return answer
}
