// SPDX-License-Identifier: Apache-2.0

package age

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
)

// Recipient is a public key: who can decrypt a copy.
type Recipient = age.Recipient

// Identity is the secret key of a recipient.
type Identity = age.Identity

// fileMagic begins every file that age encrypted (age-encryption.org/v1, "Header").
const fileMagic = "age-encryption.org/v1\n"

// IsEncrypted reports whether what r reads begins as a file that age encrypted. Nothing of it is consumed.
func IsEncrypted(r *bufio.Reader) (bool, error) {
	b, err := r.Peek(len(fileMagic))
	if err == io.EOF {
		err = nil
	}
	return string(b) == fileMagic, err
}

// ParseRecipient reads a public key, as age-keygen prints it.
func ParseRecipient(text string) (Recipient, error) {
	if strings.HasPrefix(text, "AGE-SECRET-KEY-") {
		return nil, fmt.Errorf("that is a secret key: give its recipient, age1..., which age-keygen -y prints")
	}
	all, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil || len(all) != 1 {
		return nil, fmt.Errorf("%.80q is no recipient of age: age1..., as age-keygen prints it", text)
	}
	return all[0], nil
}

// ReadRecipients reads a file of public keys, one a line; lines that begin with # are comments.
func ReadRecipients(path string) ([]Recipient, error) {
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

// ReadIdentities reads a file of secret keys, as age-keygen writes it. The error shows nothing of the file, which may be all but right.
func ReadIdentities(path string) ([]Identity, error) {
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
