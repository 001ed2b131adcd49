// SPDX-License-Identifier: Apache-2.0

// Command report runs tests and says what came of them: what failed, with its output; what took long; and which tests were skipped,
// and why. A skip is as much a result as a failure: what was skipped was not tested.
//
//	go run ./test/report [flags] -- go test -json ... [-- go test -json ...]
//
// The commands run one after the other, until one fails. With -strict a skip that is not on the list of those expected
// (expected.txt) is a failure too. -record NAME writes down in docs/runs.json that this was run, and where, from which README and
// docs/guarantees.md have their sections "What was run where".
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"
)

func main() {
	strict := flag.Bool("strict", false, "fail if a test was skipped whose skip is not expected")
	record := flag.String("record", "", "if all passed, record the run as `NAME` (\"make test\", say) in docs/runs.json and the documents")
	log := flag.String("log", "", "write all that the tests say into `FILE`, as go test -json has it")
	update := flag.Bool("update", false, "only bring the documents up to date with docs/runs.json")
	flag.Parse()
	if *update {
		exit(updateDocuments("."))
	}
	list, err := readExpected()
	exitIf(err)
	signal.Ignore(os.Interrupt) // the tests get it too, and what they say then is still to be reported
	r, began := newReport(os.Stdout), time.Now()
	if *log != "" {
		f, err := os.Create(*log)
		exitIf(err)
		defer f.Close()
		r.log = f
	}
	for _, command := range split(flag.Args()) {
		if err = run(r, command); err != nil {
			break
		}
	}
	unexpected := r.summary(list, time.Since(began))
	switch {
	case err != nil:
	case r.failed > 0:
		err = fmt.Errorf("%d tests failed", r.failed)
	case *strict && unexpected > 0:
		err = fmt.Errorf("%d tests were skipped whose skips are not expected (test/report/expected.txt)", unexpected)
	case *record != "":
		err = recordRun(".", *record, r, time.Since(began))
	}
	exit(err)
}

func exitIf(err error) {
	if err != nil {
		exit(err)
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// split takes a list of words apart at each "--".
func split(words []string) (commands [][]string) {
	var command []string
	for _, w := range append(words, "--") {
		switch {
		case w != "--":
			command = append(command, w)
		case len(command) > 0:
			commands, command = append(commands, command), nil
		}
	}
	return commands
}

// run runs one command, whose output is that of go test -json, and adds it to the report.
func run(r *report, command []string) error {
	c := exec.Command(command[0], command[1:]...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return err
	}
	readErr := r.read(out)
	if err := c.Wait(); err != nil {
		return fmt.Errorf("%s: %w", command[0], err)
	}
	return readErr
}
