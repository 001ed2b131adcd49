// SPDX-License-Identifier: Apache-2.0

package conformance

// unreachable lists, for the document, the error texts of QEMU's commands for descriptors and for migration to files that no
// row has, and why.
const unreachable = `
## Texts that no row has

Every other error text of QEMU's that concerns descriptor sets, migration to and from files, and the protocol is in a row above.

| text | why |
|---|---|
| Failed to read file status flags for fd=N | F_GETFL does not fail on a descriptor that is open, and nobody else can close one of QEMU's |
| Invalid file descriptor number 'N' | for names that begin with a digit; those are looked up as sets first, and a migration to fd:9x is told that it "has not been found" |
| Could not open 'N': filesystem does not support O_DIRECT | needs a file system without it, which needs root to mount: TestTrigger1 has it for both kinds of ramjet serve; QEMU crashes there |
| Platform does not support fd passing (fdset) | Windows |
| fd option is required and must be non-negative, and the other texts of -add-fd | an option of QEMU's command line; ramjet serve has none like it |
| Could not dup FD for N flags N; Outgoing migration needs two fds in the fdset, got N; Fdset is missing a file descriptor with flags: N | QEMU 9.0, and patches that were never merged |
| Multifd must be set before incoming starts | while it loads QEMU answers nothing, and when it has loaded it says so no more |
| Migration requires a transport that allows for extra fds (e.g. file) | whatever is no file is refused before: Migration requires seekable transport (e.g. file) |
| Postcopy migration is in progress, and the like; blockers of migration | need a destination, or a device that blocks; ramjet serve --vm forwards the answer, package proxy's tests have it |
| No build-time support for direct-io | a QEMU for a system without O_DIRECT |
| Capability oob not available | QEMU's socket monitors have it: TestNoOOB in package proxy |
| JSON token size limit exceeded, JSON token count limit exceeded | 64 MiB, and two million tokens: package qmp's tests have them |
`
