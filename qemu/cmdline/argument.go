// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"encoding/json"
	"unicode/utf8"
)

// Argument is a command line's argument as JSON has it. Arguments are bytes; one that is not UTF-8 is written as a list
// with one string, its bytes in base64.
type Argument string

func (a Argument) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(a)) {
		return json.Marshal(string(a))
	}
	return json.Marshal([][]byte{[]byte(a)})
}

func (a *Argument) UnmarshalJSON(text []byte) error {
	var list [1][]byte
	if len(text) > 0 && text[0] == '[' {
		err := json.Unmarshal(text, &list)
		*a = Argument(list[0])
		return err
	}
	return json.Unmarshal(text, (*string)(a))
}

// ArgumentList has the words of a command line ready for JSON.
func ArgumentList(words []string) []Argument {
	list := make([]Argument, len(words))
	for i, w := range words {
		list[i] = Argument(w)
	}
	return list
}

// Words is the reverse of ArgumentList.
func Words(list []Argument) []string {
	words := make([]string, len(list))
	for i, a := range list {
		words[i] = string(a)
	}
	return words
}
