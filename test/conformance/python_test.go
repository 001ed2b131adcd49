// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pythonPath names the variable with the directory in which python3 finds QEMU's package qemu.qmp: python of QEMU's source
// up to 10.1, or where pip has put it. Without it that is where scripts/setup --tests has.
const pythonPath = "RAMJET_PYTHONPATH"

// needPython returns what runs Python with qemu.qmp.
func needPython(t *testing.T) func(args ...string) *exec.Cmd {
	t.Helper()
	dir := os.Getenv(pythonPath)
	if dir == "" {
		dir, _ = filepath.Abs("../../.cache/python")
	}
	run := func(args ...string) *exec.Cmd {
		c := exec.CommandContext(t.Context(), "python3", args...)
		c.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH="+dir)
		return c
	}
	if out, err := run("-c", "import qemu.qmp").CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Skipf("no client of QEMU's own (%s names where it is): %v, %s", pythonPath, err, lines[len(lines)-1])
	}
	return run
}

// theirClient is a client that nobody here wrote: it connects, passes a descriptor as libraries do, saves, hears the events,
// is refused things, and leaves.
const theirClient = `
import asyncio, os, sys
from qemu.qmp import QMPClient
from qemu.qmp import ExecuteError

async def main(socket, image):
    qmp = QMPClient('test')
    await qmp.connect(socket)
    print('greeting', sorted(qmp.greeting.QMP.version))
    print('status', (await qmp.execute('query-status'))['status'])
    for wrong in (('nothing', None), ('add-fd', None), ('query-status', {'a': 1}), ('migrate', {'uri': 'nope:'})):
        try:
            print(await qmp.execute(*wrong))
        except ExecuteError as e:
            print('refused', e.error_class, '-', e)
    await qmp.execute('migrate-set-capabilities', {'capabilities': [
        {'capability': c, 'state': True} for c in ('events', 'mapped-ram', 'multifd')]})
    fd = os.open(image, os.O_CREAT | os.O_WRONLY, 0o600)
    qmp.send_fd_scm(fd)
    print('added', sorted(await qmp.execute('add-fd', {'fdset-id': 1})))
    with qmp.listener(('MIGRATION', 'STOP')) as listener:
        await qmp.execute('migrate', {'uri': 'file:/dev/fdset/1'})
        seen = []
        async for event in listener:
            seen.append(event.get('data', {}).get('status', event['event']))
            if seen[-1] in ('completed', 'failed'):
                break
    print('events', *seen)
    await qmp.execute('cont')
    await qmp.execute('remove-fd', {'fdset-id': 1})
    # All at once, answered in order.
    many = await asyncio.gather(*(qmp.execute('query-fdsets') for _ in range(20)))
    print('sets', many.count([]))
    os.close(fd)
    await qmp.disconnect()

asyncio.run(main(*sys.argv[1:]))
`

// TestPythonClient has QEMU's own Python package talk to both.
func TestPythonClient(t *testing.T) {
	python := needPython(t)
	const want = `greeting ['package', 'qemu']
status running
refused CommandNotFound - The command nothing has not been found
refused GenericError - No file descriptor supplied via SCM_RIGHTS
refused GenericError - Parameter 'a' is unexpected
refused GenericError - unknown migration protocol: nope:
added ['fd', 'fdset-id']
events setup active STOP device completed
sets 20
`
	both(t, scene{script: "fill 2\n"}, func(t *testing.T, p *player) {
		p.client.conn.Close()
		out, err := python("-c", theirClient, p.server.socket, p.path("image")).CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%v; it says\n%s\nwanted is\n%s", err, out, want)
		}
		if err := p.connect(); err != nil {
			t.Fatal(err)
		}
		p.expect(t, "head image 0", "a stream")
		p.expect(t, "check 2", "as it was")
		p.expect(t, "leak", "none")
	})
}

// TestQMPShell types commands into QEMU's qmp-shell.
func TestQMPShell(t *testing.T) {
	python := needPython(t)
	both(t, scene{}, func(t *testing.T, p *player) {
		c := python("-m", "qemu.qmp.qmp_shell", p.server.socket)
		p.client.conn.Close()
		c.Stdin = strings.NewReader("query-status\nremove-fd fdset-id=7\nmigrate-set-parameters direct-io=true max-bandwidth=0\nquery-migrate-parameters\nno-such-command\n")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, has := range []string{"Welcome to the QMP low-level shell", "Connected to QEMU", `"running": true`, "File descriptor named 'fdset-id:7' not found",
			`"direct-io": true`, "The command no-such-command has not been found"} {
			if !strings.Contains(string(out), has) {
				t.Errorf("no %s in %s", has, out)
			}
		}
	})
}
