package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"afloat/internal/server"
)

func TestExplainOpen(t *testing.T) {
	for _, tt := range []struct {
		err  error
		hint string
	}{
		{fmt.Errorf("open server: %w", server.ErrRunning), "stop it first"},
		{&fs.PathError{Op: "mkdir", Path: "/var/lib/afloat", Err: syscall.EACCES}, "give /var/lib/afloat to the user that runs the server"},
		{&fs.PathError{Op: "mkdir", Path: "/var/lib/afloat", Err: syscall.EROFS}, "on a disk that can be written to"},
		{&fs.PathError{Op: "write", Path: "/var/lib/afloat/lock", Err: syscall.ENOSPC}, "on a disk that can be written to"},
		{errors.New("something else"), ""},
	} {
		err := explainOpen(tt.err, "/var/lib/afloat")
		if !errors.Is(err, tt.err) {
			t.Errorf("%v became %v", tt.err, err)
		}
		h, ok := errors.AsType[*hintError](err)
		if ok != (tt.hint != "") || ok && !strings.Contains(h.hint, tt.hint) {
			t.Errorf("%v: hint %+v, want %q", tt.err, h, tt.hint)
		}
	}
}

func TestCheckListen(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:0": "", "[::1]:x": "--listen [::1]:x: ", "7443": "missing port in address", "127.0.0.1:70000": "invalid port",
		"192.0.2.1:0": "cannot assign requested address",
	} {
		err := checkListen("--listen", addr)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", addr, err, want)
		}
		if _, ok := errors.AsType[*hintError](err); err != nil && !ok {
			t.Errorf("%s: no hint", addr)
		}
	}
}
