// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line: one file for each command, which parses, calls and prints.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// began is when the user began to wait: when the process was started. The kernel says that to ten milliseconds only
// (proc_pid_stat(5)), so it is taken back from now by the processor time that starting has cost, which is nearly all that it does.
var began = time.Now().Add(-processorTime())

func processorTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// Exit statuses, which scripts rely on.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitDamaged     = 3
	exitInterrupted = 130
)

// app is what all commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	json     bool
	verbose  verbosity
	progress string

	printed bool   // a result is on standard output
	partial []byte // the result, a JSON object, of a command that failed

	logFormat string
	command   string // the one that runs, for the log

	warned sync.Map // see warn

	// guarded: when what runs is ended, even within a write that hangs, its guardian sees to the VM.
	guarded atomic.Bool
}

// errInterrupted ends a command that was asked to stop by a signal.
var errInterrupted = errors.New("interrupted")

// usageError is a wrong way to call a command.
type usageError struct{ error }

// exitStatus ends the program with another program's status, silently.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Main runs the command line and returns the exit status.
func Main(args []string, in io.Reader, out, stderr io.Writer) int {
	overcommit()
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	a := &app{in: in, out: out, err: stderr}
	go func() {
		<-signals
		cancel(errInterrupted)
		<-signals
		err := fmt.Errorf("%w again: ended at once", errInterrupted)
		if a.guarded.Load() {
			err = fmt.Errorf("%w again: the guardian process does the rest", errInterrupted)
		}
		os.Exit(a.status(err))
	}()
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	// What was waited for says that it was cancelled, not always by whom.
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	a.json = a.json || asksJSON(args)
	return a.status(err)
}

// overcommit lets twice as many threads run Go at a time as there are processors. Channels spend their lives in system calls, and Go
// notices only some time later that one of them needs no processor (sysmon, retake): with few processors those would stand still.
func overcommit() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.GOMAXPROCS(0))
	}
}

// Command is the definition of the command line, for what is generated from it.
func Command() *cobra.Command { return (&app{out: io.Discard, err: io.Discard}).root() }

func (a *app) root() *cobra.Command {
	version := false
	root := &cobra.Command{
		Use:   "ramjet",
		Short: "Save a running QEMU VM's memory to a file at the speed of the disk, and bring the VM back in milliseconds",
		Example: `  ramjet save --qmp /run/vm1.qmp vm1.img      # the VM goes on running
  ramjet restore --qmp /run/vm2.qmp vm1.img   # another VM from that moment`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noCommand(c, args[0])
			}
			if version {
				return a.printVersion()
			}
			return c.Help()
		},
		Args: cobra.ArbitraryArgs,
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.PersistentPreRun = func(c *cobra.Command, _ []string) { a.command = c.Name() }
	root.SetFlagErrorFunc(wrongFlag)
	root.SuggestionsMinimumDistance = 2
	root.Flags().BoolVar(&version, "version", false, "print the version, as the command version does")
	flags := root.PersistentFlags()
	flags.BoolVar(&a.json, "json", false, "print the result as one JSON object")
	flags.VarPF(&a.verbose, "verbose", "v", "print on standard error what is decided and why; -vv: also each command of the clients of serve").NoOptDefVal = "true"
	addChoice(root, flags, &a.logFormat, "log-format", "the format of --verbose: text (key=value) or json (an object a line); implies --verbose", "text", "json")
	a.progress = "auto"
	addChoice(root, flags, &a.progress, "progress", "show progress on standard error: auto (on a terminal), bar, json (an object a line), none", "auto", "bar", "json", "none")
	root.AddCommand(a.save(), a.restore(), a.clone(), a.verify(), a.seal(), a.inspect(), a.ls(), a.diff(), a.export(), a.importImage(), a.serve(), a.version())
	root.SetHelpCommand(helpCommand(root))
	completion(root)
	return root
}

// fixed completes a flag with given words.
func fixed(words ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// lean limits the memory of commands that read files from anywhere. What they need is bounded whatever is in a file; the limit has the
// collector keep garbage from doubling that.
func lean() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(32 << 20)
	}
}
