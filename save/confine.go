// SPDX-License-Identifier: Apache-2.0

package save

import (
	"fmt"
	"os"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/sys"
	"github.com/ramjet-vm/ramjet/sandbox"
)

// A confiner gives up rights of this process during a save. A save talks to a QEMU whose guest may have taken it over, and reads what
// that says, so the process gives up what it does not need any more, in two steps: system calls when it is attached, and its guardian
// and its publisher, which keep their rights, stand by; the file system, by Landlock and by a second filter, when it is known which
// memory is saved. Memory that is plugged in until then is opened like the rest.
//
// A nil *confiner gives up nothing. What cannot be given up is logged, and the save goes on.
type confiner struct {
	pid      int // the VM's process
	target   *image.Target
	channels int
	direct   bool
	log      func(format string, args ...any)
}

// attached gives up all system calls but those that a save makes from here on. Of paths those are: existing files, not
// truncated. Of other processes: reading the memory of the VM's.
func (c *confiner) attached() {
	if c == nil {
		return
	}
	c.lacks(sandbox.Calls(c.calls(), sandbox.Group{
		Action: seccomp.ActionAllow,
		Names:  []string{"landlock_add_rule", "landlock_restrict_self", "seccomp"},
		NamesWithCondtions: []seccomp.NameWithConditions{
			sandbox.OpenExisting,
			sandbox.With("prctl", 0, seccomp.Equal, unix.PR_SET_NO_NEW_PRIVS),
		},
	}))
}

// calls are what a save needs to its end, besides what every program does.
func (c *confiner) calls() sandbox.Group {
	return sandbox.Group{
		Action: seccomp.ActionAllow,
		Names:  []string{"waitid", "wait4"}, // the end of the guardian, and of the publisher
		NamesWithCondtions: []seccomp.NameWithConditions{
			sandbox.With("process_vm_readv", 0, seccomp.Equal, uint64(c.pid)), // nobody else's memory
			sandbox.With("prlimit64", 2, seccomp.Equal, 0),                    // only look
			sandbox.With("ioctl", 1, seccomp.Equal, uint64(sys.PagemapScan)),
			sandbox.With("ioctl", 1, seccomp.Equal, unix.TCGETS), // the progress bar's terminal
			sandbox.With("ioctl", 1, seccomp.Equal, unix.TIOCGWINSZ),
		},
	}
}

// opened gives up the file system, and all access to other processes but through descriptors, while QEMU makes its device state. All
// files that the save needs are open. wait waits until it is done.
//
// A VM with much memory that is not in files is an exception from the latter: see maxThroughDescriptor. Under Landlock
// process_vm_readv(2) is refused; under the second filter it is not, for the VM's process.
func (c *confiner) opened(memory []guestmem.Memory) (wait func()) {
	if c == nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.keep(os.O_WRONLY); err != nil {
			c.lacks(fmt.Errorf("files can be opened still: %w", err))
			return
		}
		if err := readByDescriptor(memory); err != nil {
			c.lacks(fmt.Errorf("no Landlock: %w", err))
		} else {
			c.lacks(sandbox.Files())
		}
		c.lacks(sandbox.Calls(c.calls()))
	}()
	return func() { <-done }
}

// passed is opened for a save by QEMU itself, to which the image's file has been passed: no memory is read, and the file only for sums.
func (c *confiner) passed() {
	if c == nil {
		return
	}
	if err := c.keep(os.O_RDONLY); err != nil {
		c.lacks(fmt.Errorf("no Landlock: %w", err))
		return
	}
	c.lacks(sandbox.Files())
	c.lacks(sandbox.Calls(c.calls()))
}

// keep opens what the channels will use. A rule that lets them open it themselves would be a reference to the file, which,
// when this process was killed, would keep an unfinished image on the disk until its parent has waited for it.
func (c *confiner) keep(access int) error {
	flags := []int{access}
	if c.direct {
		flags = append(flags, access|unix.O_DIRECT)
	}
	for _, fl := range flags {
		if err := c.target.Keep(c.channels, fl); err != nil {
			return err
		}
	}
	return nil
}

// lacks logs what could not be given up.
func (c *confiner) lacks(missing error) {
	if missing != nil {
		c.log("%v", missing)
	}
}

// maxThroughDescriptor is how much memory that is not in files may be read the slow way (guestmem.ByProcess), in bytes: video
// memory and firmware, which every VM has some of, but no guest's main memory. It makes a pause some 5 ms longer if all of it was used.
const maxThroughDescriptor = 64 << 20

// readByDescriptor has all memory be read so, if that is not too slow.
func readByDescriptor(memory []guestmem.Memory) error {
	var slow int64
	var all []guestmem.ByProcess
	for _, m := range memory {
		if p, ok := m.(guestmem.ByProcess); ok {
			slow += m.Size()
			all = append(all, p)
		}
	}
	if slow > maxThroughDescriptor {
		return fmt.Errorf("under it the VM's %d MiB of private memory could only be read slowly", slow>>20)
	}
	for _, p := range all {
		if err := p.ByDescriptor(); err != nil {
			return err
		}
	}
	return nil
}
