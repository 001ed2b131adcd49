// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/ramjet-vm/ramjet/image"
)

// ageMagic begins every file that age encrypted (age-encryption.org/v1, "Header").
const ageMagic = "age-encryption.org/v1\n"

// ParseRecipient reads a public key of age, as age-keygen prints it.
func ParseRecipient(text string) (age.Recipient, error) {
	if strings.HasPrefix(text, "AGE-SECRET-KEY-") {
		return nil, fmt.Errorf("that is a secret key: give its recipient, age1..., which age-keygen -y prints")
	}
	all, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil || len(all) != 1 {
		return nil, fmt.Errorf("%.80q is no recipient of age: age1..., as age-keygen prints it", text)
	}
	return all[0], nil
}

// ReadRecipients reads a file of them, a line each; those with # in front are comments.
func ReadRecipients(path string) ([]age.Recipient, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := age.ParseRecipients(f)
	if err != nil {
		return nil, fmt.Errorf("%s is no file of age's recipients, age1... a line each", path)
	}
	return all, nil
}

// ReadIdentities reads a file of secret keys as age-keygen writes it. The error shows none of it: it may be all but right.
func ReadIdentities(path string) ([]age.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := age.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("%s is no file of age's identities, AGE-SECRET-KEY-1... a line each, as age-keygen writes it", path)
	}
	return all, nil
}

// needsIdentity refuses a file that is encrypted. Of all else the error comes later.
func needsIdentity(path string) error {
	f, err := image.OpenRegular(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if is, _ := encrypted(bufio.NewReader(f)); is {
		return fmt.Errorf("%s is encrypted with age: give a key of its recipients with --identity FILE", path)
	}
	return nil
}

// encrypted looks at the beginning of a file, and leaves it to be read.
func encrypted(r *bufio.Reader) (bool, error) {
	b, err := r.Peek(len(ageMagic))
	if err == io.EOF {
		err = nil
	}
	return string(b) == ageMagic, err
}
