package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"afloat/internal/control"
	"afloat/internal/store"
)

// flakyLog is an event log in memory whose answers can be lost: the store's
// real one answers always in a test.
type flakyLog struct {
	entries [][]byte
	lose    bool // the next append is stored, its answer is lost
	drop    bool // the next append is not stored, its answer is lost
	silent  bool // replay fails
}

func (l *flakyLog) Append(_ context.Context, last uint64, data []byte) (uint64, error) {
	if last != uint64(len(l.entries)) {
		return 0, store.ErrConflict
	}
	if l.drop {
		l.drop = false
		return 0, store.ErrUnknown
	}
	l.entries = append(l.entries, data)
	if l.lose {
		l.lose = false
		return 0, store.ErrUnknown
	}
	return uint64(len(l.entries)), nil
}

func (l *flakyLog) Replay(_ context.Context, after uint64, each func(uint64, []byte) error) error {
	if l.silent {
		return errors.New("no answer")
	}
	for i := after; i < uint64(len(l.entries)); i++ {
		if err := each(i+1, l.entries[i]); err != nil {
			return err
		}
	}
	return nil
}

type told struct {
	history
	applied []uint64
}

func newTold(t *testing.T, log eventLog, epoch uint64) *told {
	t.Helper()
	h := &told{}
	h.history = history{log: log, apply: func(e event) error {
		if e.Record != nil {
			h.applied = append(h.applied, e.Record.Seq)
		}
		return nil
	}}
	if err := log.Replay(t.Context(), 0, h.take); err != nil {
		t.Fatal(err)
	}
	if err := h.lead(t.Context(), epoch, time.Time{}); err != nil {
		t.Fatal(err)
	}
	return h
}

func record(seq uint64) event { return event{Record: &control.Record{Seq: seq}} }

func (h *told) is(t *testing.T, want ...uint64) {
	t.Helper()
	if fmt.Sprint(h.applied) != fmt.Sprint(want) {
		t.Errorf("applied %v, want %v", h.applied, want)
	}
}

func TestNothingIsAppliedBeforeItIsAcknowledged(t *testing.T) {
	log := &flakyLog{}
	h := newTold(t, log, 1)
	if err := h.append(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	h.is(t, 1)

	log.lose = true
	if err := h.append(t.Context(), record(2)); !errors.Is(err, store.ErrUnknown) || h.unsettled == nil {
		t.Errorf("lost answer: %v, unsettled %v", err, h.unsettled)
	}
	h.is(t, 1)
	log.silent = true
	if err := h.settle(t.Context()); err == nil || h.unsettled == nil {
		t.Errorf("settled although the store is silent: %v", err)
	}
	log.silent = false
	if err := h.settle(t.Context()); err != nil || h.unsettled != nil {
		t.Fatalf("settle: %v, unsettled %v", err, h.unsettled)
	}
	h.is(t, 1, 2)

	log.drop = true
	if err := h.append(t.Context(), record(3)); err == nil {
		t.Error("a dropped append succeeded")
	}
	if err := h.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.is(t, 1, 2)
	if err := h.append(t.Context(), record(3)); err != nil {
		t.Fatal(err)
	}
	h.is(t, 1, 2, 3)
}

func TestDeposedLeaderIsStopped(t *testing.T) {
	log := &flakyLog{}
	old := newTold(t, log, 1)
	next := newTold(t, log, 2)
	if err := next.append(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	if err := old.append(t.Context(), record(1)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("deposed leader appended: %v", err)
	}
	if err := old.settle(t.Context()); !errors.Is(err, errDeposed) {
		t.Errorf("deposed leader settled: %v, want errDeposed", err)
	}
	old.is(t)
	late := &history{log: log, apply: func(event) error { return nil }}
	if err := log.Replay(t.Context(), 0, late.take); err != nil {
		t.Fatal(err)
	}
	if err := late.lead(t.Context(), 2, time.Time{}); !errors.Is(err, errDeposed) {
		t.Errorf("an epoch began twice: %v", err)
	}
}

func TestDamagedLogIsNotActedOn(t *testing.T) {
	line := func(e event) []byte {
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, entries := range map[string][][]byte{
		"not JSON":      {[]byte("{")},
		"unknown field": {[]byte(`{"epoch":1,"at":"2026-11-01T00:00:00Z","more":1}`)},
		"epoch back":    {line(event{Epoch: 2}), line(event{Epoch: 1})},
	} {
		t.Run(name, func(t *testing.T) {
			h := &history{log: &flakyLog{entries: entries}, apply: func(event) error { return nil }}
			if err := h.log.Replay(t.Context(), 0, h.take); err == nil {
				t.Error("it was replayed")
			}
		})
	}
	h := &history{apply: func(event) error { return nil }}
	if err := h.take(2, line(event{Epoch: 1})); err == nil {
		t.Error("a gap was replayed")
	}
}

func TestEventsAreBounded(t *testing.T) {
	h := newTold(t, &flakyLog{}, 1)
	e := event{Record: &control.Record{Seq: 1, Command: &control.Command{Policy: strings.Repeat("x", maxEvent)}}}
	if err := h.append(t.Context(), e); err == nil || h.unsettled != nil {
		t.Errorf("an event over the bound: %v, unsettled %v", err, h.unsettled)
	}
	h.is(t)
}

func TestHeldServerGivesOrdersButNoPermits(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	g, log := s.readyForRollout(t)
	log.silent = true
	log.lose = true
	_, err := s.Command(t.Context(), operator, control.Command{Verb: control.Start, Policy: "name: p\ntarget: {live: p}\nwaves:\n  - {name: all, size: 100%}\n"})
	if err == nil {
		t.Fatal("a command succeeded without the store")
	}
	status, err := s.Status(t.Context())
	if err != nil || !strings.Contains(status.Held, "does not take decisions") {
		t.Errorf("status %+v, %v", status, err)
	}
	if d, permit := g.orders(t); d.Live != "" || permit != nil {
		t.Errorf("held server gave %+v with permit %v", d, permit)
	}
	if err := tell(t.Context(), s.Server, func(*owner) { log.silent = false }); err != nil {
		t.Fatal(err)
	}
	g.until(t, func() bool {
		d, permit := g.orders(t)
		return d.Live != "" && permit != nil && permit.Rollout == d.Rollout
	})
}
