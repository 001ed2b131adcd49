// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"syscall"

	"github.com/ramjet-vm/ramjet/qmp"
)

// schemes has the transport of each scheme of a URI.
var schemes = map[string]string{
	"exec": "exec", "rdma": "rdma", "tcp": "socket", "unix": "socket", "vsock": "socket", "fd": "socket", "file": "file",
}

// ParseURI parses a migration URI (migrate_uri_parse).
func ParseURI(uri string) (Address, error) {
	scheme, rest, ok := strings.Cut(uri, ":")
	transport := schemes[scheme]
	if !ok || transport == "" {
		return Address{}, qmp.Errorf("unknown migration protocol: %s", uri)
	}
	if transport != "file" {
		return Address{Transport: transport}, nil
	}
	path, size, ok := strings.Cut(rest, ",offset=")
	a := Address{Transport: "file", Path: path}
	if !ok {
		return a, nil
	}
	n, err := parseSize(size)
	if err != nil {
		text := map[error]string{syscall.EINVAL: "Invalid argument", syscall.ERANGE: "Numerical result out of range"}[err]
		return Address{}, qmp.Errorf("file URI has bad offset %s: %s", size, text)
	}
	a.Offset = n
	return a, nil
}

// parseSize is QEMU's qemu_strtosz. It takes a decimal number, which may have a unit suffix and then a fraction, or a
// hexadecimal number without a suffix. The error is EINVAL or ERANGE.
func parseSize(s string) (uint64, error) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	minus := strings.HasPrefix(s, "-")
	if minus || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	if len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X") && !minus {
		n, err := strconv.ParseUint(s[2:], 16, 64)
		return n, sizeError(err)
	}
	whole, rest := digits(s)
	fraction := ""
	if strings.HasPrefix(rest, ".") {
		fraction, rest = digits(rest[1:])
	}
	if whole == "" && fraction == "" {
		return 0, syscall.EINVAL
	}
	if minus {
		if whole == s {
			return 0, syscall.ERANGE
		}
		return 0, syscall.EINVAL
	}
	shift := uint(0)
	if rest != "" {
		k := strings.Index("BKMGTPE", strings.ToUpper(rest[:1]))
		if k < 0 || len(rest) > 1 {
			return 0, syscall.EINVAL
		}
		shift = uint(10 * k)
	}
	n, err := strconv.ParseUint("0"+whole, 10, 64)
	if err != nil {
		return 0, sizeError(err)
	}
	part, _ := strconv.ParseFloat("0."+fraction+"0", 64)
	if part > 0 && shift == 0 {
		return 0, syscall.EINVAL
	}
	if n > math.MaxUint64>>shift {
		return 0, syscall.ERANGE
	}
	return n<<shift + uint64(part*float64(uint64(1)<<shift)), nil
}

// digits splits s after its leading digits.
func digits(s string) (number, rest string) {
	rest = strings.TrimLeft(s, "0123456789")
	return s[:len(s)-len(rest)], rest
}

// sizeError is the errno for an error of strconv.
func sizeError(err error) error {
	switch {
	case errors.Is(err, strconv.ErrRange):
		return syscall.ERANGE
	case err != nil:
		return syscall.EINVAL
	}
	return nil
}
