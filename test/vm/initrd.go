// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Initrd returns the initramfs of the guest, made now if there is none or if the
// guest's source, the kernel or its drivers are others than those it was made of.
func Initrd(ctx context.Context) (string, error) {
	top, err := checkout()
	if err != nil {
		return "", err
	}
	modules, err := kernelModules(top)
	if err != nil {
		return "", err
	}
	sources, err := filepath.Glob(filepath.Join(top, "test/guest/*.go"))
	if err != nil {
		return "", err
	}
	sum, err := hashFiles(append(append(sources, modules...), filepath.Join(top, "go.mod")))
	if err != nil {
		return "", err
	}
	// Tests of several packages come here at a time; the first one builds.
	cache := filepath.Join(top, ".cache")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "initrd.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	name := filepath.Join(cache, fmt.Sprintf("initrd-%.6x.cpio", sum))
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	old, _ := filepath.Glob(filepath.Join(cache, "initrd-*.cpio"))
	for _, f := range old {
		os.Remove(f)
	}
	return name, buildInitrd(ctx, top, name, modules)
}

func buildInitrd(ctx context.Context, top, name string, modules []string) error {
	binary := name + ".init"
	defer os.Remove(binary)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, "./test/guest")
	cmd.Dir = top
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the guest: %w: %s", err, bytes.TrimSpace(out))
	}
	var archive bytes.Buffer
	c := &cpioWriter{w: &archive}
	c.add("dev", cpioDir|0o755, nil, 0, 0)
	// The kernel opens it for the standard descriptors before init runs.
	c.add("dev/console", cpioChar|0o600, nil, 5, 1)
	c.add("modules", cpioDir|0o755, nil, 0, 0)
	for i, file := range append([]string{binary}, modules...) {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		path := "init"
		if i > 0 {
			path = "modules/" + filepath.Base(file)
		}
		c.add(path, cpioFile|0o755, b, 0, 0)
	}
	if err := c.close(); err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", archive.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func hashFiles(names []string) ([]byte, error) {
	sort.Strings(names)
	h := sha256.New()
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(h, "%s %d\n", filepath.Base(name), len(b))
		h.Write(b)
	}
	return h.Sum(nil), nil
}
