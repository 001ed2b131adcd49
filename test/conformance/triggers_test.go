// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What crashes QEMU, has it lose data, or sticks, each as it comes about, against both kinds of ramjet serve. Every time there
// is one clear error, the guest runs as if nobody had asked, with the memory it had, the client's descriptors have the flags and
// the positions they had, no process holds more descriptors than before, and the next migration, to a file that is as
// it should be, completes. The tests' names are the numbers of the bugs in the list that this project started from.

// trigger is one of them, for a save: a script that ends with the command, and what is said about it.
type trigger struct {
	name   string
	script string
	paths  bool
	says   string // a regular expression for the command's error, or for the end of the migration
}

// play plays it to both and looks at what is left. pass is which descriptors were passed, by name.
func (tr trigger) play(t *testing.T, pass string) {
	t.Run(tr.name, func(t *testing.T) {
		both(t, scene{paths: tr.paths, script: "fill 2\n"}, func(t *testing.T, p *player) {
			p.meets(t, tr.script, tr.says, pass)
		})
	})
}

// meets plays a script to a running guest whose memory is of seed 2.
func (p *player) meets(t *testing.T, script, says, pass string) {
	t.Helper()
	steps := parse(script)
	last := steps[len(steps)-1].text
	p.must(t, strings.TrimSuffix(strings.TrimSpace(script), last))
	p.must(t, "events")
	p.fails(t, last, says)
	p.unharmed(t, pass)
}

// fails expects a migrate to fail, at once or later, and to say so once.
func (p *player) fails(t *testing.T, step, says string) {
	t.Helper()
	answer, err := p.step(step)
	if err != nil {
		t.Fatal(err)
	}
	if answer == "{}" {
		answer = p.must(t, "wait")
		events := p.must(t, "events")
		if n := strings.Count(events, `"failed"`); n != 1 || strings.Contains(events, "completed") {
			t.Errorf("the failure is told %d times: %s", n, events)
		}
	}
	if !regexp.MustCompile(says).MatchString(answer) || strings.ContainsAny(answer, "\r\n") {
		t.Errorf("%s\n  says %q\n  wanted is %s", step, answer, says)
	}
}

// unharmed checks everything that a failed save leaves alone.
func (p *player) unharmed(t *testing.T, names string) {
	t.Helper()
	p.expect(t, "fate", "running")
	p.expect(t, "query-status", `{"running":true,"status":"running"}`)
	p.expect(t, "check 2", "as it was")
	for n := range strings.FieldsSeq(names) {
		p.expect(t, "flags "+n, "unchanged")
	}
	if names != "" {
		p.must(t, `remove-fd {"fdset-id":1}`)
	}
	p.expect(t, "query-fdsets", "[]")
	p.expect(t, "leak", "none")
	p.must(t, pass("good", "w w+direct")+`migrate {"uri":"file:/dev/fdset/1"}`)
	p.expect(t, "wait", "completed")
	p.must(t, "cont\nremove-fd {\"fdset-id\":1}")
	p.expect(t, "check 2", "as it was")
	p.expect(t, "leak", "none")
}

const migrateSet = `migrate {"uri":"file:/dev/fdset/1"}` + "\n"

func addAll(names string) (s string) {
	for n := range strings.FieldsSeq(names) {
		s += `add-fd {"fdset-id":1} < ` + n + "\n"
	}
	return s
}

// TestTrigger1: direct-io without a second open file description that has O_DIRECT. QEMU's page channels fail to open, and it
// cleans up what it has not made (multifd_device_state_send_cleanup).
func TestTrigger1(t *testing.T) {
	trigger{name: "one plain descriptor", says: "it has only fd=.*open without O_DIRECT.*needs a second one",
		script: direct + "open a w image\n" + addAll("a") + migrateSet}.play(t, "a")
	trigger{name: "two that are one (dup)", says: "fd=.* and fd=.* are the same open file description",
		script: direct + "open a w image\ndup b a\n" + addAll("a b") + migrateSet}.play(t, "a b")

	none := t.TempDir()
	if err := unix.Mount("none", none, "ramfs", 0, ""); err != nil {
		t.Skipf("a file system without O_DIRECT cannot be mounted: %v", err)
	}
	defer unix.Unmount(none, unix.MNT_DETACH)
	image := filepath.Join(none, "image")
	if fd, err := unix.Open(image, unix.O_CREAT|unix.O_WRONLY|unix.O_DIRECT, 0o600); err != unix.EINVAL {
		unix.Close(fd)
		t.Skipf("ramfs takes O_DIRECT: %v", err)
	}
	trigger{name: "a file system without O_DIRECT, in a set", says: "fd=.* is on ramfs, which knows no direct I/O",
		script: direct + "open a w " + image + "\nopen b w " + image + "\n" + addAll("a b") + migrateSet}.play(t, "a b")
	trigger{name: "a file system without O_DIRECT, by its path", says: "Could not open '.*': filesystem does not support O_DIRECT", paths: true,
		script: direct + `migrate {"uri":"file:` + image + `"}` + "\n"}.play(t, "")

	disk := newWeakDisk(t)
	disk.weaken(&weakness{at: inPages, write: true, errno: unix.EINVAL, every: true})
	trigger{name: "a file system that takes the flag and not the writes", says: "failed: .*invalid argument.*direct",
		script: direct + "open a w " + disk.path + "\nopen b w+direct " + disk.path + "\n" + addAll("a b") + migrateSet}.play(t, "a b")
}

