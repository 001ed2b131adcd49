// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"encoding/json"
	"reflect"
	"testing"
)

type testDetection string

func (testDetection) Values() []string { return []string{"none", "legacy", "multifd"} }

type testTransport string

func (testTransport) Values() []string { return []string{"socket", "file"} }

// testAddress is MigrationAddress as far as it shows a union.
type testAddress struct {
	Transport testTransport `json:"transport"`
	File      struct {
		Filename string `json:"filename"`
		Offset   uint64 `json:"offset"`
	}
}

func (a *testAddress) Branch() any {
	if a.Transport == "file" {
		return &a.File
	}
	return nil
}

type testArgs struct {
	Channels  *uint8          `json:"multifd-channels"`
	Bandwidth *uint64         `json:"max-bandwidth"`
	Detection *testDetection  `json:"zero-page-detection"`
	DirectIO  bool            `json:"direct-io,omitempty"`
	Creds     *StrOrNull      `json:"tls-creds"`
	Set       int64           `json:"fdset-id,omitempty"`
	Small     int32           `json:"small,omitempty"`
	Ratio     *float64        `json:"ratio"`
	Any       json.RawMessage `json:"any,omitempty"`
	List      []struct {
		Type string      `json:"channel-type"`
		Addr testAddress `json:"addr"`
	} `json:"channels,omitempty"`
	ignored int
}

// argsOf returns a request with the given arguments.
func argsOf(t *testing.T, args string) *Request {
	t.Helper()
	var r *Request
	newParser(func(v value, err *Error) { r = newRequest(nil, v, err, nil) }).feed([]byte(`{"arguments":` + args + `}`))
	if r == nil || r.mistake != nil {
		t.Fatalf("%s: %+v", args, r)
	}
	return r
}

// TestArgsErrors has the texts of QEMU 10.0.2's migrate, migrate-set-parameters
// and add-fd.
func TestArgsErrors(t *testing.T) {
	for args, want := range map[string]string{
		`{"multifd-channels":"x"}`:                         "Parameter 'multifd-channels' expects uint64",
		`{"multifd-channels":256}`:                         "Parameter 'multifd-channels' expects uint8_t",
		`{"multifd-channels":-1}`:                          "Parameter 'multifd-channels' expects uint8_t",
		`{"multifd-channels":1.5}`:                         "Parameter 'multifd-channels' expects uint64",
		`{"max-bandwidth":true}`:                           "Parameter 'max-bandwidth' expects uint64",
		`{"max-bandwidth":1` + `e3}`:                       "Parameter 'max-bandwidth' expects uint64",
		`{"zero-page-detection":"x"}`:                      "Parameter 'zero-page-detection' does not accept value 'x'",
		`{"zero-page-detection":1}`:                        "Invalid parameter type for 'zero-page-detection', expected: string",
		`{"direct-io":1}`:                                  "Invalid parameter type for 'direct-io', expected: boolean",
		`{"tls-creds":1}`:                                  "Invalid parameter type for 'tls-creds', expected: StrOrNull",
		`{"fdset-id":"x"}`:                                 "Invalid parameter type for 'fdset-id', expected: integer",
		`{"fdset-id":1.0}`:                                 "Invalid parameter type for 'fdset-id', expected: integer",
		`{"small":2147483648}`:                             "Parameter 'small' expects int32_t",
		`{"ratio":"1"}`:                                    "Invalid parameter type for 'ratio', expected: number",
		`{"x":1}`:                                          "Parameter 'x' is unexpected",
		`{"ignored":1}`:                                    "Parameter 'ignored' is unexpected",
		`{"channels":{}}`:                                  "Invalid parameter type for 'channels', expected: array",
		`{"channels":[1]}`:                                 "Invalid parameter type for 'channels[0]', expected: object",
		`{"channels":[{}]}`:                                "Parameter 'channels[0].channel-type' is missing",
		`{"channels":[{"addr":{}}]}`:                       "Parameter 'channels[0].channel-type' is missing",
		`{"fdset-id":1,"a":2,"b":[3]}`:                     "Parameter 'a' is unexpected",
		`{"fdset-id":9223372036854775808}`:                 "Invalid parameter type for 'fdset-id', expected: integer",
		`{"max-bandwidth":18446744073709551616}`:           "Parameter 'max-bandwidth' expects uint64",
		`{"channels":[{"channel-type":"main","addr":{}}]}`: "Parameter 'channels[0].addr.transport' is missing",
		`{"channels":[{"channel-type":"main","addr":{"transport":"x"}}]}`:                                                 "Parameter 'transport' does not accept value 'x'",
		`{"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"x"}}]}`:                               "Parameter 'channels[0].addr.offset' is missing",
		`{"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"x","offset":0,"z":1}}]}`:              "Parameter 'channels[0].addr.z' is unexpected",
		`{"channels":[{"channel-type":"main","addr":{"transport":"socket","filename":"x"}}]}`:                             "Parameter 'channels[0].addr.filename' is unexpected",
		`{"channels":[{"channel-type":"main","addr":{"transport":"file","filename":1}}]}`:                                 "Invalid parameter type for 'channels[0].addr.filename', expected: string",
		`{"channels":[{"channel-type":"main","addr":{"transport":"socket"}},{"channel-type":"main","addr":1}],"extra":1}`: "Invalid parameter type for 'channels[1].addr', expected: object",
	} {
		err := argsOf(t, args).Args(new(testArgs))
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
	if err := argsOf(t, `{"a":1}`).Args(nil); err == nil || err.Error() != "Parameter 'a' is unexpected" {
		t.Errorf("no arguments: %v", err)
	}
	var need struct {
		Set int64 `json:"fdset-id"`
	}
	if err := newRequest(nil, value{kind: kindObject}, nil, nil).Args(&need); err == nil || err.Error() != "Parameter 'fdset-id' is missing" {
		t.Errorf("missing arguments: %v", err)
	}
}

func TestArgs(t *testing.T) {
	var got testArgs
	err := argsOf(t, `{"multifd-channels":255,"max-bandwidth":-1,"zero-page-detection":"none","direct-io":true,
		"tls-creds":null,"fdset-id":-9223372036854775808,"small":-5,"ratio":3,"any":{"x":[1]},
		"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"f","offset":18446744073709551615}}]}`).Args(&got)
	if err != nil {
		t.Fatal(err)
	}
	channels, bandwidth, detection, ratio := uint8(255), uint64(1<<64-1), testDetection("none"), 3.0
	want := testArgs{Channels: &channels, Bandwidth: &bandwidth, Detection: &detection, DirectIO: true,
		Creds: &StrOrNull{Null: true}, Set: -1 << 63, Small: -5, Ratio: &ratio, Any: json.RawMessage(`{"x": [1]}`)}
	want.List = append(want.List, got.List...)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if a := got.List[0].Addr; len(got.List) != 1 || a.File.Filename != "f" || a.File.Offset != 1<<64-1 {
		t.Errorf("channels %+v", got.List)
	}
	if got.ignored != 0 {
		t.Error("an unexported field was set")
	}
	for in, want := range map[string]float64{"18446744073709551615": 1 << 64, "1.5": 1.5, "-2": -2} {
		if err := argsOf(t, `{"ratio":`+in+`}`).Args(&got); err != nil || *got.Ratio != want {
			t.Errorf("%s: %v, %v", in, *got.Ratio, err)
		}
	}
}
