// SPDX-License-Identifier: Apache-2.0

package image

import (
	"testing"

	"github.com/ramjet-vm/ramjet/internal/testkit"
)

// opened opens an image for the rest of a test.
func opened(t testing.TB, path string) *File {
	t.Helper()
	image, err := OpenFile(path)
	testkit.Check(t, err)
	t.Cleanup(func() { image.F.Close() })
	return image
}
