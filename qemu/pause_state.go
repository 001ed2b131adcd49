// SPDX-License-Identifier: Apache-2.0

package qemu

// PauseState is the state of a Pause, which describes the ways from one to another.
type PauseState int

// The states of a Pause.
const (
	Free      PauseState = iota // the guest does what it does
	Stopping                    // "stop" is on its way
	Held                        // we stopped the guest, and have to let it go on
	Foreign                     // the guest was stopped before, or is to stay stopped for a reason that is not ours
	Switching                   // QEMU migrates on our behalf, and stops the guest itself
	Resuming                    // "cont" is on its way
	Left                        // the guest stays stopped, as we were told, until somebody sends "cont"
	Ended                       // QEMU was told to quit
	Lost                        // QEMU does not answer: the guardian does what is left to do
)

func (s PauseState) String() string {
	return [...]string{"free", "stopping", "held", "foreign", "switching", "resuming", "left", "ended", "lost"}[s]
}

// owed reports whether the guest is stopped, or will be, because of us.
func (s PauseState) owed() bool {
	return s == Stopping || s == Held || s == Switching || s == Resuming
}

// Then is what becomes of a VM after it was saved.
type Then string

// ThenResume lets a VM go on that ran before the save. A VM that was paused before stays so with ThenResume and
// ThenStay.
const (
	ThenResume Then = "resume"
	ThenStay   Then = "stay"
	ThenQuit   Then = "quit"
)

// live reports whether a guest in this run state runs, or will when something wakes it (runstate_is_live).
func live(status string) bool { return status == "running" || status == "suspended" }

// stoppedItself reports whether a run state is that of a VM which was stopped before our command, or by something else
// together with it.
func stoppedItself(status string) bool {
	switch status {
	case "io-error", "guest-panicked", "shutdown", "watchdog", "internal-error", "debug", "preconfig":
		return true
	}
	return false
}

// transferring reports whether a run state is that of a VM which QEMU saves, migrates or loads.
func transferring(status string) bool {
	switch status {
	case "finish-migrate", "postmigrate", "save-vm", "restore-vm", "inmigrate", "colo":
		return true
	}
	return false
}
