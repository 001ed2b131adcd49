// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	lib "filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/export/age"
	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
	"github.com/ramjet-vm/ramjet/seal"
)

func newKey(t testing.TB) *lib.X25519Identity {
	t.Helper()
	k, err := lib.GenerateX25519Identity()
	testkit.Check(t, err)
	return k
}

// encryptedFor encrypts an image.
func encryptedFor(t *testing.T, image string, keys ...*lib.X25519Identity) (*Result, string) {
	t.Helper()
	o := Options{Image: image, Format: Age}
	for _, k := range keys {
		o.Recipients = append(o.Recipients, k.Recipient())
	}
	return exported(t, o)
}

// allocated is what a file takes of the disk, in bytes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	testkit.Check(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

// smallHoles is more than the holes of the images in TestEncrypted that are too small to be holes of a copy, in bytes.
const smallHoles = 2 << 20

// TestEncrypted takes images there and back.
func TestEncrypted(t *testing.T) {
	t.Parallel()
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
		if len(r.Files) != 1 || r.Files[0].Bytes != st.Size() || st.Mode() != 0o600 || st.Size() > allocated(t, path)+smallHoles {
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
		if got, want := allocated(t, img), allocated(t, path); got > want+smallHoles {
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

// TestImportEncryptedRefuses: what is encrypted and no image, or damaged, leaves nothing; nor is anything decrypted without a key.
func TestImportEncryptedRefuses(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	text := filepath.Join(t.TempDir(), "text")
	testkit.Check(t, os.WriteFile(text, bytes.Repeat([]byte("text"), 5000), 0o600))
	f, err := os.Open(text)
	testkit.Check(t, err)
	defer f.Close()
	var copied bytes.Buffer
	testkit.Check(t, age.Encrypt(context.Background(), &copied, f, "text", []age.Recipient{key.Recipient()}, nil))
	for what, c := range map[string]struct {
		content []byte
		want    string
		is      error
	}{
		"no image": {copied.Bytes(), "what is encrypted in it: not an image", mappedram.ErrNotImage},
		"cut off":  {copied.Bytes()[:copied.Len()-1], "cut off or changed", mappedram.ErrDamaged},
	} {
		dir, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
		testkit.Check(t, os.WriteFile(file, c.content, 0o600))
		_, err := Import(context.Background(), ImportOptions{Dir: file, Image: filepath.Join(dir, "image"), Identities: []age.Identity{key}})
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), file+": ") {
			t.Errorf("%s: %v", what, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Errorf("%s: leaves %v, %v", what, entries, err)
		}
		if _, err := Import(context.Background(), ImportOptions{Dir: file, Image: filepath.Join(dir, "image")}); err == nil || !strings.Contains(err.Error(), "--identity") {
			t.Errorf("%s, without an identity: %v", what, err)
		}
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

// TestEncryptedHybrid has keys that withstand quantum computers, which age does not mix with others.
func TestEncryptedHybrid(t *testing.T) {
	key, err := lib.GenerateHybridIdentity()
	testkit.Check(t, err)
	r, err := age.ParseRecipient(key.Recipient().String())
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
