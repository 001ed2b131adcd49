// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Blank stands where a secret was in a recorded command line.
const Blank = "BLANKED-BY-RAMJET"

// WithoutSecrets returns a command line, without the program's name, in which what is secret is replaced by Blank: an
// image goes to other places, and to other people, than the command line of a process. Secret is
//
//	what is called a password, a token, a cookie and the like, as a property or within one
//	the data of -object secret, the key of an rbd: disk, the osk of isa-applesmc
//	user and password, and signatures and tokens, in URLs
//	strings in -fw_cfg and OEM strings in -smbios: nobody can tell what a guest uses those for
//	words like password=... on the kernel's command line
//
// Names of files, and ids of secret objects, are kept.
func WithoutSecrets(words []string) []string {
	args := ParseArgs(words)
	for i, a := range args {
		if a.HasValue {
			args[i].Value = blankValue(a.Name, a.Value)
		}
	}
	return args.Words()
}

// Blanked returns the options of a command line in which something was blanked, as they are now.
func Blanked(words []string) []string {
	var list []string
	for _, a := range ParseArgs(words) {
		if strings.Contains(a.Value, Blank) {
			list = append(list, strings.TrimSpace(strings.Join(Args{a}.Words(), " ")))
		}
	}
	return list
}

func blankValue(option, value string) string {
	switch {
	case option == "append":
		return blankKernelLine(value)
	case slices.Contains(wholeValues, option):
		return blankText(value)
	case strings.HasPrefix(strings.TrimSpace(value), "{"):
		return blankJSON(value)
	}
	var parts []string
	properties := ParseProperties(value, "type")
	changed := false
	for rest := value; rest != ""; {
		var part string
		part, rest = cutValue(rest)
		k, v, ok := strings.Cut(part, "=")
		blanked := blankText(part)
		if ok {
			if blanked = k + "=" + blankProperty(option, k, v, properties); blanked == part {
				blanked = blankURLs(part) // a URL that has a = before its end
			}
		}
		changed = changed || blanked != part
		parts = append(parts, Double(blanked))
	}
	if !changed {
		return value
	}
	return strings.Join(parts, ",")
}

// wholeValues are the options whose value is a file or an address as a whole, commas and all.
var wholeValues = append([]string{"cdrom", "kernel", "initrd", "dtb", "bios"}, plainDisks...)

// blankProperty blanks the value of one property of an option.
func blankProperty(option, key, value string, all Properties) string {
	kind := all.Get("type") + all.Get("qom-type")
	switch {
	case secretName(key, value):
		return Blank
	case option == "object" && strings.HasPrefix(kind, "secret") && key == "data":
		return Blank
	case option == "global" && key == "value" && secretName(all.Get("property"), value):
		return Blank
	case option == "smbios" && key == "value":
		return systemdCredential().FindString(value) + Blank
	case option == "fw_cfg" && key == "string" && !harmlessFirmware().MatchString(all.Get("name")+kind):
		return Blank
	case key == "append":
		return blankKernelLine(value)
	}
	return blankText(value)
}

// harmlessFirmware are the names of settings of firmware, which are no secrets.
var harmlessFirmware = Lazily(`^(opt/(ovmf|org\.tianocore|org\.seabios)/|etc/)`)

// blankText blanks what is secret within a value: in a pseudo-protocol (json:, rbd:), in URLs, in name=value pairs.
func blankText(s string) string {
	if object, ok := strings.CutPrefix(s, "json:"); ok {
		return "json:" + blankJSON(object)
	}
	if strings.HasPrefix(s, "rbd:") {
		s = rbdKey().ReplaceAllString(s, "${1}"+Blank)
	}
	s = blankURLs(s)
	return namedValue().ReplaceAllStringFunc(s, func(m string) string {
		p := namedValue().FindStringSubmatch(m)
		if secretName(p[1], p[2]) && p[2] != Blank {
			return p[1] + "=" + Blank
		}
		return m
	})
}

// blankKernelLine blanks words of the kernel's command line. A word ends at a space that is not within quotes
// (next_arg).
func blankKernelLine(line string) string {
	return kernelWord().ReplaceAllStringFunc(line, func(word string) string {
		quote := ""
		for _, q := range []string{`"`, `'`} {
			if strings.HasPrefix(word, q) {
				quote = q
			}
		}
		name := strings.TrimPrefix(word, quote)
		end := strings.IndexAny(name, "=:")
		if end < 0 {
			return word
		}
		if value := name[end+1:]; secretName(name[:end], strings.Trim(value, `"'`)) {
			return quote + name[:end+1] + Blank + quote
		}
		return blankText(word)
	})
}

