// SPDX-License-Identifier: Apache-2.0

package export

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
	"github.com/ramjet-vm/ramjet/test/allocs"
)

func newKey(t testing.TB) *age.X25519Identity {
	t.Helper()
	k, err := age.GenerateX25519Identity()
	testkit.Check(t, err)
	return k
}

// encryptedFor encrypts an image.
func encryptedFor(t *testing.T, image string, keys ...*age.X25519Identity) (*Result, string) {
	t.Helper()
	o := Options{Image: image, Format: Age}
	for _, k := range keys {
		o.Recipients = append(o.Recipients, k.Recipient())
	}
	return exported(t, o)
}

// allocated is what a file takes of the disk, in bytes.
func allocated(t *testing.T, path string) (n int64) {
	t.Helper()
	f, err := os.Open(path)
	testkit.Check(t, err)
	defer f.Close()
	st, err := f.Stat()
	testkit.Check(t, err)
	extents, err := dataExtents(f, st.Size())
	testkit.Check(t, err)
	for _, x := range extents {
		n += x.n
	}
	return n
}

// TestEncrypted takes images there and back.
func TestEncrypted(t *testing.T) {
	sparse := testkit.SmallImage()
	sparse.Blocks[0].Length = 64 << 20
	page := sparse.Page
	sparse.Page = func(block int, p int64) []byte {
		if block == 0 && p%1024 > 3 {
			return nil
		}
		return page(block, p)
	}
	diff := filepath.Join(t.TempDir(), "diff")
	testkit.Handmade(t, diff, &seal.Base{Path: "/nowhere/base"}, [2]map[int64]byte{{3: 0, 4: 9}, {63: 0}})
	a, b := newKey(t), newKey(t)
	for name, path := range map[string]string{"unsealed": testkit.SmallImage().Write(t), "sealed": testkit.SmallImage().Sealed(t), "sparse": sparse.Sealed(t), "diff": diff} {
		r, file := encryptedFor(t, path, a, b)
		st, err := os.Stat(file)
		testkit.Check(t, err)
		if len(r.Files) != 1 || r.Files[0].Bytes != st.Size() || st.Mode() != 0o600 || st.Size() > allocated(t, path)+100<<10 {
			t.Errorf("%s: %+v, of %d bytes, with mode %v; the image has %d", name, r.Files, st.Size(), st.Mode(), allocated(t, path))
		}
		img := filepath.Join(t.TempDir(), "image")
		i, err := Import(context.Background(), ImportOptions{Dir: file, Image: img, Identities: []age.Identity{newKey(t), b}})
		testkit.Check(t, err)
		want, err := os.ReadFile(path)
		testkit.Check(t, err)
		got, err := os.ReadFile(img)
		testkit.Check(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the image is another", name)
		}
		if got, want := allocated(t, img), allocated(t, path); got > want+64<<10 {
			t.Errorf("%s: %d bytes are allocated, %d before", name, got, want)
		}
		if i.ID != r.ID || (i.ID == "") != (name == "unsealed") || i.PagesStored == 0 || i.PagesTotal < i.PagesStored {
			t.Errorf("%s: %+v", name, i)
		}
		if name == "sealed" || name == "sparse" {
			_, err = image.Verify(context.Background(), image.VerifyOptions{Image: img})
			testkit.Check(t, err)
		}
	}
}

// TestEncryptedDamaged flips a bit anywhere and cuts the file off anywhere; nothing is left.
func TestEncryptedDamaged(t *testing.T) {
	key := newKey(t)
	_, file := encryptedFor(t, testkit.SmallImage().Sealed(t), key)
	whole, err := os.ReadFile(file)
	testkit.Check(t, err)
	refused := func(what string, b []byte) {
		t.Helper()
		bad, dir := filepath.Join(t.TempDir(), "bad"), t.TempDir()
		testkit.Check(t, os.WriteFile(bad, b, 0o600))
		_, err := Import(context.Background(), ImportOptions{Dir: bad, Image: filepath.Join(dir, "image"), Identities: []age.Identity{key}})
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", what, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Errorf("%s: leaves %v, %v", what, entries, err)
		}
	}
	header := bytes.Index(whole, []byte("\n---")) + 48
	for at := 0; at < len(whole); at += 1 + len(whole)/40 {
		refused(fmt.Sprintf("cut off at %d", at), whole[:at])
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1
		refused(fmt.Sprintf("flipped at %d", at), flipped)
	}
	for at := 0; at < header; at += 7 {
		refused(fmt.Sprintf("cut off at %d", at), whole[:at])
	}
	refused("cut off at a chunk's end", whole[:header+16+3*(64<<10+16)])
	refused("cut off by a byte", whole[:len(whole)-1])
	refused("longer by a byte", append(bytes.Clone(whole), 0))
}

