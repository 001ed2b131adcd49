// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"context"
	"fmt"
	"log"

	"github.com/ramjet-vm/ramjet/image"
)

// What is damaged in an image is said to the page.
func ExampleVerify() {
	r, err := image.Verify(context.Background(), image.VerifyOptions{Image: "/var/lib/vms/vm1.img"})
	if err != nil && r == nil {
		log.Fatal(err)
	}
	for _, p := range r.BadPages {
		fmt.Println(p)
	}
}
