package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/converge"
	"afloat/internal/wire"

	"github.com/google/go-cmp/cmp"
)

var journalDigest = bundle.DigestOf([]byte("a"))

// records is a short life of a host.
func records() []converge.Record {
	order := converge.Order{Generation: 1}
	return []converge.Record{
		{Kind: converge.RecordBoot, Boot: "b1", Clean: true},
		{Kind: converge.RecordDesired, Boot: "b1", Desired: &wire.Desired{Generation: 1, Epoch: 1, Live: journalDigest}},
		{Kind: converge.RecordIntent, Boot: "b1", Order: order, Digest: journalDigest, Module: "m"},
		{Kind: converge.RecordLoaded, Boot: "b1", Order: order, Digest: journalDigest, Module: "m"},
		{Kind: converge.RecordApplied, Boot: "b1", Order: order, Digest: journalDigest, Module: "m", Uptime: 5, MS: 1},
	}
}

func writeJournal(t *testing.T, dir string, rs []converge.Record) *journal {
	t.Helper()
	j := &journal{dir: dir}
	for _, r := range rs {
		if err := j.do(t.Context(), func(tx *tx) error { return tx.append(r) }); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

func TestJournalIsReadBack(t *testing.T) {
	dir := t.TempDir()
	j := writeJournal(t, dir, records())
	got, err := ReadJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(j.state, got); diff != "" {
		t.Errorf("read back (-written +read):\n%s", diff)
	}
	if len(got.Loads) != 1 || len(got.Own) != 1 || got.Own[0].Applied == 0 {
		t.Errorf("journal is %+v", got)
	}
}

func TestSecondLoadIsNotWritten(t *testing.T) {
	dir := t.TempDir()
	rs := records()
	j := writeJournal(t, dir, rs)
	before, err := os.ReadFile(filepath.Join(dir, journalFile))
	if err != nil {
		t.Fatal(err)
	}
	err = j.do(t.Context(), func(tx *tx) error { return tx.append(rs[2]) })
	if !errors.Is(err, converge.ErrImpossible) || !strings.Contains(err.Error(), "second load for boot b1 and generation 1") {
		t.Errorf("error is %v", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, journalFile))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the journal changed, %v", err)
	}
}

// TestTornAtAnyByte cuts the journal anywhere: what was whole stays, and the
// host can go on writing.
func TestTornAtAnyByte(t *testing.T) {
	dir := t.TempDir()
	writeJournal(t, dir, records())
	whole, err := os.ReadFile(filepath.Join(dir, journalFile))
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		torn := t.TempDir()
		if err := os.WriteFile(filepath.Join(torn, journalFile), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j := &journal{dir: torn}
		lines := bytes.Count(whole[:cut], []byte("\n"))
		err := j.do(t.Context(), func(tx *tx) error {
			if lines == 0 {
				return tx.append(records()[0])
			}
			return tx.append(converge.Record{Kind: converge.RecordShutdown, Boot: "b1"})
		})
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		got, err := ReadJournal(torn)
		if err != nil || got.Boot != "b1" || got.Ended != (lines > 0) {
			t.Fatalf("cut at %d: %+v, %v", cut, got, err)
		}
	}
}

func TestDamageIsNamed(t *testing.T) {
	dir := t.TempDir()
	writeJournal(t, dir, records())
	path := filepath.Join(dir, journalFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for name, tc := range map[string]struct {
		data []byte
		line string
	}{
		"flipped bit":  {flip(whole, len(lines[0])+20), "line 2"},
		"flipped last": {flip(whole, len(whole)-5), "line 5"},
		"lost line":    {bytes.Join([][]byte{lines[0], lines[1], lines[3], lines[4]}, nil), "line 3"},
		"swapped":      {bytes.Join([][]byte{lines[1], lines[0]}, nil), "line 1"},
		"zeroes":       {append(bytes.Repeat([]byte{0}, 30), '\n'), "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, tc.data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := ReadJournal(dir)
			if !errors.Is(err, ErrJournal) || !strings.Contains(err.Error(), tc.line) {
				t.Errorf("error is %v, want damage in %s", err, tc.line)
			}
			err = (&journal{dir: dir}).do(t.Context(), func(*tx) error { t.Error("the journal was handed out"); return nil })
			if !errors.Is(err, ErrJournal) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func flip(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 1
	return out
}

func TestCompactionKeepsTheState(t *testing.T) {
	dir := t.TempDir()
	j := writeJournal(t, dir, records())
	other := &journal{dir: dir}
	text := strings.Repeat("x", 4000)
	for i := range 100 {
		err := j.do(t.Context(), func(tx *tx) error {
			return tx.append(converge.Record{Kind: converge.RecordCrash, Boot: "b1", Crash: &wire.Crash{ID: fmt.Sprint(i), Text: text}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, journalFile))
	if err != nil || info.Size() > compactAt {
		t.Errorf("size is %d, %v", info.Size(), err)
	}
	if err := other.do(t.Context(), func(tx *tx) error { return tx.append(converge.Record{Kind: converge.RecordShutdown, Boot: "b1"}) }); err != nil {
		t.Fatal(err)
	}
	if err := j.do(t.Context(), func(tx *tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	got, err := ReadJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, state := range map[string]converge.Journal{"writer": j.state, "other": other.state} {
		if diff := cmp.Diff(state, got); diff != "" {
			t.Errorf("%s (-state +file):\n%s", name, diff)
		}
	}
	if len(got.Loads) != 1 || !got.Ended || len(got.Crashes) == 0 {
		t.Errorf("journal is %+v", got)
	}
}

func TestLockIsGivenUpWithTheContext(t *testing.T) {
	dir := t.TempDir()
	j := &journal{dir: dir}
	err := j.do(t.Context(), func(*tx) error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := (&journal{dir: dir}).do(ctx, func(*tx) error { t.Error("two hold the lock"); return nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzReadEntries(f *testing.F) {
	var sum uint32
	var file []byte
	for _, r := range records() {
		line, next, err := encodeEntry(sum, entry{Record: &r})
		if err != nil {
			f.Fatal(err)
		}
		file, sum = append(file, line...), next
	}
	f.Add(file)
	f.Add([]byte("00000000 {}\n"))
	line, _, err := encodeEntry(0, entry{Checkpoint: &converge.Journal{Boot: "b"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	ordered := converge.Record{Kind: converge.RecordBegun, Boot: "b1", Nonce: "n1", Action: wire.ActionReboot, Object: "6.1.0-56-amd64"}
	if line, _, err = encodeEntry(sum, entry{Record: &ordered}); err != nil {
		f.Fatal(err)
	}
	f.Add(append(file, line...))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, size, _, err := readEntries(data)
		if err != nil && !errors.Is(err, ErrJournal) {
			t.Errorf("error is %v", err)
		}
		if size > len(data) || err == nil && bytes.Contains(data[size:], []byte("\n")) {
			t.Errorf("good part ends at %d of %d", size, len(data))
		}
	})
}
