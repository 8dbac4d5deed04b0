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
)

// workload answers requests only after a synchronous write to the guest's
// file system, so that a file system that stops working is a failed request.
type workload struct {
	dir  string
	host string
	n    atomic.Uint64
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
		if err := w.record(n); err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{"host": w.host, "n": n})
	})
	return mux
}

// record appends one block to the request's slot and waits for the disk.
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
	return errors.Join(trim, err, f.Sync(), f.Close())
}

// churn makes and removes files of changing size for as long as ticks come:
// the block allocator works even when nobody asks for anything.
func (w *workload) churn(ticks <-chan time.Time) {
	for i := uint64(0); ; i++ {
		<-ticks
		size := 4096 << (i % 6)
		path := filepath.Join(w.dir, fmt.Sprintf("churn-%d", i%churnFiles))
		if err := errors.Join(removeIfThere(path), os.WriteFile(path, fill(size, i), 0o644)); err != nil {
			fmt.Fprintln(os.Stderr, "lab-guest: churn:", err)
		}
	}
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
