// SPDX-License-Identifier: Apache-2.0

package save

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/guestmem"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/sandbox"
)

// A save talks to a QEMU whose guest may have taken it over, and reads what that says. So the program gives up what it does not need
// any more, in two steps. System calls go when it is attached, and its guardian and its publisher, which keep their rights, stand by.
// The file system goes, by Landlock and by a second filter, when it is known which memory is saved: memory that is plugged in until then is opened like the rest.

// confineCalls gives up all system calls but those that a save makes from here on. Of paths those are: existing files, not
// truncated. Of other processes: reading the memory of the VM's.
func (s *save) confineCalls() {
	if !s.Confine {
		return
	}
	s.lacks(sandbox.Calls(s.calls(), sandbox.Group{
		Action: seccomp.ActionAllow,
		Names:  []string{"landlock_add_rule", "landlock_restrict_self", "seccomp"},
		NamesWithCondtions: []seccomp.NameWithConditions{
			sandbox.OpenExisting,
			sandbox.With("prctl", 0, seccomp.Equal, unix.PR_SET_NO_NEW_PRIVS),
		},
	}))
}

// calls are what a save needs to its end, besides what every program does.
func (s *save) calls() sandbox.Group {
	return sandbox.Group{
		Action: seccomp.ActionAllow,
		Names:  []string{"waitid", "wait4"}, // the end of the guardian, and of the publisher
		NamesWithCondtions: []seccomp.NameWithConditions{
			sandbox.With("process_vm_readv", 0, seccomp.Equal, uint64(s.vm.PID)), // nobody else's memory
			sandbox.With("prlimit64", 2, seccomp.Equal, 0),                       // only look
			sandbox.With("ioctl", 1, seccomp.Equal, uint64(guestmem.PagemapScan)),
			sandbox.With("ioctl", 1, seccomp.Equal, unix.TCGETS), // the progress bar's terminal
			sandbox.With("ioctl", 1, seccomp.Equal, unix.TIOCGWINSZ),
		},
	}
}

// confineOpens gives up opening files, by any name. What the save needs of them is open.
func (s *save) confineOpens() { s.lacks(sandbox.Calls(s.calls())) }

// lacks says what could not be given up.
func (s *save) lacks(missing error) {
	if missing != nil {
		s.log("%v", missing)
	}
}

// confineFiles gives up the file system, and all access to other processes but through descriptors,
// while QEMU makes its device state. What it returns waits for that.
//
// A VM with much memory that is not in files is an exception from the latter: see maxThroughDescriptor. Under Landlock process_vm_readv(2)
// is refused; under the second filter it is not, for the VM's process.
func (n *native) confineFiles() (wait func()) {
	if !n.Confine {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.keepToWrite(); err != nil {
			n.lacks(fmt.Errorf("files can be opened still: %w", err))
			return
		}
		if err := n.readByDescriptor(); err != nil {
			n.lacks(fmt.Errorf("no Landlock: %w", err))
		} else {
			n.confinePaths()
		}
		n.confineOpens()
	}()
	return func() { <-done }
}

// readByDescriptor has all memory be read so, if that is not too slow.
func (n *native) readByDescriptor() error {
	var slow int64
	var all []guestmem.ByProcess
	for _, m := range n.memory {
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

// maxThroughDescriptor is how much memory that is not in files may be read the slow way (guestmem.ByProcess), in bytes: video
// memory and firmware, which every VM has some of, but no guest's main memory. It makes a pause some 5 ms longer if all of it was used.
const maxThroughDescriptor = 64 << 20

// confineByQEMU is confineFiles for a save by QEMU itself, of which no memory is read.
func (s *save) confineByQEMU() {
	if !s.Confine {
		return
	}
	var err error
	if s.spare, err = image.Scratch(filepath.Dir(s.Image)); err == nil {
		err = s.keepFor(os.O_RDONLY)
	}
	if err != nil {
		s.lacks(fmt.Errorf("no Landlock: %w", err))
		return
	}
	s.confinePaths()
	s.confineOpens()
}

// keepToWrite opens what has to be open for the rest of the save.
func (n *native) keepToWrite() (err error) {
	if n.engine == nil && n.spare == nil {
		if n.spare, err = image.Scratch(filepath.Dir(n.Image)); err != nil {
			return err
		}
	}
	return n.keepFor(os.O_WRONLY)
}

// keepFor opens what the channels will use. A rule that lets them open it themselves would be a reference to the file, which,
// when this process was killed, would keep an unfinished image on the disk until its parent has waited for it.
func (s *save) keepFor(access int) error {
	flags := []int{access}
	if s.io.Direct {
		flags = append(flags, access|unix.O_DIRECT)
	}
	for _, fl := range flags {
		if err := s.target.Keep(s.channels(), fl); err != nil {
			return err
		}
	}
	return nil
}

// confinePaths leaves nothing of the file system: the publisher names the image.
func (s *save) confinePaths() { s.lacks(sandbox.Files()) }

// takeScratch is scratch beside the image, or what was made for this while it could be.
func (s *save) takeScratch() (*os.File, error) {
	if f := s.spare; f != nil {
		s.spare = nil
		return f, nil
	}
	return image.Scratch(filepath.Dir(s.Image))
}
