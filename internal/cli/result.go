// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ramjet-vm/ramjet/mappedram"
)

// print prints a result: as JSON if that was asked for, else as text.
func (a *app) print(result any, text string) error {
	if a.json {
		b, err := json.Marshal(result)
		if err != nil {
			return err
		}
		text = printableJSON(b) + "\n"
	}
	a.printed = true
	_, err := io.WriteString(a.out, printableLines(text))
	return err
}

// printBeside prints a result that may stand beside an error, and returns the error. With --json the two are one object, which
// is printed when the command has ended.
func (a *app) printBeside(result any, text string, err error) error {
	if err == nil || !a.json {
		return errors.Join(err, a.print(result, text))
	}
	b, e := json.Marshal(result)
	if e == nil {
		a.partial = b
	}
	return errors.Join(err, e)
}

// failure is what a command that failed prints with --json, by itself or within its result.
type failure struct {
	Error  string `json:"error"`
	Status int    `json:"status"` // the exit status
}

// within adds a failure to a result, a JSON object; to nil, it is the object.
func (f failure) within(result []byte) []byte {
	b, _ := json.Marshal(f) // of a string and a number
	if len(result) <= len("{}") {
		return b
	}
	return append(append(result[:len(result)-1:len(result)-1], ','), b[1:]...)
}

// errReported is an error whose lines are on standard error already.
type errReported struct {
	error
	status int
}

// status prints an error as its one line and finds the exit status for it.
func (a *app) status(err error) int {
	var exit exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	}
	f := failed(err)
	if !errors.As(err, new(errReported)) {
		fmt.Fprintf(a.err, "ramjet: %s\n", f.Error)
	}
	if a.json && !a.printed {
		fmt.Fprintf(a.out, "%s\n", printableJSON(f.within(a.partial)))
	}
	return f.Status
}

// failed is an error's line and its exit status.
func failed(err error) failure {
	var usage usageError
	var reported errReported
	f := failure{printable(oneLine(err.Error())), exitFailed}
	switch {
	case errors.As(err, &reported):
		f.Status = reported.status
	case errors.Is(err, errInterrupted):
		f.Status = exitInterrupted
	case errors.As(err, &usage):
		f.Status = exitUsage
	case errors.Is(err, mappedram.ErrImage):
		f.Status = exitDamaged
	}
	return f
}

// oneLine makes joined errors one line.
func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines, "; ")
}

// asksJSON reports whether --json is among the arguments of a command line that was not understood.
func asksJSON(args []string) bool {
	for _, w := range args {
		switch w {
		case "--json", "--json=true":
			return true
		case "--":
			return false
		}
	}
	return false
}

// eachImage does one thing to each image and prints what came of it. Of one image that is its result. With several, one that fails
// keeps no other from its turn: it gets a line on standard error, and with --json its error stands in its place of the list
// "images". The exit status is then that of a damaged image, if there is one.
func (a *app) eachImage(ctx context.Context, images []string, one func(image string) (result any, text string, err error)) error {
	if len(images) == 1 {
		result, text, err := one(images[0])
		if result == nil {
			return err
		}
		return a.printBeside(result, text, err)
	}
	list, bad, status := []json.RawMessage{}, 0, exitFailed
	for _, image := range images {
		result, text, err := one(image)
		if err != nil && ctx.Err() != nil {
			return err
		}
		entry, err := a.imageResult(image, result, text, err)
		list = append(list, entry)
		if err != nil {
			bad++
			status = max(status, failed(err).Status)
			fmt.Fprintf(a.err, "ramjet: %s\n", failed(err).Error)
		}
	}
	all := map[string]any{"images": list}
	if bad == 0 {
		return a.print(all, "")
	}
	err := fmt.Errorf("%d of %d images failed", bad, len(images))
	return a.printBeside(all, "", errReported{err, status})
}

// imageResult prints one of several results for people, or makes the entry for the list of --json.
func (a *app) imageResult(image string, result any, text string, err error) (json.RawMessage, error) {
	if !a.json {
		_, e := io.WriteString(a.out, printableLines(text))
		return nil, errors.Join(err, e)
	}
	if result == nil {
		result = map[string]string{"image": image}
	}
	entry, e := json.Marshal(result)
	if e != nil {
		return nil, errors.Join(err, e)
	}
	if err != nil {
		entry = failed(err).within(entry)
	}
	return entry, err
}