// inPages is a place in the image's pages, within data and at the start of a page (pattern; pages begin at 1 MiB).
const inPages = 3<<20 + 5*4096

// TestTrigger3: a write that is cut short (pwrite(2) returns less than it was asked for). QEMU takes it for a whole one
// (file_write_ramblock_iov) and says completed.
func TestTrigger3(t *testing.T) {
	disk := newWeakDisk(t)
	faults := []struct {
		name string
		weakness
		says string
	}{
		{"then the disk is full", weakness{at: inPages, errno: unix.ENOSPC, every: true}, "failed: .*no space left on device"},
		{"then an error", weakness{at: inPages, errno: unix.EIO}, "failed: .*input/output error"},
		{"then nothing at all", weakness{at: inPages}, "failed: .*short write"},
		{"then too large", weakness{at: inPages, errno: unix.EFBIG, every: true}, "failed: .*file too large"},
		{"within a page, then an error", weakness{at: inPages + 100, errno: unix.EIO, every: true}, "failed: .*(input/output error|short write)"},
	}
	for _, setup := range disk.channels("w") {
		t.Run(setup.name, func(t *testing.T) {
			both(t, scene{script: "fill 2\n"}, func(t *testing.T, p *player) {
				for _, fault := range faults {
					t.Run(fault.name, func(t *testing.T) {
						fault.write = true
						disk.weaken(&fault.weakness)
						p.meets(t, setup.script+migrateSet, fault.says, setup.used)
						if n := disk.happened(); n < 2 {
							t.Errorf("%d calls met the fault", n)
						}
					})
				}
				t.Run("once", func(t *testing.T) { p.shortOnce(t, disk, setup) })
			})
		})
	}
	t.Run("a limit", limited)
	t.Run("QEMU", func(t *testing.T) { shortAtQEMU(t, disk) })
}

// shortAtQEMU shows that the fault is one: what becomes of the image if QEMU itself writes it.
func shortAtQEMU(t *testing.T, disk *weakDisk) {
	needQEMU(t)
	p := newPlayer(t, stock)
	if err := p.restart(false); err != nil {
		t.Fatal(err)
	}
	disk.weaken(&weakness{at: inPages, write: true, passes: true})
	p.must(t, "fill 2\n"+disk.channels("w")[0].script+migrateSet)
	end := p.must(t, "wait")
	cut := disk.happened()
	disk.weaken(nil)
	p.must(t, "restart incoming\n"+mapped+"open r r "+disk.path+"\n"+addAll("r"))
	loaded, err := p.step(`load {"uri":"file:/dev/fdset/1"}`)
	if err != nil {
		t.Fatal(err)
	}
	check, err := p.step("check 2")
	t.Logf("%d writes cut short: saving %s, loading %s, memory %s, %v", cut, end, loaded, check, err)
}

// channels are the ways to have the image on d opened in a mode.
func (d *weakDisk) channels(mode string) []setup {
	return []setup{
		{"buffered", multifd + "open a " + mode + " " + d.path + "\nopen b " + mode + " " + d.path + "\n" + addAll("a b"), "a b"},
		{"direct", direct + "open a " + mode + " " + d.path + "\nopen b " + mode + "+direct " + d.path + "\n" + addAll("a b"), "a b"},
		{"one", mapped + "open a " + mode + " " + d.path + "\n" + addAll("a"), "a"},
	}
}

// setup is a script that makes everything ready, and the names of the descriptors that it passes.
type setup struct{ name, script, used string }

