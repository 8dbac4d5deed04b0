package lab

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLifeVerdict(t *testing.T) {
	const quiet = "[ 1.0] afloat_x: tainting kernel with TAINT_LIVEPATCH\n[ 1.1] livepatch: enabling patch 'afloat_x'\n" +
		"[ 1.2] livepatch: 'afloat_x': starting patching transition\n[ 2.0] livepatch: signaling remaining tasks\n"
	const warned = "[ 2.0] WARNING: CPU: 0 PID: 1 at fs/x.c:1\n[ 2.1] Call Trace:\n"
	for _, tc := range []struct {
		name   string
		life   Life
		result Result
		want   string // of the error; "" where it passes
	}{
		{"passes", Life{}, Result{Stdout: quiet}, ""},
		{"does not load", Life{}, Result{Code: 2, Stdout: "insmod: invalid module format\n"}, "the module does not load\ninsmod: invalid"},
		{"check", Life{}, Result{Code: 7, Stdout: "wrong answer\n"}, "the check script is not true with it\nwrong answer"},
		{"last step", Life{}, Result{Code: 13}, "does not work after it"},
		{"unknown step", Life{}, Result{Code: 99}, "exit code 99"},
		{"warning", Life{}, Result{Stdout: quiet + warned}, "the kernel warned: [ 2.0] WARNING: CPU: 0"},
		{"oops", Life{}, Result{Stdout: "[ 2.0] BUG: unable to handle page fault\n"}, "the kernel warned: [ 2.0] BUG"},
		{"trace alone", Life{}, Result{Stdout: "[ 3.0] Call Trace:\n"}, "Call Trace"},
		{"unknown symbol", Life{}, Result{Stdout: "[ 4.0] afloat_x: Unknown symbol foo (err -2)\n"}, "Unknown symbol"},
		{"announced", Life{Warns: "fs/x.c"}, Result{Stdout: quiet + warned}, ""},
		{"announced but silent", Life{Warns: "fs/x.c"}, Result{Stdout: quiet}, "did not warn of fs/x.c"},
		{"announced once", Life{Warns: "fs/x.c"}, Result{Stdout: warned + warned}, "the kernel warned"},
	} {
		_, err := tc.life.judge(tc.result)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
		if _, ok := errors.AsType[*LifeError](err); err != nil && !ok {
			t.Errorf("%s: error is a %T", tc.name, err)
		}
	}
}

func TestReadLived(t *testing.T) {
	out := "afloat-life load 5.10 5.35\nafloat-life transition 5.10 6.60\nafloat-life redirected 4\nafloat-life taint OEK\n[ 1.0] redirected 9\nafloat-life \n"
	want := Lived{Load: 250 * time.Millisecond, Transition: 1250 * time.Millisecond, Redirected: 4, Taint: "OEK", Log: "[ 1.0] redirected 9\nafloat-life \n"}
	if d := cmp.Diff(want, readLived(out)); d != "" {
		t.Error(d)
	}
	if got := readLived("afloat-life load x y\nafloat-life redirected x\n"); got != (Lived{}) {
		t.Errorf("nonsense read as %+v", got)
	}
}
