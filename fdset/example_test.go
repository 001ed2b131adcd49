// SPDX-License-Identifier: Apache-2.0

package fdset_test

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ramjet-vm/ramjet/fdset"
)

// A client has passed two descriptors of one file. Each open gets the one that it asked for.
func Example() {
	f, err := os.CreateTemp("", "example")
	check(err)
	defer os.Remove(f.Name())
	writing, err := os.OpenFile(f.Name(), os.O_WRONLY, 0)
	check(err)
	reading, err := os.Open(f.Name())
	check(err)

	var sets fdset.Sets
	defer sets.Close()
	added, err := sets.Add(writing, nil, nil)
	check(err)
	_, err = sets.Add(reading, &added.ID, nil)
	check(err)

	path := fdset.Prefix + fmt.Sprint(added.ID)
	w, err := sets.Open(path, os.O_WRONLY)
	check(err)
	fmt.Fprint(w, "hello")
	r, err := sets.Open(path, os.O_RDONLY)
	check(err)
	var word string
	fmt.Fscan(r, &word)
	fmt.Println(word)

	_, err = sets.Open(path, os.O_WRONLY|unix.O_DIRECT)
	fmt.Println(err != nil)
	// Output:
	// hello
	// true
}

// A set is checked as a whole before a migration begins that would fail in its midst.
func ExampleSets_Check() {
	f, err := os.CreateTemp("", "example")
	check(err)
	defer os.Remove(f.Name())
	var sets fdset.Sets
	defer sets.Close()
	added, err := sets.Add(f, nil, nil)
	check(err)
	path := fdset.Prefix + fmt.Sprint(added.ID)
	fmt.Println(sets.Check(path, fdset.Need{Write: true}) != nil)
	// Output: true
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