// TestEncryptedRefuses has what is well encrypted and wrong all the same.
func TestEncryptedRefuses(t *testing.T) {
	key := newKey(t)
	path := testkit.SmallImage().Sealed(t)
	encrypt := func(plain string) string {
		var b bytes.Buffer
		w, err := age.Encrypt(&b, key.Recipient())
		testkit.Check(t, err)
		_, err = io.WriteString(w, plain)
		testkit.Check(t, errors.Join(err, w.Close()))
		return b.String()
	}
	more := ""
	archive := func(size int64, list string) string {
		var records strings.Builder
		for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", fmt.Sprintf("GNU.sparse.realsize=%d", size), "comment=" + more} {
			records.WriteString(paxRecord(r))
		}
		head := tarHeader('x', "x", int64(records.Len()))
		fillBlock(&records)
		l := strings.Builder{}
		l.WriteString(list)
		fillBlock(&l)
		return encrypt(head + records.String() + tarHeader('0', "x", 0) + l.String() + strings.Repeat("x", 4096))
	}
	raw, err := os.ReadFile(path)
	testkit.Check(t, err)
	_, others := encryptedFor(t, path, newKey(t))
	other, err := os.ReadFile(others)
	testkit.Check(t, err)
	good := archive(8192, "1\n0\n4096\n")
	more = strings.Repeat("x", maxPaxRecords)
	long := archive(8192, "1\n0\n4096\n")
	more = ""
	// An archive may have more zeros at its end. The last chunks are missing.
	_, ours := encryptedFor(t, path, key)
	f, err := os.Open(ours)
	testkit.Check(t, err)
	defer f.Close()
	r, err := age.Decrypt(f, key)
	testkit.Check(t, err)
	plain, err := io.ReadAll(r)
	testkit.Check(t, err)
	plain = append(plain, make([]byte, 300<<10-len(plain)%(64<<10))...)
	cut := encrypt(string(plain))
	cut = cut[:len(cut)-2*(64<<10+16)-(44<<10+16)]
	for _, c := range []struct {
		what, file, want string
		is               error
	}{
		{"an archive without its end", cut, "cut off or changed", mappedram.ErrDamaged},
		{"an archive that does not end", encrypt(string(plain) + strings.Repeat("\x00", maxTarEnd)), "no image as ramjet", mappedram.ErrNotImage},
		{"long records", long, "no image as ramjet", mappedram.ErrNotImage},
		{"nothing", "", "not encrypted with age", nil},
		{"an image", string(raw), "not encrypted with age", nil},
		{"for another", string(other), "encrypted for others", nil},
		{"an endless header", ageMagic + strings.Repeat("-> x y\n\n", 1<<18), "longer than", mappedram.ErrUnsupported},
		{"an endless line", ageMagic + strings.Repeat("x", 2<<20), "longer than", mappedram.ErrUnsupported},
		{"nothing in it", encrypt(""), "no image as ramjet", mappedram.ErrNotImage},
		{"an image in it", encrypt(string(raw)), "no image as ramjet", mappedram.ErrNotImage},
		{"endless records", encrypt(tarHeader('x', "x", 1<<32)), "no image as ramjet", mappedram.ErrNotImage},
		{"no image in it", good, "what is encrypted in it: not an image", mappedram.ErrNotImage},
		{"a hole of years", archive(1<<62, "1\n0\n4096\n"), "", nil},
		{"many parts", archive(8192, "1000000000000\n0\n4096\n"), "parts", mappedram.ErrNotImage},
		{"a part twice", archive(8192, "2\n0\n4096\n0\n4096\n"), "over each other", mappedram.ErrNotImage},
		{"a part behind the end", archive(8192, "1\n4096\n4097\n"), "over each other", mappedram.ErrNotImage},
		{"a part that wraps", archive(8192, "1\n4096\n9223372036854775807\n"), "over each other", mappedram.ErrNotImage},
		{"a negative part", archive(8192, "1\n-4096\n4096\n"), "no image as ramjet", mappedram.ErrNotImage},
		{"a long number", archive(8192, strings.Repeat("1", 9000)), "no image as ramjet", mappedram.ErrNotImage},
	} {
		dir := t.TempDir()
		bad := filepath.Join(t.TempDir(), "bad")
		testkit.Check(t, os.WriteFile(bad, []byte(c.file), 0o600))
		_, err := Import(context.Background(), ImportOptions{Dir: bad, Image: filepath.Join(dir, "image"), Identities: []age.Identity{key}})
		if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Errorf("%s: leaves %v, %v", c.what, entries, err)
		}
	}
	if _, err := Import(context.Background(), ImportOptions{Dir: others, Image: filepath.Join(t.TempDir(), "image")}); err == nil || !strings.Contains(err.Error(), "--identity") {
		t.Errorf("without an identity: %v", err)
	}
}

