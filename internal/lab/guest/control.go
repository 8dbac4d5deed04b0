package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"afloat/internal/lab/guestwire"
)

func controlHandler(host string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+guestwire.PathStatus, func(w http.ResponseWriter, r *http.Request) {
		reply(w, status(host))
	})
	mux.HandleFunc("POST "+guestwire.PathExec, func(w http.ResponseWriter, r *http.Request) {
		var req guestwire.ExecRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || len(req.Argv) == 0 {
			http.Error(w, "want argv", http.StatusBadRequest)
			return
		}
		reply(w, execute(r, req))
	})
	mux.HandleFunc("PUT "+guestwire.PathFile, func(w http.ResponseWriter, r *http.Request) {
		if err := putFile(r.FormValue("path"), r.FormValue("mode"), r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	return mux
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the lab has gone; nobody is left to tell
}

func status(host string) guestwire.Status {
	up, _, _ := strings.Cut(line("/proc/uptime"), " ")
	seconds, _ := strconv.ParseFloat(up, 64)
	return guestwire.Status{
		Host:    host,
		Release: line("/proc/sys/kernel/osrelease"),
		BootID:  line("/proc/sys/kernel/random/boot_id"),
		Uptime:  seconds,
	}
}

func execute(r *http.Request, req guestwire.ExecRequest) guestwire.ExecReply {
	cmd := exec.CommandContext(r.Context(), req.Argv[0], req.Argv[1:]...)
	cmd.Stdin = bytes.NewReader(req.Stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := guestwire.ExecReply{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
	case exited && exit.Exited():
		out.Code = exit.ExitCode()
	default:
		out.Code, out.Error = -1, err.Error()
	}
	return out
}

func putFile(path, mode string, content io.Reader) error {
	perm, err := strconv.ParseUint(mode, 8, 12)
	if err != nil || !filepath.IsAbs(path) {
		return fmt.Errorf("want an absolute path and an octal mode, not %q and %q", path, mode)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, os.FileMode(perm))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Sync(), f.Close())
}