// shortOnce: what follows a write that was cut short is written by the next one, and everything is in the image. Direct I/O goes
// on only from a page's start.
func (p *player) shortOnce(t *testing.T, disk *weakDisk, setup setup) {
	p.must(t, setup.script)
	for _, at := range []int64{inPages + 100, inPages} {
		if setup.name == "direct" && at%4096 != 0 {
			continue
		}
		disk.weaken(&weakness{at: at, write: true, passes: true})
		p.must(t, migrateSet)
		p.expect(t, "wait", "completed")
		if n := disk.happened(); n == 0 {
			t.Error("no write was cut short")
		}
		p.must(t, "cont")
	}
	for n := range strings.FieldsSeq(setup.used) {
		p.expect(t, "flags "+n, "unchanged")
	}
	disk.weaken(nil)
	if err := p.restart(true); err != nil {
		t.Fatal(err)
	}
	p.must(t, mapped+"open r r "+disk.path+"\n"+addAll("r")+`migrate-incoming {"uri":"file:/dev/fdset/1"}`)
	p.expect(t, "wait", "completed")
	p.expect(t, "check 2", "as it was")
}

// limited is RLIMIT_FSIZE on the process that writes, set when the migration is about to write its pages: the write that crosses
// it is cut short, the next one is refused. A plain stream's are the same, for a guest that is only memory.
func limited(t *testing.T) {
	for setup, at := range map[string]uint64{multifd: inPages + 512, plain: 1<<20 + 512} {
		t.Run(map[string]string{multifd: "mapped-ram", plain: "plain"}[setup], func(t *testing.T) {
			both(t, scene{script: setup + "fill 2\n" + pass("a", "w")}, func(t *testing.T, p *player) {
				if p.kind == front && setup == plain {
					t.Skip("QEMU writes it")
				}
				var old unix.Rlimit
				pid := p.server.child.Process.Pid
				limit := &unix.Rlimit{Cur: at, Max: unix.RLIM_INFINITY}
				if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, limit, &old); err != nil {
					t.Skip(err)
				}
				p.fails(t, strings.TrimSpace(migrateSet), "failed: .*file too large")
				if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &old, nil); err != nil {
					t.Fatal(err)
				}
				if st, err := p.files["a0"].Stat(); err != nil || st.Size() != 0 {
					t.Errorf("the file has %d bytes, %v", st.Size(), err)
				}
				p.must(t, multifd)
				p.unharmed(t, "a0")
			})
		})
	}
}

// TestTrigger4: a read that fails or comes short while an image is loaded. QEMU crashes over an error that is not there, or waits
// for good for channels that have ended (multifd_file_recv_data, multifd_recv_sync_main).
func TestTrigger4(t *testing.T) {
	disk := newWeakDisk(t)
	for _, setup := range disk.channels("r") {
		t.Run(setup.name, func(t *testing.T) {
			both(t, scene{script: "fill 2\n" + mapped}, func(t *testing.T, p *player) { unreadable(t, p, disk, setup) })
		})
	}
}

func unreadable(t *testing.T, p *player, disk *weakDisk, setup setup) {
	disk.weaken(nil)
	p.must(t, "open i w "+disk.path+"\n"+addAll("i")+migrateSet)
	p.expect(t, "wait", "completed")
	if err := p.restart(true); err != nil {
		t.Fatal(err)
	}
	p.must(t, setup.script)
	p.before = p.server.descriptors()
	const refused = "(?i)input/output error"
	for _, fault := range []struct {
		name string
		weakness
		says string
	}{
		{"an error in the pages", weakness{at: inPages, errno: unix.EIO}, refused},
		{"an error in the last page", weakness{at: 1<<20 + memory - 4096, errno: unix.EIO}, refused},
		{"a short read in the pages", weakness{at: inPages}, "(?i)the file ends at offset|unexpected EOF|cut off"},
		{"an error in the device state", weakness{at: 1<<20 + memory + 10, errno: unix.EIO, every: true}, refused},
		{"an error in the headers", weakness{at: 0, errno: unix.EIO}, refused},
	} {
		t.Run(fault.name, func(t *testing.T) {
			disk.weaken(&fault.weakness)
			answer, err := p.step(`load {"uri":"file:/dev/fdset/1","exit-on-error":false}`)
			if err != nil || !regexp.MustCompile(fault.says).MatchString(answer) || strings.Contains(answer, "completed") {
				t.Errorf("says %q, %v; wanted is %s", answer, err, fault.says)
			}
			if n := disk.happened(); n == 0 {
				t.Error("no read met the fault")
			}
			p.expect(t, "fate", "running")
			p.expect(t, "query-status", `{"running":false,"status":"inmigrate"}`)
			for n := range strings.FieldsSeq(setup.used) {
				p.expect(t, "flags "+n, "unchanged")
			}
			p.expect(t, "leak", "none")
		})
	}
	disk.weaken(nil) // and once more, from a disk that works
	p.must(t, `migrate-incoming {"uri":"file:/dev/fdset/1"}`)
	p.expect(t, "wait", "completed")
	p.expect(t, "check 2", "as it was")
	p.expect(t, "query-status", `{"running":true,"status":"running"}`)
	p.must(t, `remove-fd {"fdset-id":1}`)
}

