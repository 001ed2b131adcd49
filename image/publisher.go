// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ramjet-vm/ramjet/directio"
)

// A publisher is a small process that gives a confined save's image its name, or takes the temporary name away. It is started before
// the save gives up its rights, and which file, directory and names those are is fixed then: all that it can be told is
// to do it. So a save that its guest has taken over can name, replace and remove no other file. It ends when its pipe is closed.
//
// It is this program itself under another name, as a guardian is.
type publisher struct {
	cmd     *exec.Cmd
	orders  *os.File
	answers io.Reader
}

const publisherName = "ramjet-publisher"

// What it can be told, a byte each.
const (
	orderPublish = 'p'
	orderDiscard = 'd'
)

// publication is all that the publisher knows. File and directory are its descriptors 3 and 4.
type publication struct {
	Name, Hidden []byte // in the directory; they need not be UTF-8
	Force, Named bool
}

// published is its answer.
type published struct {
	Error string
	Errno syscall.Errno // behind Error; 0: none
	Named bool          // the image has its temporary name now
}

// publishError is an error of the publisher, as it would be of this process.
type publishError struct {
	text  string
	errno syscall.Errno
}

func (e *publishError) Error() string { return e.text }
func (e *publishError) Unwrap() error { return e.errno }

func init() {
	if os.Args[0] == publisherName {
		os.Exit(publishes())
	}
}

// StartPublisher starts one for a target, which asks it for everything from here on.
func (t *Target) StartPublisher() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot start the process that names the image: %w", err)
		}
	}()
	what, err := json.Marshal(publication{[]byte(filepath.Base(t.path)), []byte(filepath.Base(t.hidden)), t.force, t.named})
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(t.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	p := &publisher{cmd: exec.Command("/proc/self/exe"), orders: out}
	p.cmd.Args = []string{publisherName, string(what)}
	p.cmd.Stdin, p.cmd.ExtraFiles, p.cmd.Env = in, []*os.File{t.File.File, dir}, []string{"GOMAXPROCS=1"}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C is not meant for it
	if p.answers, err = p.cmd.StdoutPipe(); err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		out.Close()
		return err
	}
	t.publisher = p
	return nil
}

// ask has it do something and waits for that.
func (p *publisher) ask(order byte) (a published, err error) {
	if _, err = p.orders.Write([]byte{order}); err == nil {
		err = json.NewDecoder(p.answers).Decode(&a)
	}
	if err != nil {
		return a, fmt.Errorf("the process that names the image is gone: %w", err)
	}
	if a.Error != "" {
		return a, &publishError{a.Error, a.Errno}
	}
	return a, nil
}

func (p *publisher) Close() {
	p.orders.Close()
	_ = p.cmd.Wait()
}

// publishes is the publisher's whole life.
func publishes() int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	var what publication
	if len(os.Args) != 2 || json.Unmarshal([]byte(os.Args[1]), &what) != nil {
		return 1
	}
	const dir = "/proc/self/fd/4"
	image, err := directio.NewFile(os.NewFile(3, "image"))
	if err != nil {
		return 1
	}
	t := &Target{path: dir + "/" + string(what.Name), hidden: dir + "/" + string(what.Hidden), force: what.Force, File: image, named: what.Named}
	shown, _ := os.Readlink(dir)
	for {
		var order [1]byte
		if _, err := os.Stdin.Read(order[:]); err != nil {
			return 0
		}
		err := error(nil)
		switch order[0] {
		case orderPublish:
			err = t.nameDurably()
		case orderDiscard:
			if t.named {
				err = directio.Remove(t.hidden)
				t.named = false
			}
		}
		a := published{Named: t.named}
		if err != nil {
			a.Error = strings.ReplaceAll(err.Error(), dir, shown)
			errors.As(err, &a.Errno)
		}
		if json.NewEncoder(os.Stdout).Encode(a) != nil {
			return 1
		}
	}
}
