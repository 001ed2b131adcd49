// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ramjet-vm/ramjet/test/vm"
)

const domain = "ramjet-bench"

// libvirtRows measure `virsh save` and `virsh restore` of a domain with the same guest, each save the first one of its domain,
// where a libvirt daemon runs.
func libvirtRows() (rows []*Row) {
	for _, f := range []struct {
		name  string
		flags []string
	}{
		{"sparse 2", []string{"--image-format", "sparse", "--parallel-channels", "2", "--bypass-cache"}},
		{"sparse 4", []string{"--image-format", "sparse", "--parallel-channels", "4", "--bypass-cache"}},
		{"raw", []string{"--image-format", "raw", "--bypass-cache"}},
		{"zstd", []string{"--image-format", "zstd"}},
	} {
		var loadFlags []string
		for i, flag := range f.flags {
			if flag == "--parallel-channels" {
				loadFlags = append(loadFlags, flag, f.flags[i+1])
			}
			if flag == "--bypass-cache" {
				loadFlags = append(loadFlags, flag)
			}
		}
		save := &Row{Name: "libvirt " + f.name, Group: "save", What: "virsh save " + strings.Join(f.flags, " ")}
		load := &Row{Name: "libvirt load " + f.name, Group: "load", What: strings.Join(append([]string{"virsh restore"}, loadFlags...), " ")}
		save.run = func(ctx context.Context, b *bench) (Sample, error) {
			defer virsh(context.WithoutCancel(ctx), "destroy", domain)
			s, err := b.libvirtSave(ctx, f.flags)
			if err == nil {
				b.virsh = f.name
			}
			return s, err
		}
		load.run = func(ctx context.Context, b *bench) (Sample, error) {
			defer virsh(context.WithoutCancel(ctx), "destroy", domain)
			if b.virsh != f.name { // else the row before has left it
				if _, err := b.libvirtSave(ctx, f.flags); err != nil {
					return Sample{}, err
				}
			}
			b.virsh = ""
			return b.libvirtLoad(ctx, loadFlags)
		}
		rows = append(rows, save, load)
	}
	return rows
}

func virsh(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("libvirt is not installed")
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n") // the last one is the cause
		return fmt.Errorf("virsh %s: %s", args[0], lines[len(lines)-1])
	}
	return nil
}

// libvirtSave starts a domain, waits for its guest, and saves it, which ends it.
func (b *bench) libvirtSave(ctx context.Context, flags []string) (s Sample, err error) {
	if err := virsh(ctx, "version"); err != nil {
		return s, err
	}
	dir := filepath.Dir(b.image)
	xml := filepath.Join(dir, "domain.xml")
	serial := filepath.Join(dir, "serial")
	if err := b.writeDomain(ctx, xml, serial); err != nil {
		return s, err
	}
	if err := virsh(ctx, "create", xml); err != nil {
		return s, err
	}
	v, err := vm.Attach(ctx, serial, "")
	if err != nil {
		return s, errors.Join(err, virsh(ctx, "destroy", domain))
	}
	if err := v.Fill(b.Fill); err != nil {
		return s, errors.Join(err, virsh(ctx, "destroy", domain))
	}
	v.Close()
	os.Remove(b.image)
	b.settle()
	began := time.Now()
	if err := virsh(ctx, append([]string{"save", domain, b.image}, flags...)...); err != nil {
		return s, errors.Join(err, virsh(ctx, "destroy", domain))
	}
	s.Total = time.Since(began).Seconds()
	s.Pause, s.Bytes = s.Total, b.stored
	s.Cache, err = cached(b.image)
	return s, err
}

func (b *bench) libvirtLoad(ctx context.Context, flags []string) (s Sample, err error) {
	if err := evict(b.image); err != nil {
		return s, err
	}
	memory, err := b.beforeLoad(b.stored)
	if err != nil {
		return s, err
	}
	defer memory.Close()
	began := time.Now()
	if err := virsh(ctx, append([]string{"restore", b.image}, flags...)...); err != nil {
		return s, err
	}
	s.Total, s.Bytes = time.Since(began).Seconds(), b.stored
	s.Cache, err = cached(b.image)
	return s, err
}

func (b *bench) writeDomain(ctx context.Context, path, serial string) error {
	kernel, err := vm.Kernel()
	if err != nil {
		return err
	}
	initrd, err := vm.Initrd(ctx)
	if err != nil {
		return err
	}
	size, err := vm.ParseSize(b.Memory)
	if err != nil {
		return err
	}
	xml := fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name><memory unit='b'>%s</memory><vcpu>1</vcpu>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <os><type arch='x86_64' machine='pc'>hvm</type><kernel>%s</kernel><initrd>%s</initrd><cmdline>%s</cmdline></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='unix'><source mode='bind' path='%s'/></serial></devices>
</domain>`, domain, strconv.FormatInt(size, 10), kernel, initrd, html.EscapeString(vm.Config{}.KernelCommand()), serial)
	return os.WriteFile(path, []byte(xml), 0o600)
}
