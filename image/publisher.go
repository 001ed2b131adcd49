// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/internal/attendant"
)

// A publisher is an attendant that gives a confined save's image its name, or takes the temporary name away. It is
// started before the save gives up its rights, and which file, directory and names those are is fixed then: all that it
// can be told is to do it. So a save that its guest has taken over can name, replace and remove no other file. It ends
// when its pipe is closed.
type publisher struct {
	*attendant.Process
}

// Publisher is to be registered in main (attendant.Main).
var Publisher = attendant.Kind{Name: "ramjet-publisher", Run: publishes}

// Orders to a publisher.
const (
	orderPublish = "publish"
	orderDiscard = "discard"
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

	NotDurable bool // the error is ErrNotDurable
}

// publishError is an error of the publisher, as it would be of this process.
type publishError struct {
	text   string
	causes []error
}

func (e *publishError) Error() string   { return e.text }
func (e *publishError) Unwrap() []error { return e.causes }

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
	p, err := Publisher.Start([]string{string(what)}, t.File.File, dir)
	if err != nil {
		return err
	}
	t.publisher = &publisher{p}
	return nil
}

// ask has it do something and waits for that.
func (p *publisher) ask(order string) (a published, err error) {
	if err = p.Order(order); err == nil {
		err = p.Answer(&a)
	}
	if err != nil {
		return a, fmt.Errorf("the process that names the image is gone: %w", err)
	}
	if a.Error != "" {
		e := &publishError{a.Error, []error{a.Errno}}
		if a.NotDurable {
			e.causes = append(e.causes, ErrNotDurable)
		}
		return a, e
	}
	return a, nil
}

// Close ends the publisher, and waits for its end.
func (p *publisher) Close() {
	p.Process.Close()
	<-p.Ended()
}

// publishes is what a publisher does.
func publishes(in *attendant.Orders) int {
	var what publication
	if len(os.Args) != 2 || json.Unmarshal([]byte(os.Args[1]), &what) != nil {
		return 1
	}
	const dir = "/proc/self/fd/4"
	image, err := directio.NewFile(os.NewFile(attendant.FirstFile, "image"), nil)
	if err != nil {
		return 1
	}
	t := &Target{path: dir + "/" + string(what.Name), hidden: dir + "/" + string(what.Hidden), force: what.Force, File: image, named: what.Named}
	shown, _ := os.Readlink(dir)
	for {
		next, err := in.Next()
		if err != nil {
			return 0
		}
		var order string
		_ = next.Decode(&order)
		switch order {
		case orderPublish:
			err = t.nameDurably()
		case orderDiscard:
			if t.named {
				err = t.names.Remove(t.hidden)
				t.named = false
			}
		}
		a := published{Named: t.named}
		if err != nil {
			a.Error = strings.ReplaceAll(err.Error(), dir, shown)
			errors.As(err, &a.Errno)
			a.NotDurable = errors.Is(err, ErrNotDurable)
		}
		if attendant.Answer(a) != nil {
			return 1
		}
	}
}