// secretWord is what the names of secrets have in them.
var secretWord = Lazily(`(?i)pass(word|wd|phrase|code)|(^|[._-])pass$|pwd$|(^|[._-])(root|user)?pw$|psk|secret|token|cookie|credential|` +
	`(api|private|access|auth|encryption|master|shared|wep|wpa|license)[-_]?key|^osk$|=keyvalue-pairs`)

// secretName reports whether a property is secret by its name. password-secret, passwordid and their like name a secret
// object; the password= of -vnc is a switch.
func secretName(key, value string) bool {
	last := key[strings.LastIndexByte(key, '.')+1:]
	switch value {
	case "on", "off", "yes", "no", "true", "false", "":
		return false
	}
	for _, names := range []string{"-secret", "-file", "id"} {
		if strings.HasSuffix(last, names) {
			return false
		}
	}
	return secretWord().MatchString(last)
}

// Lazily compiles an expression when it is first needed, not at every start of the program.
func Lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

var (
	kernelWord        = Lazily(`(?:"[^"]*(?:"|$)|'[^']*(?:'|$)|[^\s"'])+`)
	namedValue        = Lazily(`([\w.-]+)=("[^"]*"|'[^']*'|[^;,&\s"']+)`)
	rbdKey            = Lazily(`(:key=)(?:\\.|[^:\\])*`)
	systemdCredential = Lazily(`^io\.systemd\.credential(?:\.binary)?:[^=]*=`)
	userInfo          = Lazily(`(?i)\b([a-z][a-z0-9+.-]*)://([^/?#\s"']*)@`)
	queryWithSecret   = Lazily(`(?i)([?&;](?:[\w.-]*(?:pass(?:word|wd)|secret|token|signature|credential|api_?key|access_?key)[\w.-]*|sig|key|auth)=)[^&;#\s"']+`)
)

// blankURLs blanks user and password, and parameters that give access, in the URLs of a text. A user alone is kept
// where it is no secret: ssh needs it.
func blankURLs(s string) string {
	s = userInfo().ReplaceAllStringFunc(s, func(m string) string {
		p := userInfo().FindStringSubmatch(m)
		scheme, info := p[1], p[2]
		if k := strings.IndexAny(info, ":%"); k >= 0 {
			return scheme + "://" + info[:k+1] + Blank + "@"
		}
		switch strings.ToLower(scheme) {
		case "http", "https", "ftp", "ftps":
			return scheme + "://" + Blank + "@"
		}
		return m
	})
	if !strings.Contains(s, "://") && !strings.Contains(s, "?") {
		return s
	}
	return queryWithSecret().ReplaceAllString(s, "${1}"+Blank)
}

// blankJSON blanks an option that is a JSON object. What cannot be read is as secret as it can be.
func blankJSON(text string) string {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return Blank
	}
	changed := false
	v = blankTree(v, &changed)
	if !changed {
		return text
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return Blank
	}
	return strings.TrimSpace(b.String())
}

func blankTree(v any, changed *bool) any {
	switch v := v.(type) {
	case map[string]any:
		kind, _ := v["qom-type"].(string)
		for k, e := range v {
			switch {
			case secretName(k, scalar(e)) && scalar(e) != Blank, k == "data" && strings.HasPrefix(kind, "secret"):
				v[k], *changed = Blank, true
			case secretName(k, "a list or an object") && scalar(e) == "":
				v[k] = blankAll(e, changed)
			default:
				v[k] = blankTree(e, changed)
			}
		}
		return v
	case []any:
		for i := range v {
			v[i] = blankTree(v[i], changed)
		}
		return v
	case string:
		s := blankText(v)
		*changed = *changed || s != v
		return s
	}
	return v
}

// blankAll blanks each text and number below a name that is secret.
func blankAll(v any, changed *bool) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = blankAll(v[k], changed)
		}
	case []any:
		for i := range v {
			v[i] = blankAll(v[i], changed)
		}
	case string, json.Number:
		if v != "" && v != Blank {
			*changed = true
			return Blank
		}
	}
	return v
}
