// SPDX-License-Identifier: Apache-2.0

package age

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/ramjet-vm/ramjet/directio"
	"github.com/ramjet-vm/ramjet/internal/testkit"
	"github.com/ramjet-vm/ramjet/mappedram"
)

func newKey(t testing.TB) *age.X25519Identity {
	t.Helper()
	k, err := age.GenerateX25519Identity()
	testkit.Check(t, err)
	return k
}

// file makes a file with this content.
func file(t testing.TB, content string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "file")
	testkit.Check(t, err)
	t.Cleanup(func() { f.Close() })
	_, err = f.WriteString(content)
	testkit.Check(t, err)
	return f
}

// encrypted is an encrypted copy of a file.
func encrypted(t testing.TB, f *os.File, keys ...Recipient) []byte {
	t.Helper()
	var b bytes.Buffer
	testkit.Check(t, Encrypt(context.Background(), &b, f, "file", keys, nil))
	return b.Bytes()
}

// decrypted decrypts a copy and returns the file.
func decrypted(t testing.TB, copy []byte, keys ...Identity) ([]byte, error) {
	t.Helper()
	to := file(t, "")
	size, err := Decrypt(context.Background(), &directio.File{File: to}, bytes.NewReader(copy), keys, nil)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(to.Name())
	testkit.Check(t, err)
	if int64(len(b)) != size {
		t.Errorf("a file of %d bytes, not the %d that Decrypt returns", len(b), size)
	}
	return b, nil
}

// TestCopies takes files there and back, for one key and for several, and stops when it is told to.
func TestCopies(t *testing.T) {
	t.Parallel()
	a, b := newKey(t), newKey(t)
	holes := file(t, strings.Repeat("data", 5000))
	testkit.Check(t, holes.Truncate(16<<20))
	testkit.Change(t, holes.Name(), 8<<20, []byte("more"))
	for name, f := range map[string]*os.File{"empty": file(t, ""), "small": file(t, "small"), "large": file(t, strings.Repeat("0123456789", 300_000)), "holes": holes} {
		want, err := os.ReadFile(f.Name())
		testkit.Check(t, err)
		for _, c := range [][]byte{encrypted(t, f, a.Recipient()), encrypted(t, f, b.Recipient(), a.Recipient())} {
			got, err := decrypted(t, c, newKey(t), a)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: it is another file, %v", name, err)
			}
			if name == "holes" && len(c) > 1<<20 {
				t.Errorf("a copy of %d bytes", len(c))
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Encrypt(ctx, io.Discard, holes, "file", []Recipient{a.Recipient()}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("encrypting goes on: %v", err)
	}
	if _, err := Decrypt(ctx, &directio.File{File: file(t, "")}, bytes.NewReader(encrypted(t, holes, a.Recipient())), []Identity{a}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("decrypting goes on: %v", err)
	}
}

// TestDecryptDamaged flips a bit anywhere and cuts the copy off anywhere.
func TestDecryptDamaged(t *testing.T) {
	key := newKey(t)
	t.Parallel()
	whole := encrypted(t, file(t, strings.Repeat("0123456789", 100_000)), key.Recipient())
	refused := func(what string, b []byte) {
		t.Helper()
		if _, err := decrypted(t, b, key); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
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

// TestDecryptRefuses has what is well encrypted and wrong all the same.
func TestDecryptRefuses(t *testing.T) {
	key := newKey(t)
	t.Parallel()
	some := file(t, strings.Repeat("0123456789", 30_000))
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
	other := string(encrypted(t, some, newKey(t).Recipient()))
	more = strings.Repeat("x", maxPaxRecords)
	long := archive(8192, "1\n0\n4096\n")
	more = ""
	// An archive may have more zeros at its end. The last chunks are missing.
	r, err := age.Decrypt(bytes.NewReader(encrypted(t, some, key.Recipient())), key)
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
		{"text", "text", "not encrypted with age", nil},
		{"for another", other, "encrypted for others", nil},
		{"an endless header", fileMagic + strings.Repeat("-> x y\n\n", 1<<18), "longer than", mappedram.ErrUnsupported},
		{"an endless line", fileMagic + strings.Repeat("x", 2<<20), "longer than", mappedram.ErrUnsupported},
		{"nothing in it", encrypt(""), "no image as ramjet", mappedram.ErrNotImage},
		{"text in it", encrypt(strings.Repeat("text", 5000)), "no image as ramjet", mappedram.ErrNotImage},
		{"endless records", encrypt(tarHeader('x', "x", 1<<32)), "no image as ramjet", mappedram.ErrNotImage},
		{"a hole of years", archive(1<<62, "1\n0\n4096\n"), "", nil},
		{"many parts", archive(8192, "1000000000000\n0\n4096\n"), "parts", mappedram.ErrNotImage},
		{"a part twice", archive(8192, "2\n0\n4096\n0\n4096\n"), "over each other", mappedram.ErrNotImage},
		{"a part behind the end", archive(8192, "1\n4096\n4097\n"), "over each other", mappedram.ErrNotImage},
		{"a part that wraps", archive(8192, "1\n4096\n9223372036854775807\n"), "over each other", mappedram.ErrNotImage},
		{"a negative part", archive(8192, "1\n-4096\n4096\n"), "no image as ramjet", mappedram.ErrNotImage},
		{"a long number", archive(8192, strings.Repeat("1", 9000)), "no image as ramjet", mappedram.ErrNotImage},
	} {
		_, err := decrypted(t, []byte(c.file), key)
		if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}

func TestKeys(t *testing.T) {
	key := newKey(t)
	t.Parallel()
	if _, err := ParseRecipient(key.Recipient().String()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "#", "age1", "ssh-ed25519 AAAA", key.String(), key.Recipient().String() + "\n" + key.Recipient().String()} {
		if _, err := ParseRecipient(bad); err == nil || strings.Contains(err.Error(), key.String()) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if r, err := ReadRecipients(file(t, "# us\n"+key.Recipient().String()+"\n\n"+newKey(t).Recipient().String()+"\n").Name()); err != nil || len(r) != 2 {
		t.Errorf("%v, %v", r, err)
	}
	if k, err := ReadIdentities(file(t, "# mine\n"+key.String()+"\n").Name()); err != nil || len(k) != 1 {
		t.Errorf("%d keys, %v", len(k), err)
	}
	for _, bad := range []string{"", key.String() + "X", "AGE-SECRET-KEY-1", key.Recipient().String(), "hunter2"} {
		_, err := ReadIdentities(file(t, bad).Name())
		if err == nil || bad != "" && strings.Contains(err.Error(), bad[1:]) && bad != "AGE-SECRET-KEY-1" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