// TestEncryptDamaged encrypts no image that is not what was sealed, and leaves nothing.
func TestEncryptDamaged(t *testing.T) {
	path := testkit.SmallImage().Sealed(t)
	testkit.Flip(t, path, 8*opened(t, path).Blocks[0].PagesOffset)
	o := Options{Image: path, Format: Age, Out: filepath.Join(t.TempDir(), "out"), Recipients: []age.Recipient{newKey(t).Recipient()}}
	if _, err := Export(context.Background(), o); !errors.Is(err, mappedram.ErrDamaged) {
		t.Error(err)
	}
	o.Image, o.Recipients = testkit.SmallImage().Write(t), nil
	if _, err := Export(context.Background(), o); !errors.Is(err, errNoRecipients) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	o.Recipients = []age.Recipient{newKey(t).Recipient()}
	if _, err := Export(ctx, o); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(o.Out)); err != nil || len(entries) != 0 {
		t.Errorf("leaves %v, %v", entries, err)
	}
}

// TestSparseTar has Go's own reader read what is written, with lists that end at a block's end and elsewhere.
func TestSparseTar(t *testing.T) {
	for _, many := range []int{0, 1, 2, 20, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 1000, maxExtents} {
		var want bytes.Buffer
		var extents []extent
		for k := range many {
			extents = append(extents, extent{int64(k * 100), int64(1 + k%100)})
		}
		size := int64(many*100 + 77)
		want.Write(make([]byte, size))
		for k, x := range extents {
			copy(want.Bytes()[x.off:x.off+x.n], bytes.Repeat([]byte{byte(1 + k%255)}, 100))
		}
		var b bytes.Buffer
		testkit.Check(t, sparseTar(&b, "näme\n", size, extents, func(x extent) error {
			b.Write(want.Bytes()[x.off : x.off+x.n])
			return nil
		}))
		if b.Len()%tarBlock != 0 {
			t.Errorf("%d extents: %d bytes", many, b.Len())
		}
		ours := bytes.NewReader(b.Bytes())
		gotSize, got, err := sparseHeader(ours)
		if err != nil || gotSize != size || len(got) != many {
			t.Fatalf("%d extents: %d extents of %d bytes, %v", many, len(got), gotSize, err)
		}
		for k, x := range got {
			p := make([]byte, x.n)
			_, err := io.ReadFull(ours, p)
			if err != nil || x != extents[k] || !bytes.Equal(p, want.Bytes()[x.off:x.off+x.n]) {
				t.Fatalf("%d extents: %d is %v, %v", many, k, x, err)
			}
		}
		theirs := tar.NewReader(&b)
		h, err := theirs.Next()
		testkit.Check(t, err)
		content, err := io.ReadAll(theirs)
		if err != nil || h.Name != "näme\n" || h.Size != size || !bytes.Equal(content, want.Bytes()) {
			t.Fatalf("%d extents: archive/tar reads %+v, %v", many, h, err)
		}
		if _, err := theirs.Next(); err != io.EOF {
			t.Errorf("%d extents: at the end: %v", many, err)
		}
	}
}

