// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"errors"
	"fmt"
	"time"
)

// Classes of errors in QEMU's QapiErrorClass. Everything that is not one of the
// others is GenericError.
const (
	GenericError    = "GenericError"
	CommandNotFound = "CommandNotFound"
	DeviceNotActive = "DeviceNotActive"
	DeviceNotFound  = "DeviceNotFound"
	KVMMissingCap   = "KVMMissingCap"
)

// Error is what a monitor answers instead of a result.
type Error struct {
	// Class is one of the constants of this package.
	Class string
	// Desc is the monitor's text, meant for people.
	Desc string
}

// Error returns the monitor's text.
func (e *Error) Error() string { return e.Desc }

// Errorf makes an *Error of class GenericError.
func Errorf(format string, args ...any) *Error {
	return &Error{Class: GenericError, Desc: fmt.Sprintf(format, args...)}
}

// ErrClosed is wrapped by every error that says that the connection is gone,
// whoever ended it.
var ErrClosed = errors.New("monitor connection closed")

// BusyError says that the socket took the connection and nobody answered.
type BusyError struct {
	// Path is the socket's, empty if it was already connected.
	Path string
	// Waited is how long the greeting was waited for, 0 if the socket's queue
	// of waiting clients was already full.
	Waited time.Duration
	// PID is the process that listens there, 0 if that is not known.
	PID int
}

// Error names the cause, which is nearly always another client, and the way out.
func (e *BusyError) Error() string {
	name := "the monitor socket"
	if e.Path != "" {
		name = "the monitor at " + e.Path
	}
	how := "other clients are waiting for it already"
	if e.Waited > 0 {
		how = fmt.Sprintf("no greeting within %v", e.Waited)
	}
	return fmt.Sprintf("%s is busy (%s): QEMU serves one client per socket; "+
		"disconnect the other client, or start QEMU with a second -qmp socket", name, how)
}
