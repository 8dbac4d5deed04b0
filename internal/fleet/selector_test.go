package fleet

import (
	"errors"
	"testing"
)

func TestSelectorMatches(t *testing.T) {
	host := Labels{"env": "prod", "service": "web", "zone": "a", "example.com/gpu": "h100"}
	for _, tt := range []struct {
		in   string
		want bool
	}{
		{"", true},
		{"env=prod", true},
		{"env==prod,service!=db", true},
		{"env=prod, service=db", false},
		{"zone in (a, b)", true},
		{"zone in (b)", false},
		{"zone notin (b,c)", true},
		{"rack notin (r1)", true},
		{"rack!=r1", true},
		{"rack", false},
		{"!rack", true},
		{"!env", false},
		{"example.com/gpu", true},
		{"env=", false},
		{" env = prod , zone in (a) ", true},
	} {
		s, err := ParseSelector(tt.in)
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		if got := s.Matches(host); got != tt.want {
			t.Errorf("%q matches %v = %v, want %v", tt.in, host, got, tt.want)
		}
	}
}

func TestSelectorErrors(t *testing.T) {
	for _, tt := range []struct {
		in  string
		pos int
	}{
		{"env=prod,", 8},
		{"=prod", 0},
		{"env=pr od", 7},
		{"env>3", 3},
		{"env in a", 7},
		{"env in (a", 9},
		{"env like x", 4},
		{"a,,b", 2},
		{"env=-x", 4},
		{"!", 1},
	} {
		_, err := ParseSelector(tt.in)
		e, ok := errors.AsType[*SelectorError](err)
		if !ok {
			t.Errorf("%q: got %v, want a *SelectorError", tt.in, err)
			continue
		}
		if e.Pos != tt.pos {
			t.Errorf("%q: error at %d, want %d: %v", tt.in, e.Pos, tt.pos, err)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	f.Add("env=prod,service!=db,zone in (a,b),!gpu")
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ParseSelector(in)
		if err != nil {
			return
		}
		again, err := ParseSelector(s.String())
		if err != nil || len(again.Terms()) != len(s.Terms()) {
			t.Errorf("%q reads as %q, which reads as %v, %v", in, s, again, err)
		}
	})
}