// TestSparseTarGNU has GNU tar make the file again, as docs/image-format.md says.
func TestSparseTarGNU(t *testing.T) {
	if out, _ := exec.Command("tar", "--version").Output(); !bytes.Contains(out, []byte("GNU tar")) {
		t.Skip("no GNU tar here")
	}
	path := filepath.Join(t.TempDir(), "vm1.img")
	testkit.Check(t, os.WriteFile(path, bytes.Repeat([]byte("data"), 5000), 0o600))
	testkit.Check(t, os.Truncate(path, 64<<20))
	testkit.Change(t, path, 32<<20, []byte("more"))
	f, err := os.Open(path)
	testkit.Check(t, err)
	defer f.Close()
	extents, err := dataExtents(f, 64<<20)
	testkit.Check(t, err)
	var b bytes.Buffer
	testkit.Check(t, sparseTar(&b, "vm1.img", 64<<20, extents, func(x extent) error {
		_, err := io.Copy(&b, io.NewSectionReader(f, x.off, x.n))
		return err
	}))
	dir := t.TempDir()
	c := exec.Command("tar", "-xSC", dir)
	c.Stdin = &b
	if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	want, err := os.ReadFile(path)
	testkit.Check(t, err)
	got, err := os.ReadFile(filepath.Join(dir, "vm1.img"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("tar makes another file, %v", err)
	}
	if n := allocated(t, filepath.Join(dir, "vm1.img")); n > 1<<20 {
		t.Errorf("tar's file takes %d bytes", n)
	}
}

// TestEncryptedHybrid has keys that withstand quantum computers, which age does not mix with others.
func TestEncryptedHybrid(t *testing.T) {
	key, err := age.GenerateHybridIdentity()
	testkit.Check(t, err)
	r, err := ParseRecipient(key.Recipient().String())
	testkit.Check(t, err)
	o := Options{Image: testkit.SmallImage().Sealed(t), Format: Age, Recipients: []age.Recipient{r}}
	_, file := exported(t, o)
	img := filepath.Join(t.TempDir(), "image")
	_, err = Import(context.Background(), ImportOptions{Dir: file, Image: img, Identities: []age.Identity{key}})
	testkit.Check(t, err)
	_, err = image.Verify(context.Background(), image.VerifyOptions{Image: img})
	testkit.Check(t, err)
	o.Recipients = append(o.Recipients, newKey(t).Recipient())
	o.Out = filepath.Join(t.TempDir(), "out")
	if _, err := Export(context.Background(), o); err == nil || !strings.Contains(err.Error(), "post-quantum") || strings.Contains(err.Error(), "\n") {
		t.Errorf("mixed: %v", err)
	}
}

// FuzzSparseHeader gives out only extents that rise and lie in the file.
func FuzzSparseHeader(f *testing.F) {
	var b bytes.Buffer
	testkit.Check(f, sparseTar(&b, "x", 8192, []extent{{0, 4096}, {4100, 5}}, func(x extent) error { _, err := b.Write(make([]byte, x.n)); return err }))
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		defer allocs.AtMost(t, allocs.Fuzz)()
		size, extents, err := sparseHeader(bytes.NewReader(in))
		if err != nil {
			return
		}
		end := int64(0)
		for _, x := range extents {
			if x.off < end || x.n <= 0 || x.off+x.n < x.off || x.off+x.n > size {
				t.Fatalf("%v of %d bytes", extents, size)
			}
			end = x.off + x.n
		}
	})
}

func TestAgeKeys(t *testing.T) {
	key := newKey(t)
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "keys")
		testkit.Check(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	if _, err := ParseRecipient(key.Recipient().String()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "#", "age1", "ssh-ed25519 AAAA", key.String(), key.Recipient().String() + "\n" + key.Recipient().String()} {
		if _, err := ParseRecipient(bad); err == nil || strings.Contains(err.Error(), key.String()) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if r, err := ReadRecipients(file("# us\n" + key.Recipient().String() + "\n\n" + newKey(t).Recipient().String() + "\n")); err != nil || len(r) != 2 {
		t.Errorf("%v, %v", r, err)
	}
	if k, err := ReadIdentities(file("# mine\n" + key.String() + "\n")); err != nil || len(k) != 1 {
		t.Errorf("%d keys, %v", len(k), err)
	}
	for _, bad := range []string{"", key.String() + "X", "AGE-SECRET-KEY-1", key.Recipient().String(), "hunter2"} {
		_, err := ReadIdentities(file(bad))
		if err == nil || bad != "" && strings.Contains(err.Error(), bad[1:]) && bad != "AGE-SECRET-KEY-1" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
