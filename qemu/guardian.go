// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/internal/attendant"
)

// A guardian is an attendant that lets the guest go on when the process that stopped it no longer can. It has a
// duplicate of the connection to the monitor; QEMU serves one client per socket, so it has to be the same connection.
// When the pipe of orders closes without the order to leave, the saver is dead: the guardian lets the guest go on,
// removes the saver's descriptor sets and removes the unfinished files. It does the same when its orders have something
// to do for the VM and no heartbeat comes for GuardianPatience: the saver has been stopped or frozen. In that case the
// guardian shuts the connection down afterwards.
//
// Which files it may remove is fixed when it starts: descriptors of directories, and names in them. The guest may have
// taken over the process that gives the orders, and that process has given up the right to remove files itself.
type guardian struct {
	*attendant.Process
}

// Guardian is to be registered in main (attendant.Main).
var Guardian = attendant.Kind{Name: guardianName, Run: guard}

const guardianName = "ramjet-guardian"

// ErrNoGuardian means that somebody has killed the guardian, or that it is following its orders and takes no new ones.
var ErrNoGuardian = errors.New("the guardian process is gone")

// GuardianPatience is how long a guest stands still whose saver has been stopped. A saver that is only slow, because
// the machine is busy, was never seen to miss 25 heartbeats in a row; and only those count that were missed while the
// guardian itself was running.
const GuardianPatience = 5 * time.Second

// heartbeatInterval is the time between two heartbeats of a saver.
const heartbeatInterval = GuardianPatience / 25

// guardianOrders are what a guardian does if the saver dies. Each replaces the one before.
type guardianOrders struct {
	Cont  bool      `json:"cont,omitempty"`  // the VM was running: let it go on
	Hurry []Command `json:"hurry,omitempty"` // QEMU migrates on the saver's behalf: these end that (Migration.Hurry)
	Sets  []int64   `json:"sets,omitempty"`  // descriptor sets to remove
	Undo  []Command `json:"undo,omitempty"`  // what undoes the saver's settings in the VM
}

// startGuardian starts a guardian and returns when it is ready. It has no orders yet. unfinished are the files that it
// removes, if they exist, when it follows its orders.
func (vm *VM) startGuardian(unfinished ...string) (g *guardian, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot start the guardian process: %w", err)
		}
	}()
	dirs, names, err := openDirectories(unfinished)
	if err != nil {
		return nil, err
	}
	defer closeAll(dirs)
	conn, err := vm.QMP.File()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	p, err := Guardian.Start(names, append([]*os.File{conn}, dirs...)...)
	if err != nil {
		return nil, err
	}
	if err := p.Ready(); err != nil {
		p.Close()
		return nil, err
	}
	joinCgroups(p.PID(), vm.PID)
	return &guardian{p}, nil
}

// acted reports whether the guardian has followed its orders, because it heard no heartbeat, and has ended.
func (g *guardian) acted() bool {
	select {
	case <-g.Ended():
		return g.ExitStatus() == exitSilence
	default:
		return false
	}
}

// acting reports, of a guardian that takes no more orders, whether it follows or has followed those that it had. If not
// it was killed.
func (g *guardian) acting() bool {
	select {
	case <-g.Ended():
		return g.acted()
	case <-time.After(heartbeatInterval):
		return true
	}
}

// order replaces the guardian's orders. The error is ErrNoGuardian if it takes none.
func (g *guardian) order(o guardianOrders) error {
	if err := g.Order(o); err != nil {
		return fmt.Errorf("%w: %w", ErrNoGuardian, err)
	}
	return nil
}

// dismiss ends the guardian and waits for its end. The error is ErrNoGuardian if it takes no more orders, because it
// was killed or is following those that it had; then abandon is what is left to do.
func (g *guardian) dismiss() error {
	if err := g.Leave(); err != nil {
		return fmt.Errorf("%w: %w", ErrNoGuardian, err)
	}
	return g.Err()
}

// abandon has the guardian follow its orders, as if this process had died, and waits a moment for that. The guardian
// goes on until it is done, whatever becomes of this process. This process has to close its own connection to the
// monitor first: both would read from it.
func (g *guardian) abandon(wait time.Duration) {
	g.Close()
	select {
	case <-g.Ended():
	case <-time.After(wait):
	}
}

