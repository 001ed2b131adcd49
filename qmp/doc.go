// SPDX-License-Identifier: Apache-2.0

// Package qmp speaks QEMU's monitor protocol over a Unix socket, from both
// ends: [Client] drives a QEMU, [Server] is a monitor that QEMU's own clients
// cannot tell from QEMU's. It knows the protocol and passing descriptors, and
// no command beyond those every monitor has.
//
// # The protocol
//
// Both directions are JSON values one after the other. The server writes each
// on a line of its own, in ASCII, ended by CRLF (on several lines, indented, if
// it was started with -qmp-pretty); the client may write as it likes. In the
// order of a connection:
//
//	S: {"QMP":{"version":{...},"capabilities":["oob"]}}     the greeting
//	C: {"execute":"qmp_capabilities"}                       until then only this
//	S: {"return":{}}
//	C: {"execute":NAME,"arguments":{...},"id":ANY}          arguments, id optional
//	S: {"return":ANY,"id":ANY}                              or
//	S: {"error":{"class":NAME,"desc":TEXT},"id":ANY}
//	S: {"event":NAME,"data":{...},"timestamp":{"seconds":N,"microseconds":N}}
//
// Replies come in the order of the commands, events at any time after the
// negotiation. A QEMU serves one client per socket; further ones are accepted
// by the kernel and wait for a greeting that does not come.
//
// # Descriptors
//
// A command that takes a descriptor (add-fd, getfd) takes one that came with
// SCM_RIGHTS. QEMU attaches descriptors to bytes of the stream, not to commands:
// what arrives replaces what has not been taken, and what a command left is
// there for the next one. The client sends descriptors with the first byte of
// the command they are for, which is right with out-of-band execution off, where
// QEMU reads no byte of a command before it has finished the one before. The
// server closes what a command did not take when that command ends.
//
// # Promises
//
// Everything read from the socket is capped before it is kept. A cancelled
// context returns at once and leaves the connection usable. No descriptor leaks,
// in whatever order things fail.
package qmp
