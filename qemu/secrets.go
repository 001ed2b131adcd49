// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"sync"
)

// Blank stands where a secret was in a recorded command line.
const Blank = "BLANKED-BY-RAMJET"

// WithoutSecrets returns a command line, without the program's name, in which what is secret is replaced by Blank: an
// image goes to other places, and to other people, than the command line of a process. Secret is
//
//	what is called a password, a token, a cookie and the like
//	the data of -object secret
//	user and password, and signatures and tokens, in URLs
//	systemd's credentials in -smbios and -fw_cfg
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
	if option == "append" {
		return blankURLs(kernelSecret().ReplaceAllString(value, "${1}"+Blank))
	}
	if strings.HasPrefix(strings.TrimSpace(value), "{") {
		return blankJSON(value)
	}
	var parts []string
	properties := ParseProperties(value, "type")
	changed := false
	for part, rest := cutValue(value); part != "" || rest != ""; part, rest = cutValue(rest) {
		k, v, ok := strings.Cut(part, "=")
		blanked := blankURLs(part)
		if ok && blanked == part {
			blanked = k + "=" + blankProperty(option, k, v, properties)
		}
		changed = changed || blanked != part
		parts = append(parts, Double(blanked))
	}
	if !changed {
		return value
	}
	return strings.Join(parts, ",")
}

// blankProperty blanks the value of one property of an option.
func blankProperty(option, key, value string, all Properties) string {
	kind := all.Get("type") + all.Get("qom-type")
	switch {
	case secretName(key, value):
		return Blank
	case option == "object" && strings.HasPrefix(kind, "secret") && key == "data":
		return Blank
	case option == "smbios" && key == "value":
		return systemdCredential().ReplaceAllString(value, "${1}"+Blank)
	case option == "fw_cfg" && (key == "string") && secretWord().MatchString(all.Get("name")+kind):
		return Blank
	}
	return value
}

// secretWord is what the names of secrets have in them.
var secretWord = lazily(`(?i)pass(word|wd|phrase)|secret|token|cookie|credential|api-?_?key|private-?_?key`)

// secretName tells whether a property is secret by its name. password-secret, passwordid and their like name a secret
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

// lazily compiles an expression when it is first needed, not at every start of the program.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

var (
	kernelSecret      = lazily(`(?i)([\w.-]*(?:pass(?:word|wd|phrase)|secret|token|credential|api_?key)[\w.-]*[=:])\S+`)
	systemdCredential = lazily(`^(io\.systemd\.credential(?:\.binary)?:[^=]*=).*`)
	userInfo          = lazily(`(?i)\b([a-z][a-z0-9+.-]*)://([^/@\s"']*)@`)
	queryWithSecret   = lazily(`(?i)([?&;](?:[\w.-]*(?:pass(?:word|wd)|secret|token|signature|credential|api_?key|access_?key)[\w.-]*|sig|key|auth)=)[^&;#\s"']+`)
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
			if s, ok := e.(string); ok && (secretName(k, s) || k == "data" && strings.HasPrefix(kind, "secret")) {
				v[k], *changed = Blank, true
				continue
			}
			v[k] = blankTree(e, changed)
		}
		return v
	case []any:
		for i := range v {
			v[i] = blankTree(v[i], changed)
		}
		return v
	case string:
		s := blankURLs(v)
		*changed = *changed || s != v
		return s
	}
	return v
}
