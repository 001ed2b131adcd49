// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
)

// verbosity is how often --verbose was given.
type verbosity int

func (v *verbosity) String() string { return strconv.FormatBool(*v > 0) }
func (v *verbosity) Type() string   { return "bool" }

// Set is called for each time, with what a flag that is true or false has.
func (v *verbosity) Set(s string) error {
	on, err := strconv.ParseBool(s)
	if err != nil {
		return err
	}
	if *v++; !on {
		*v = 0
	}
	return nil
}

// logging reports whether anybody wants to read what is logged.
func (a *app) logging() bool { return a.verbose > 0 || a.logFormat != "" }

// log prints what --verbose shows.
func (a *app) log(s string) { a.event(s) }

// warn prints what the user has to know although all goes on. What was printed already it does not print again: many clones may say it.
func (a *app) warn(s string) {
	if _, again := a.warned.LoadOrStore(s, true); again {
		return
	}
	if a.logFormat != "" {
		a.logger().Warn(printable(oneLine(s)))
		return
	}
	fmt.Fprintf(a.err, "ramjet: warning: %s\n", printable(oneLine(s)))
}

// event is log with keys and values, which only programs get to see.
func (a *app) event(s string, attrs ...any) {
	switch {
	case !a.logging():
	case a.logFormat == "":
		fmt.Fprintf(a.err, "ramjet: %s\n", printable(oneLine(s)))
	default:
		a.logger().Info(printable(oneLine(s)), printables(attrs)...)
	}
}

// debug is event for what only -vv shows.
func (a *app) debug(s string, attrs ...any) {
	switch {
	case a.verbose < 2:
	case a.logFormat == "":
		a.event(s)
	default:
		a.logger().Debug(printable(oneLine(s)), printables(attrs)...)
	}
}

func (a *app) logger() *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	var h slog.Handler = slog.NewTextHandler(a.err, options)
	if a.logFormat == "json" {
		h = slog.NewJSONHandler(a.err, options)
	}
	return slog.New(h).With("command", a.command, "pid", os.Getpid())
}
