package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/lab/guestwire"
)

func ask(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

func TestExec(t *testing.T) {
	h := controlHandler("h1")
	for name, test := range map[string]struct {
		body string
		want guestwire.ExecReply
	}{
		"streams":     {`{"argv": ["sh", "-c", "cat; echo e >&2; exit 4"], "stdin": "aW4="}`, guestwire.ExecReply{Stdout: []byte("in"), Stderr: []byte("e\n"), Code: 4}},
		"not there":   {`{"argv": ["/no/such"]}`, guestwire.ExecReply{Code: -1, Error: "fork/exec /no/such: no such file or directory"}},
		"by a signal": {`{"argv": ["sh", "-c", "kill -9 $$"]}`, guestwire.ExecReply{Code: -1, Error: "signal: killed"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got guestwire.ExecReply
			if err := json.NewDecoder(ask(h, "POST", guestwire.PathExec, test.body).Body).Decode(&got); err != nil {
				t.Fatal(err)
			}
			got.Stdout, got.Stderr = bytes.Clone(got.Stdout), bytes.Clone(got.Stderr)
			if diff := cmp.Diff(test.want, got, cmp.Transformer("text", func(b []byte) string { return string(b) })); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, bad := range []string{"", "{}", `{"argv": []}`, `{"argv": "ls"}`} {
		if w := ask(h, "POST", guestwire.PathExec, bad); w.Code != http.StatusBadRequest {
			t.Errorf("exec of %q: status %d, want 400", bad, w.Code)
		}
	}
}

func TestPutFile(t *testing.T) {
	h := controlHandler("h1")
	path := filepath.Join(t.TempDir(), "new", "file")
	put := func(path, mode string) int {
		query := url.Values{"path": {path}, "mode": {mode}}
		return ask(h, "PUT", guestwire.PathFile+"?"+query.Encode(), "content").Code
	}
	if code := put(path, "750"); code != http.StatusOK {
		t.Fatalf("put: status %d", code)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "content" {
		t.Errorf("file = %q, %v", got, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("mode of the file: %v, %v", st, err)
	}
	for _, bad := range [][2]string{{"relative", "644"}, {path, "rw"}, {path, "77777"}, {t.TempDir(), "644"}} {
		if code := put(bad[0], bad[1]); code != http.StatusBadRequest {
			t.Errorf("put %v: status %d, want 400", bad, code)
		}
	}
}

func TestStatusNamesThisBoot(t *testing.T) {
	var got guestwire.Status
	if err := json.NewDecoder(ask(controlHandler("h1"), "GET", guestwire.PathStatus, "").Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Host != "h1" || len(got.BootID) != 36 || got.Release == "" || got.Uptime <= 0 {
		t.Errorf("status = %+v", got)
	}
}

func TestWorkloadWritesForEachRequest(t *testing.T) {
	w, err := newWorkload(filepath.Join(t.TempDir(), "work"), "h1")
	if err != nil {
		t.Fatal(err)
	}
	h := w.handler()
	for range 2 * slots {
		if r := ask(h, "GET", "/", ""); r.Code != http.StatusOK {
			t.Fatalf("status %d: %s", r.Code, r.Body)
		}
	}
	files, err := filepath.Glob(filepath.Join(w.dir, "slot-*"))
	if err != nil || len(files) != slots {
		t.Fatalf("slots: %v, %v", files, err)
	}
	for _, f := range files {
		if st, err := os.Stat(f); err != nil || st.Size() != 2*recordSize {
			t.Errorf("%s: %v, %v; want two records", f, st, err)
		}
	}
	if r := ask(h, "GET", "/healthz", ""); r.Code != http.StatusOK {
		t.Errorf("healthz: status %d", r.Code)
	}
}

func TestWorkloadFailsWithoutItsDisk(t *testing.T) {
	w, err := newWorkload(filepath.Join(t.TempDir(), "work"), "h1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	if r := ask(w.handler(), "GET", "/", ""); r.Code != http.StatusInternalServerError {
		t.Errorf("request without a disk: status %d, want 500", r.Code)
	}
}

func TestSlotStartsAgainAtItsLimit(t *testing.T) {
	w, err := newWorkload(t.TempDir(), "h1")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.dir, "slot-3")
	if err := os.WriteFile(path, make([]byte, slotLimit+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.record(3); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != recordSize {
		t.Errorf("slot after its limit: %v, %v; want one record", st, err)
	}
}

// TestSickDisk: a sync that fails makes requests fail, one that works mends it.
func TestSickDisk(t *testing.T) {
	w, err := newWorkload(filepath.Join(t.TempDir(), "work"), "h1")
	if err != nil {
		t.Fatal(err)
	}
	ticks := make(chan time.Time)
	var wg sync.WaitGroup
	wg.Go(func() { w.churn(ticks) })
	t.Cleanup(func() { close(ticks); wg.Wait() })
	parent := filepath.Dir(w.dir)
	if err := os.Rename(w.dir, filepath.Join(parent, "away")); err != nil {
		t.Fatal(err)
	}
	ticks <- time.Now()
	ticks <- time.Now() // taken only after the round before is over
	if w.sick.Load() == nil {
		t.Error("churn without a disk worked")
	}
	if err := os.Rename(filepath.Join(parent, "away"), w.dir); err != nil {
		t.Fatal(err)
	}
	ticks <- time.Now()
	ticks <- time.Now()
	if sick := w.sick.Load(); sick != nil {
		t.Errorf("still sick with a disk: %v", *sick)
	}
}

func TestUnknownService(t *testing.T) {
	for _, args := range [][]string{nil, {"a", "b"}, {"other"}} {
		if err := run(args); err == nil {
			t.Errorf("run(%q) worked", args)
		}
	}
}

func TestProbe(t *testing.T) {
	w, err := newWorkload(t.TempDir(), "h1")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(w.handler())
	defer s.Close()
	if err := probe(s.URL + "/"); err != nil {
		t.Error(err)
	}
	sick := errors.New("read-only file system")
	w.sick.Store(&sick)
	if err := probe(s.URL + "/"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a sick disk: %v", err)
	}
}
