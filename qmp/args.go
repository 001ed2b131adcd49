// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Enum is a string type with a fixed set of values.
type Enum interface{ Values() []string }

// Union is a struct some of whose members depend on the others (a flat union of
// the schema). After its own members have been decoded Branch is asked for a
// pointer to the struct with the others, in the same object; nil is none.
type Union interface{ Branch() any }

// StrOrNull is the schema's alternate of that name: a string, or Null.
type StrOrNull struct {
	String string
	Null   bool
}

// Args decodes the command's arguments into the struct that into points to, or
// checks that there are none if it is nil, with QEMU's errors.
//
// Members are looked for in the order of the fields, under the names in their
// "json" tags; those of pointers and those marked omitempty may be missing. A
// field may be a string, an Enum, a bool, an integer (of unsigned ones QEMU
// takes negative values for huge ones, and so does this), a float64, a
// StrOrNull, a json.RawMessage for anything, a slice, or a struct, which may be
// a Union.
func (r *Request) Args(into any) error {
	args := r.input.member("arguments")
	if args == nil {
		args = &value{kind: kindObject}
	}
	if into == nil {
		into = &struct{}{}
	}
	if err := decodeStruct(args, reflect.ValueOf(into).Elem(), ""); err != nil {
		return err
	}
	return nil
}

// decodeStruct decodes all of an object; path is its full name.
func decodeStruct(v *value, into reflect.Value, path string) *Error {
	seen := make(map[string]bool, len(v.keys))
	if err := decodeMembers(v, into, path, seen); err != nil {
		return err
	}
	for _, key := range v.keys {
		if !seen[key] {
			return Errorf("Parameter '%s' is unexpected", join(path, key))
		}
	}
	return nil
}

func decodeMembers(v *value, into reflect.Value, path string, seen map[string]bool) *Error {
	for i := range into.NumField() {
		field := into.Type().Field(i)
		tag, tagged := field.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		if !tagged || name == "-" {
			continue
		}
		m := v.member(name)
		if m == nil {
			if options == "omitempty" || field.Type.Kind() == reflect.Pointer {
				continue
			}
			return Errorf("Parameter '%s' is missing", join(path, name))
		}
		seen[name] = true
		if err := decodeValue(m, into.Field(i), join(path, name), name); err != nil {
			return err
		}
	}
	if u, ok := into.Addr().Interface().(Union); ok {
		if branch := u.Branch(); branch != nil {
			return decodeMembers(v, reflect.ValueOf(branch).Elem(), path, seen)
		}
	}
	return nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// decodeValue decodes one value. QEMU's errors about the content of a value have
// its name, "null" for an element of a list; those about its type have its path.
func decodeValue(v *value, into reflect.Value, path, name string) *Error {
	expected := func(what string) *Error {
		return Errorf("Invalid parameter type for '%s', expected: %s", path, what)
	}
	switch into.Addr().Interface().(type) {
	case *json.RawMessage:
		into.SetBytes(appendValue(nil, v))
		return nil
	case *StrOrNull:
		if v.kind != kindString && v.kind != kindNull {
			return expected("StrOrNull")
		}
		into.Set(reflect.ValueOf(StrOrNull{v.str, v.kind == kindNull}))
		return nil
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		return decodeValue(v, into.Elem(), path, name)
	case reflect.String:
		if v.kind != kindString {
			return expected("string")
		}
		if e, ok := into.Interface().(Enum); ok && !slices.Contains(e.Values(), v.str) {
			return Errorf("Parameter '%s' does not accept value '%s'", name, v.str)
		}
		into.SetString(v.str)
	case reflect.Bool:
		if v.kind != kindBool {
			return expected("boolean")
		}
		into.SetBool(v.num != 0)
	case reflect.Float64:
		if v.kind < kindInt || v.kind > kindFloat {
			return expected("number")
		}
		into.SetFloat(v.toFloat())
	case reflect.Slice:
		if v.kind != kindList {
			return expected("array")
		}
		into.Set(reflect.MakeSlice(into.Type(), len(v.list), len(v.list)))
		for i := range v.list {
			if err := decodeValue(&v.list[i], into.Index(i), fmt.Sprintf("%s[%d]", path, i), "null"); err != nil {
				return err
			}
		}
	case reflect.Struct:
		if v.kind != kindObject {
			return expected("object")
		}
		return decodeStruct(v, into, path)
	default:
		return decodeInteger(v, into, path, name)
	}
	return nil
}

// decodeInteger decodes into an integer of any size. Its errors differ between
// signed and unsigned ones because QEMU's do.
func decodeInteger(v *value, into reflect.Value, path, name string) *Error {
	tooLarge := func() *Error {
		return Errorf("Parameter '%s' expects %s_t", name, into.Kind())
	}
	switch {
	case into.CanInt():
		if v.kind != kindInt {
			return Errorf("Invalid parameter type for '%s', expected: integer", path)
		}
		if into.OverflowInt(v.int()) {
			return tooLarge()
		}
		into.SetInt(v.int())
	case into.CanUint():
		if v.kind != kindInt && v.kind != kindUint {
			return Errorf("Parameter '%s' expects uint64", path)
		}
		if into.OverflowUint(v.num) {
			return tooLarge()
		}
		into.SetUint(v.num)
	default:
		panic(fmt.Sprintf("qmp: cannot decode arguments into a %s", into.Type()))
	}
	return nil
}

func (v *value) toFloat() float64 {
	switch v.kind {
	case kindInt:
		return float64(v.int())
	case kindUint:
		return float64(v.num)
	}
	return v.float()
}
