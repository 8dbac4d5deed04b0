package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// workload answers each request after a write to the guest's file system, and
// makes the disk keep them all a few times a second. A file system that stops
// working is a failed request, at the latest after the next of those.
type workload struct {
	dir  string
	host string
	n    atomic.Uint64
	sick atomic.Pointer[error] // of the last sync, nil when it worked
}

const (
	slots      = 16      // files the requests write to in turn
	slotLimit  = 1 << 20 // bytes at which such a file starts again from nothing
	recordSize = 2048
	churnFiles = 12
)

func newWorkload(dir, host string) (*workload, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make workload folder: %w", err)
	}
	return &workload{dir: dir, host: host}, nil
}

func (w *workload) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(rw, "ok")
	})
	mux.HandleFunc("GET /", func(rw http.ResponseWriter, r *http.Request) {
		n := w.n.Add(1)
		err := w.record(n)
		if sick := w.sick.Load(); err == nil && sick != nil {
			err = *sick
		}
		if err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{"host": w.host, "n": n})
	})
	return mux
}

// record appends one block to the request's slot.
func (w *workload) record(n uint64) error {
	path := filepath.Join(w.dir, fmt.Sprintf("slot-%d", n%slots))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	var trim error
	if st, err := f.Stat(); err == nil && st.Size() > slotLimit {
		trim = f.Truncate(0)
	}
	_, err = f.Write(fill(recordSize, n))
	return errors.Join(trim, err, f.Close())
}

// churn makes and removes files of changing size and syncs the whole file
// system for as long as ticks come: the block allocator and the journal work
// even when nobody asks for anything.
func (w *workload) churn(ticks <-chan time.Time) {
	i := uint64(0)
	for range ticks {
		i++
		size := 4096 << (i % 6)
		path := filepath.Join(w.dir, fmt.Sprintf("churn-%d", i%churnFiles))
		err := errors.Join(removeIfThere(path), os.WriteFile(path, fill(size, i), 0o644), w.sync())
		if err == nil {
			w.sick.Store(nil)
			continue
		}
		w.sick.Store(&err)
		fmt.Fprintln(os.Stderr, "lab-guest: churn:", err)
	}
}

// sync makes the disk keep all that was written.
func (w *workload) sync() error {
	d, err := os.Open(w.dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func fill(size int, n uint64) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte('a' + (n+uint64(i))%26)
	}
	return b
}
