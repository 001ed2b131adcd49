// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"fmt"
	"log"
	"os"

	"github.com/ramjet-vm/ramjet/seal"
)

// A seal for one page is put behind a stream, found again, and tells a page that was changed.
func Example() {
	f, err := os.CreateTemp("", "example")
	must(err)
	defer os.Remove(f.Name())
	const streamEnd = 8192
	page := make([]byte, 4096)
	copy(page, "as it was")

	w, err := seal.NewWriter(f, streamEnd, &seal.Metadata{
		Format: "ramjet",
		Blocks: []seal.Block{{Name: "ram", Length: 1 << 20, PageSize: 4096, PagesStored: 1}},
	})
	must(err)
	must(w.AppendSums([]uint64{seal.PageSum(page)}))
	_, size, err := w.Close()
	must(err)

	s, err := seal.Open(f, size)
	must(err)
	sums, err := s.Sums(0, 0, 1)
	must(err)
	fmt.Println(s.Blocks[0].Name, sums[0] == seal.PageSum(page))
	page[100] ^= 1
	fmt.Println(s.Blocks[0].Name, sums[0] == seal.PageSum(page))
	// Output:
	// ram true
	// ram false
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