// The guardian's descriptors: the monitor's connection, then the directories of the files that it may remove.
const (
	guardianMonitor = attendant.FirstFile
	firstDirectory  = guardianMonitor + 1
)

// openDirectories opens the directories of files, and returns the files' names in them.
func openDirectories(files []string) (dirs []*os.File, names []string, err error) {
	for _, f := range files {
		dir, name := filepath.Split(f)
		fd, err := unix.Open(filepath.Clean(dir), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			closeAll(dirs)
			return nil, nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		dirs, names = append(dirs, os.NewFile(uintptr(fd), dir)), append(names, name)
	}
	return dirs, names, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// exitSilence is the exit status of a guardian that has followed its orders because it heard no heartbeat any more.
const exitSilence = 7

// guard is what a guardian does.
func guard(in *attendant.Orders) int {
	o, end := awaitEnd(in)
	if errors.Is(end, attendant.ErrLeave) {
		return 0
	}
	in.Close() // a saver that wakes up learns by this that nobody takes its orders any more
	removed := make(chan struct{})
	go func() { // the VM does not wait for a file server that is gone
		defer close(removed)
		for i, name := range os.Args[1:] {
			_ = unix.Unlinkat(firstDirectory+i, name, 0)
		}
	}()
	silent := errors.Is(end, errSilence)
	newLastMonitor(os.NewFile(guardianMonitor, "monitor"), silent).rescue(o)
	select {
	case <-removed:
	case <-time.After(CleanupTimeout):
	}
	if silent {
		_ = unix.Shutdown(guardianMonitor, unix.SHUT_RDWR)
		return exitSilence
	}
	return 0
}

// errSilence means that the saver lives and sends no heartbeat.
var errSilence = errors.New("no heartbeat")

// awaitEnd takes orders until the saver is dead, or tells the guardian to leave (attendant.ErrLeave), or sends no
// heartbeat for too long while there is something to be done for the VM (errSilence). It returns the last orders.
func awaitEnd(in *attendant.Orders) (o guardianOrders, end error) {
	orders, ended := make(chan attendant.Order), make(chan error, 1)
	go func() {
		for {
			order, err := in.Next()
			if err != nil {
				ended <- err
				return
			}
			orders <- order
		}
	}()
	for unheard := time.Duration(0); ; {
		waiting := time.Now()
		select {
		case end := <-ended:
			return o, end
		case order := <-orders:
			unheard = 0
			var next guardianOrders
			if order.Decode(&next) == nil { // a heartbeat is no order
				o = next
			}
		case <-time.After(heartbeatInterval):
			// Time in which the guardian did not run itself shows nothing about the saver.
			if d := time.Since(waiting); d < 2*heartbeatInterval && (o.Cont || len(o.Hurry) > 0) {
				unheard += d
			}
			if unheard > GuardianPatience {
				return o, errSilence
			}
		}
	}
}

// cgroupRoots are where control groups that can be frozen are found: version 2, version 2 beside version 1, version 1.
var cgroupRoots = map[string][]string{
	"":        {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"},
	"freezer": {"/sys/fs/cgroup/freezer"},
}

// joinCgroups moves the process pid into the control groups of another, as far as those can be frozen and that is
// allowed. A guardian that shares QEMU's groups cannot be frozen together with ramjet while the guest's owner waits for
// the guest.
func joinCgroups(pid, other int) {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", other))
	if err != nil {
		return
	}
	for _, line := range strings.Split(strings.TrimSpace(string(groups)), "\n") {
		// number:controllers:path (cgroups(7))
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 || strings.Contains(parts[2], "..") { // outside of our cgroup namespace
			continue
		}
		for _, root := range cgroupRoots[parts[1]] {
			procs := filepath.Join(root, parts[2], "cgroup.procs")
			if f, err := os.OpenFile(procs, os.O_WRONLY, 0); err == nil {
				fmt.Fprint(f, pid)
				f.Close()
				break
			}
		}
	}
}
