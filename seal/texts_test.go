// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// TestNotUTF8 has paths and arguments that are not UTF-8 come back as they were. (Issue 15, point 17.)
func TestNotUTF8(t *testing.T) {
	for _, m := range []*Metadata{
		{CommandLine: []string{"-drive", "file=/x/\xe9t\xe9.img", "a\xff\xfe", "été"}, Cwd: "/home/\xfc", Executable: "/opt/\x80/qemu", Base: &Base{Path: "/\xff"}},
		{CommandLine: []string{"-name", "\ufffd"}, Cwd: "/"},
		{},
	} {
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if has := strings.Contains(string(text), "not_utf8"); has != (m.Base != nil) {
			t.Errorf("%s", text)
		}
		var got Metadata
		if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(&got, m) {
			t.Errorf("%+v comes back as %+v: %v", m, got, err)
		}
	}
	var m Metadata
	// What is run must be what a reader of the JSON sees.
	if err := json.Unmarshal([]byte(`{"command_line":["-m"],"not_utf8":{"/command_line/0":"LWU="}}`), &m); err == nil {
		t.Errorf("another text is taken: %+v", m)
	}
	if err := json.Unmarshal([]byte(`{"command_line":["-m"],"not_utf8":{"/command_line/7":"LWU=","/new/x":""}}`), &m); err != nil || m.CommandLine[0] != "-m" {
		t.Errorf("%+v: %v", m, err)
	}
}
