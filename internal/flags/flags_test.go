package flags

import (
	"errors"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// picky words its own complaint.
type picky struct{}

func (picky) String() string   { return "" }
func (picky) Type() string     { return "string" }
func (picky) Set(string) error { return errors.New("cannot log at that") }

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		line []string
		want string
	}{
		{[]string{"--jobs", "x"}, "cannot read --jobs x: want a whole number"},
		{[]string{"-j", "1.5"}, "cannot read --jobs 1.5: want a whole number"},
		{[]string{"--seed=-1"}, "cannot read --seed -1: want a whole number from 0 up"},
		{[]string{"--rate", "fast"}, "cannot read --rate fast: want a number"},
		{[]string{"--after", "10"}, "cannot read --after 10: want a time such as 30s, 10m or 2h"},
		{[]string{"--quiet=maybe"}, "cannot read --quiet maybe: want true or false"},
		{[]string{"--label", "x"}, "cannot read --label x: want KEY=VALUE"},
		{[]string{"--picky", "x"}, "--picky: cannot log at that"},
		{[]string{"--jobs"}, "--jobs needs a value"},
		{[]string{"-j"}, "--jobs needs a value"},
		{[]string{"--bogus"}, "there is no flag --bogus"},
		{[]string{"-x"}, "there is no flag -x"},
		{[]string{"--=x"}, "bad flag syntax: --=x"},
	} {
		f := pflag.NewFlagSet("test", pflag.ContinueOnError)
		f.IntP("jobs", "j", 0, "")
		f.Uint64("seed", 0, "")
		f.Float64("rate", 0, "")
		f.Duration("after", time.Second, "")
		f.Bool("quiet", false, "")
		f.StringToString("label", nil, "")
		f.Var(picky{}, "picky", "")
		if err := Explain(f.Parse(tt.line)); err == nil || err.Error() != tt.want {
			t.Errorf("%q: got %v, want %s", tt.line, err, tt.want)
		}
	}
	if Explain(nil) != nil {
		t.Error("nothing wrong is an error")
	}
}
