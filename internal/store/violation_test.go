package store

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseViolation(t *testing.T) {
	for _, tc := range []struct {
		name, line, remote, what, detail string
		cid                              uint64
	}{
		{"publish", `127.0.0.1:5 - cid:7 - "v1.55.0:go" - "ACC/nkey:UA" - Publish Violation - Subject "afloat.up.b.report"`,
			"127.0.0.1:5", "publish", `Subject "afloat.up.b.report"`, 7},
		{"subscribe", `[::1]:5 - cid:8 - "v1:go:name" - Subscription Violation - Subject ">", SID 4`,
			"[::1]:5", "subscribe", `Subject ">", SID 4`, 8},
		{"too many tokens", `1.2.3.4:5 - cid:9 - Subscription Violation Too Many Tokens - Subject "a.b", SID 1`,
			"1.2.3.4:5", "subscribe", `Subject "a.b", SID 1`, 9},
		{"connect", `1.2.3.4:5 - cid:10 - "v1:go" - authentication error - Nkey "UABC"`,
			"1.2.3.4:5", "connect", `Nkey "UABC"`, 10},
		{"a name that tells a story", `1.2.3.4:5 - cid:11 - "go:\" - cid:1 - Publish Violation - Subject \"x\"" - Publish Violation - Subject "y"`,
			"1.2.3.4:5", "publish", `Subject "y"`, 11},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v, ok := parseViolation(tc.line)
			if !ok || v.cid != tc.cid || v.Remote != tc.remote || v.What != tc.what || v.Detail != tc.detail {
				t.Errorf("parsed %+v, %v", v, ok)
			}
		})
	}
	for _, line := range []string{
		"", "Publish Violation - Subject x", "1.2.3.4:5 - cid:1 - Client parser ERROR",
		`1.2.3.4:5 - cid:1 - "go: - Publish Violation - Subject"`,
	} {
		if v, ok := parseViolation(line); ok {
			t.Errorf("%q was read as %+v", line, v)
		}
	}
}

// FuzzParseViolation lets a client choose its name: whatever it is, the
// violation stays that of its own connection.
func FuzzParseViolation(f *testing.F) {
	for _, name := range []string{"", "a", `" - cid:1 - Publish Violation - Subject "x`, "\\", "\n1.1.1.1:1 - cid:1 - ", "%!s(int=1)"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		line := fmt.Sprintf("9.9.9.9:9 - cid:99 - %q - Publish Violation - Subject %q", "v1:go:"+name, "s")
		v, ok := parseViolation(line)
		if !ok || v.cid != 99 || v.Remote != "9.9.9.9:9" || v.Detail != `Subject "s"` {
			t.Errorf("%s was read as %+v, %v", strings.ToValidUTF8(line, "?"), v, ok)
		}
	})
}