// TestTrigger7: three ways in which QEMU's migration gets stuck.
func TestTrigger7(t *testing.T) {
	t.Run("a bad path, then the right one", func(t *testing.T) {
		both(t, scene{paths: true, script: mapped + "fill 2\n" + `migrate {"uri":"file:DIR/image"}` + "\nwait\nrestart incoming\n" + mapped}, func(t *testing.T, p *player) {
			for _, bad := range []string{"file:DIR/no/such", "file:/dev/fdset/7", "file:DIR", "file:/dev/null", "file:DIR/image,offset=4096"} {
				answer, err := p.step(`load {"uri":"` + bad + `","exit-on-error":false}`)
				if err != nil || answer == "completed" || answer == monitorGone {
					t.Errorf("%s: %s, %v", bad, answer, err)
				}
				p.expect(t, "query-status", `{"running":false,"status":"inmigrate"}`)
				p.expect(t, "leak", "none")
			}
			p.must(t, `migrate-incoming {"uri":"file:DIR/image"}`)
			p.expect(t, "wait", "completed")
			p.expect(t, "check 2", "as it was")
		})
	})
	t.Run("compression before mapped-ram", func(t *testing.T) {
		both(t, scene{script: "fill 2\nmigrate-set-parameters {\"multifd-compression\":\"zlib\"}\n" + multifd[:strings.Index(multifd, "migrate-set-parameters")]}, func(t *testing.T, p *player) {
			p.must(t, pass("a", "w"))
			p.fails(t, strings.TrimSpace(migrateSet), "Cannot use compression with mapped-ram")
			p.expect(t, `migrate-set-parameters {"max-bandwidth":0}`, "error: "+"Mapped-ram only available for non-compressed non-TLS multifd migration")
			p.must(t, `migrate-set-parameters {"multifd-compression":"none"}`)
			p.must(t, `migrate-set-parameters {"max-bandwidth":0}`)
			p.unharmed(t, "a0")
		})
	})
	t.Run("one failure is told once", func(t *testing.T) {
		disk := newWeakDisk(t)
		disk.weaken(&weakness{at: inPages, write: true, errno: unix.EIO, every: true})
		trigger{name: "pages", says: "failed: .*input/output error", // fails counts the events
			script: multifd + "open a w " + disk.path + "\n" + addAll("a") + migrateSet}.play(t, "a")
	})
}

// TestTrigger8: what QEMU does to descriptors that it shares with its client, and that it gives to the wrong command.
func TestTrigger8(t *testing.T) {
	trigger{name: "O_APPEND", says: "O_APPEND", script: multifd + "open a w+append image\n" + addAll("a") + migrateSet}.play(t, "a")
	t.Run("flags and positions", func(t *testing.T) {
		both(t, scene{script: direct + "fill 2\nopen a w+noatime image\nopen b w+direct+noatime image\n" + addAll("a b")}, func(t *testing.T, p *player) {
			if _, err := unix.Seek(int(p.files["a"].Fd()), 4096, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			p.flags["a"] = describe(p.files["a"])
			p.must(t, migrateSet)
			p.expect(t, "wait", "completed")
			p.expect(t, "flags a", "unchanged")
			p.expect(t, "flags b", "unchanged")
			p.must(t, "restart incoming\n"+direct+"open c r+noatime image\nopen d r+direct image\n"+addAll("c d"))
			p.must(t, `migrate-incoming {"uri":"file:/dev/fdset/1"}`)
			p.expect(t, "wait", "completed")
			p.expect(t, "check 2", "as it was")
			p.expect(t, "flags c", "unchanged") // QEMU adds O_NONBLOCK
			p.expect(t, "flags d", "unchanged")
			p.must(t, `remove-fd {"fdset-id":1}`)
			p.expect(t, "leak", "none")
		})
	})
	t.Run("a descriptor that nobody took", func(t *testing.T) {
		both(t, scene{script: "fill 2\nopen a r /dev/null\nopen b w image\n"}, func(t *testing.T, p *player) {
			const none = "error: No file descriptor supplied via SCM_RIGHTS"
			for _, with := range []string{"query-name < a", "query-status < a b", `add-fd {"fdset":1} < a`, "no-such-command < a",
				`migrate {"uri":"nope:"} < a`, `remove-fd {"fdset-id":9} < a`} {
				if _, err := p.step(with); err != nil {
					t.Fatal(err)
				}
				p.expect(t, `add-fd {"fdset-id":1}`, none)
				p.expect(t, `getfd {"fdname":"x"}`, none)
				p.expect(t, "leak", "none")
			}
			p.must(t, multifd)
			p.unharmed(t, "")
		})
	})
}
