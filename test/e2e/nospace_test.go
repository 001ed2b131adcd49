// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ramjet-vm/ramjet/test/vm"
)

// TestNoSpaceMeanwhile saves a VM live whose disk has no room meanwhile, so that the VM stops (io-error): when the save has ended,
// well or not, the VM goes on, and its write is done.
func TestNoSpaceMeanwhile(t *testing.T) {
	dir := directory(t)
	do(t, os.WriteFile(dir+"/disk", nil, 0o600))
	do(t, os.Truncate(dir+"/disk", 64<<20))
	v := boot(t, vm.Config{Memory: "256M", ExtraArgs: []string{
		"-blockdev", "driver=raw,node-name=disk,file.driver=blkdebug,file.image.driver=file,file.image.filename=" + dir + "/disk," +
			"file.inject-error.0.event=write_aio,file.inject-error.0.errno=28,file.inject-error.0.once=on",
		"-device", "virtio-blk-pci,drive=disk",
	}})
	c := exec.Command(program, "save", "--qmp", v.QMP, "--live", "--max-bandwidth=40M", dir+"/image")
	var stderr strings.Builder
	c.Stderr = &stderr
	do(t, c.Start())
	time.Sleep(700 * time.Millisecond)
	written := make(chan error, 1)
	go func() { written <- v.WriteDisk(0, 10) }()
	is(t, v, "io-error")
	if err := c.Wait(); err != nil {
		t.Errorf("the save ends with %v, says %s", err, &stderr)
	}
	select {
	case err := <-written:
		do(t, err)
	case <-time.After(20 * time.Second):
		t.Fatalf("the VM is %s after the save", status(t, v))
	}
	look(t, v, true)
	if o := ramjet(t, "inspect", dir+"/image"); !strings.Contains(o.out, "was io-error") {
		t.Errorf("inspect says %s", o.out)
	}
}
