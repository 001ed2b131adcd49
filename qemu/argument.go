// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/json"
	"unicode/utf8"
)

// argument is one of a command line in JSON. Arguments are bytes; one that is no UTF-8 is written as a list of one string, its bytes in
// base64.
type argument string

func (a argument) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(a)) {
		return json.Marshal(string(a))
	}
	return json.Marshal([][]byte{[]byte(a)})
}

func (a *argument) UnmarshalJSON(text []byte) error {
	var list [1][]byte
	if len(text) > 0 && text[0] == '[' {
		err := json.Unmarshal(text, &list)
		*a = argument(list[0])
		return err
	}
	return json.Unmarshal(text, (*string)(a))
}

func argumentList(words []string) []argument {
	list := make([]argument, len(words))
	for i, w := range words {
		list[i] = argument(w)
	}
	return list
}

func words(list []argument) []string {
	words := make([]string, len(list))
	for i, a := range list {
		words[i] = string(a)
	}
	return words
}
