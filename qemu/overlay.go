// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ramjet-vm/ramjet/qemu/cmdline"
)

// MakeOverlay makes a qcow2 image at path that holds what is written from now on, over a disk, which is only read
// then. It takes qemu-img from beside the VM's QEMU, or where a shell finds it.
func (c CommandLine) MakeOverlay(ctx context.Context, d cmdline.Disk, path string) error {
	below := c.abs(d.Path)
	format := d.Format
	if format == "" {
		var info struct{ Format string }
		out, err := c.image(ctx, "info", "--output=json", below)
		if err == nil {
			err = json.Unmarshal(out, &info)
		}
		if err != nil {
			return fmt.Errorf("cannot tell the format of the disk %s: %w", d.Path, err)
		}
		format = info.Format
	}
	if _, err := c.image(ctx, "create", "-q", "-f", "qcow2", "-F", format, "-b", below, path); err != nil {
		return fmt.Errorf("cannot make an overlay over the disk %s: %w", d.Path, err)
	}
	return nil
}

// image runs qemu-img.
func (c CommandLine) image(ctx context.Context, args ...string) ([]byte, error) {
	program, err := exec.LookPath(filepath.Join(filepath.Dir(c.Executable), "qemu-img"))
	if err != nil {
		if program, err = exec.LookPath("qemu-img"); err != nil {
			return nil, errors.New("there is no qemu-img here: install it (Debian: qemu-utils)")
		}
	}
	out, err := exec.CommandContext(ctx, program, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		said, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(exit.Stderr)), "qemu-img: "), "\n")
		if strings.Contains(said, "lock") {
			said += " (a VM that runs writes to it: a clone needs the disk as it was when the image was saved)"
		}
		return nil, errors.New(said)
	}
	return out, err
}
