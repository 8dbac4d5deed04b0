package cli

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/build"
	"afloat/internal/elfdiff"
	"afloat/internal/kbuild"
	"afloat/internal/kernel"
	"afloat/internal/lab"
	"afloat/internal/patch"
)

// The exit codes of build are what scripts go by.
func TestBuildExitCodes(t *testing.T) {
	refused := &elfdiff.RefusedError{Refusals: []elfdiff.Refusal{
		{Class: elfdiff.ClassInit, Symbol: "a_init", Why: "it has run", Hint: "reboot"},
		{Class: elfdiff.ClassInit, Symbol: "b_init", Why: "it has run", Hint: "reboot"},
	}}
	for _, tc := range []struct {
		name string
		err  error
		code int
		says []string
	}{
		{"refused", fmt.Errorf("link: %w", refused), 2, []string{"cannot live patch a_init: it has run", "b_init", "hint: reboot"}},
		{"unchanged", build.ErrUnchanged, 3, []string{"changes nothing"}},
		{"conflict", &patch.ConflictError{Patch: "p", File: "f.c", Hunk: 2, Why: "gone"}, 4, []string{"f.c: hunk 2", "hint: the diff must be made against the source of debian:x"}},
		{"clash", &build.ClashError{ConflictError: &patch.ConflictError{Patch: "p", File: "f.c", Hunk: 2, At: "@@ -1 +1 @@", Why: "gone"}, With: "q", Earlier: true}, 4,
			[]string{"patch p: f.c: hunk 2 (@@ -1 +1 @@): gone; it conflicts with q of the earlier bundle", "hint: make the diff against the source of debian:x with q applied"}},
		{"another kernel", &build.OtherKernelError{Bundle: "b", Have: kernel.ID{Release: "1", Version: "v", BuildID: "a"}, Want: kernel.ID{Release: "2", Version: "v", BuildID: "a"}}, 1,
			[]string{"cannot build on b, which is for another kernel: release 1 is not 2", "hint: give --on the bundle that was built for 2"}},
		{"does not compile", &kbuild.CompileError{Source: "f.c", Patched: true, Output: "f.c:1: error", Err: errors.New("exit status 1")}, 4, []string{"f.c:1: error"}},
		{"original does not compile", &kbuild.CompileError{Source: "f.c", Err: errors.New("exit status 1")}, 1, []string{"original f.c"}},
		{"other", errors.New("disk full"), 1, []string{"disk full"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stderr bytes.Buffer
			cmd := &cobra.Command{RunE: func(*cobra.Command, []string) error { return explainBuild(tc.err, "debian:x") }, SilenceErrors: true, SilenceUsage: true}
			cmd.SetArgs(nil)
			if code := run(t.Context(), cmd, &stderr); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			for _, want := range tc.says {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("%q does not say %q", stderr.String(), want)
				}
			}
			if n := strings.Count(stderr.String(), "hint: reboot"); n > 1 {
				t.Errorf("the same hint %d times", n)
			}
		})
	}
}

func TestBuildTargets(t *testing.T) {
	f := buildFlags{kernels: []string{"debian:6.1.0-55-amd64", "debian:6.1.0-55-cloud-amd64"}, out: "out/%k.afloat", on: "old-%k"}
	got, err := f.targets()
	if err != nil {
		t.Fatal(err)
	}
	want := []kernelTarget{{"debian:6.1.0-55-amd64", "out/6.1.0-55-amd64.afloat", "old-6.1.0-55-amd64"},
		{"debian:6.1.0-55-cloud-amd64", "out/6.1.0-55-cloud-amd64.afloat", "old-6.1.0-55-cloud-amd64"}}
	if !slices.Equal(got, want) {
		t.Errorf("targets %v, want %v", got, want)
	}
	f.out = "one.afloat"
	if _, err := f.targets(); err == nil || !strings.Contains(err.Error(), "to one file, one.afloat") {
		t.Errorf("one file for two kernels: %v", err)
	}
}

// The exit code of several builds is the worst one.
func TestBuildManyOutcome(t *testing.T) {
	with := func(code int) outcome { return outcome{err: &exitError{code, errors.New("x")}} }
	for _, tc := range []struct {
		outcomes []outcome
		code     int
	}{
		{[]outcome{{}, {}}, 0},
		{[]outcome{{}, with(3)}, 3},
		{[]outcome{with(3), with(2), {}}, 2},
		{[]outcome{with(2), with(4)}, 4},
		{[]outcome{with(4), {err: errors.New("disk full")}, with(2)}, 1},
		{[]outcome{with(9), {}}, 1},
	} {
		err := worst(tc.outcomes)
		if (err == nil) != (tc.code == 0) || err != nil && exitCode(err) != tc.code {
			t.Errorf("worst of %v: %v, want code %d", tc.outcomes, err, tc.code)
		}
	}
	var out bytes.Buffer
	list := []outcome{{kernelTarget: kernelTarget{kernel: "debian:a", out: "a.afloat"}}, with(2)}
	if err := outcomeTable(list).write(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "a.afloat") || !strings.Contains(out.String(), "refused") {
		t.Errorf("table %q", out.String())
	}
}

func TestBootSentences(t *testing.T) {
	report := lab.BootReport{
		Lives: []lab.Lived{{Load: 120 * time.Millisecond, Transition: time.Second, Redirected: 2}, {Redirected: 2}},
		Late:  []string{"nls_utf8"}, Unusable: []*lab.InsertError{{Module: "e1000e", Said: "no such device"}}, Took: 9 * time.Second,
	}
	said := strings.Join(bootSentences("6.1.0-x", report, true), "\n")
	for _, want := range []string{"6.1.0-x in QEMU loaded", "9.0 s with the boot", "loading took 0.12 s and the transition 1.00 s", "2 functions redirected",
		"check script passed", "module nls_utf8 was also loaded after", "no use for module e1000e"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in\n%s", want, said)
		}
	}
	err := explainBuild(fmt.Errorf("cannot seal the bundle: %w", &lab.BootTestError{Release: "6.1.0-x", Why: "the check", Console: "end"}), "debian:x")
	if exitCode(err) != exitRefused {
		t.Errorf("exit code %d of %v", exitCode(err), err)
	}
}
