// Package storetest is the one conformance suite of the store: whatever engine
// is behind a Store, these are the promises that the server relies on.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/bundle"
	"afloat/internal/enrol"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/store"
	"afloat/internal/wire"
)

// Run runs the suite. open returns a fresh, empty Store each time.
func Run(t *testing.T, open func(t *testing.T) *store.Store) {
	for _, tc := range []struct {
		name string
		run  func(*testing.T, *store.Store)
	}{
		{"log appends in order", logInOrder},
		{"log refuses a second writer", logConflict},
		{"log has one winner per place", logRace},
		{"log replays from anywhere", logReplay},
		{"log notices a lost tail", logLostTail},
		{"log accepts a cancelled append as unknown", logCancelled},
		{"snapshot replaces the one before", snapshots},
		{"token burns once", tokenRace},
		{"token that is not there", tokenMissing},
		{"host stays as it joined", hostOnce},
		{"host is settled after a crash", settle},
		{"report survives", reports},
		{"bundle by digest", bundles},
		{"lease has one owner", lease},
		{"lease expires", leaseExpires},
		{"lease renewal keeps the TTL", leaseRenewal},
		{"deposed leader is told", leaseDeposed},
		{"epoch only grows", epoch},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, open(t)) })
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func logInOrder(t *testing.T, s *store.Store) {
	for want := uint64(1); want <= 5; want++ {
		if got := must[uint64](t)(s.Events.Append(t.Context(), want-1, fmt.Appendf(nil, "%d", want))); got != want {
			t.Errorf("appended at %d, want %d", got, want)
		}
	}
	if got := must[uint64](t)(s.Events.Last(t.Context())); got != 5 {
		t.Errorf("last is %d, want 5", got)
	}
}

func logConflict(t *testing.T, s *store.Store) {
	must[uint64](t)(s.Events.Append(t.Context(), 0, []byte("a")))
	for _, last := range []uint64{0, 2, 99} {
		if _, err := s.Events.Append(t.Context(), last, []byte("b")); !errors.Is(err, store.ErrConflict) {
			t.Errorf("append after %d: %v, want ErrConflict", last, err)
		}
	}
	if got := must[uint64](t)(s.Audit.Last(t.Context())); got != 0 {
		t.Errorf("the other log moved to %d", got)
	}
}

func logRace(t *testing.T, s *store.Store) {
	const writers, rounds = 8, 20
	for round := range uint64(rounds) {
		var won atomic.Int32
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				_, err := s.Events.Append(t.Context(), round, fmt.Appendf(nil, "%d", w))
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, store.ErrConflict):
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d has %d winners", round, won.Load())
		}
	}
}

func logReplay(t *testing.T, s *store.Store) {
	const n = 600 // more than one batch
	for i := range uint64(n) {
		must[uint64](t)(s.Events.Append(t.Context(), i, fmt.Appendf(nil, "entry %d", i+1)))
	}
	for _, after := range []uint64{0, 1, 255, 256, n - 1, n} {
		next := after + 1
		err := s.Events.Replay(t.Context(), after, func(seq uint64, data []byte) error {
			if seq != next || string(data) != fmt.Sprintf("entry %d", seq) {
				t.Errorf("after %d: got %d %q, want %d", after, seq, data, next)
			}
			next++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if next != n+1 {
			t.Errorf("replay after %d ended before %d", after, next)
		}
	}
	stop := errors.New("stop")
	if err := s.Events.Replay(t.Context(), 0, func(uint64, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error came back as %v", err)
	}
}

func logLostTail(t *testing.T, s *store.Store) {
	err := s.Events.Replay(t.Context(), 7, func(uint64, []byte) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "tail is lost") {
		t.Errorf("replay behind the end: %v", err)
	}
}

func logCancelled(t *testing.T, s *store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Events.Append(ctx, 0, []byte("x")); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("append with a dead context: %v, want ErrUnknown", err)
	}
}

func snapshots(t *testing.T, s *store.Store) {
	if got := must[store.Snapshot](t)(s.LoadSnapshot(t.Context())); got.Seq != 0 || got.Data != nil {
		t.Errorf("empty store has snapshot %d", got.Seq)
	}
	for _, want := range []store.Snapshot{{Seq: 10, Data: []byte("ten")}, {Seq: 20, Data: make([]byte, 600<<10)}} {
		if err := s.SaveSnapshot(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, must[store.Snapshot](t)(s.LoadSnapshot(t.Context()))); diff != "" {
			t.Error(diff)
		}
	}
}

var epochTime = time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)

func token(t *testing.T, s *store.Store) enrol.Token {
	t.Helper()
	k := enrol.Token{ID: "token1", Hash: "h", Created: epochTime, Expires: epochTime.Add(time.Hour), Uses: 1, Mode: fleet.ModeObserve}
	if err := s.AddToken(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	return k
}

func tokenRace(t *testing.T, s *store.Store) {
	token(t, s)
	used := errors.New("used up")
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			err := s.ChangeToken(t.Context(), "token1", func(k enrol.Token) (enrol.Token, error) {
				if len(k.Redeemed) > 0 {
					return k, used
				}
				k.Redeemed = []enrol.Registration{{Host: fleet.HostID(fmt.Sprintf("h%d", i))}}
				return k, nil
			})
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, used):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tokens := must[[]enrol.Token](t)(s.Tokens(t.Context()))
	if won.Load() != 1 || len(tokens) != 1 || len(tokens[0].Redeemed) != 1 {
		t.Errorf("%d winners, tokens %+v", won.Load(), tokens)
	}
}

func tokenMissing(t *testing.T, s *store.Store) {
	err := s.ChangeToken(t.Context(), "nobody", func(k enrol.Token) (enrol.Token, error) { return k, nil })
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("err = %v, want ErrNotFound", err)
	}
	token(t, s)
	if err := s.AddToken(t.Context(), enrol.Token{ID: "token1"}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("second token of the same id: %v, want ErrConflict", err)
	}
}

func hostOnce(t *testing.T, s *store.Store) {
	first := enrol.Registration{Host: "h1", NKey: "k1", Name: "one", Mode: fleet.ModeObserve, Joined: epochTime}
	for _, r := range []enrol.Registration{first, {Host: "h1", NKey: "other"}} {
		if err := s.AddHost(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(first, must[enrol.Registration](t)(s.Host(t.Context(), "h1"))); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Host(t.Context(), "h2"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown host: %v, want ErrNotFound", err)
	}
	err := s.ChangeHost(t.Context(), "h1", func(r enrol.Registration) (enrol.Registration, error) { r.Mode = fleet.ModeAct; return r, nil })
	if err != nil {
		t.Fatal(err)
	}
	if all := must[[]enrol.Registration](t)(s.Hosts(t.Context())); len(all) != 1 || all[0].Mode != fleet.ModeAct {
		t.Errorf("hosts %+v", all)
	}
}

func settle(t *testing.T, s *store.Store) {
	token(t, s)
	want := enrol.Registration{Host: "h1", NKey: "k1", Token: "token1", Joined: epochTime}
	err := s.ChangeToken(t.Context(), "token1", func(k enrol.Token) (enrol.Token, error) {
		k.Redeemed = []enrol.Registration{want}
		return k, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // again changes nothing
		if err := s.SettleTokens(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]enrol.Registration{want}, must[[]enrol.Registration](t)(s.Hosts(t.Context()))); diff != "" {
			t.Error(diff)
		}
	}
}

func reports(t *testing.T, s *store.Store) {
	want := store.LastReport{At: epochTime, Report: wire.Report{Version: wire.Version, Host: "h1", Boot: "b", Seq: 2}}
	for _, seq := range []uint64{1, 2} {
		r := want
		r.Report.Seq = seq
		if err := s.SaveReport(r); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for { // SaveReport does not wait: ask until it is there
		got := must[[]store.LastReport](t)(s.Reports(t.Context()))
		diff := cmp.Diff([]store.LastReport{want}, got)
		if diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(diff)
		}
	}
}

func bundles(t *testing.T, s *store.Store) {
	file := []byte("not a bundle: the store keeps bytes")
	e := store.CatalogEntry{Digest: bundle.DigestOf(file), Size: int64(len(file)), State: store.BundlePresent, Added: epochTime,
		Manifest: bundle.Manifest{Name: "p", Kernel: kernel.ID{Release: "r", Version: "v", BuildID: "b"}}}
	for range 2 {
		if err := s.AddBundle(t.Context(), e, file); err != nil {
			t.Fatal(err)
		}
	}
	f, err := s.OpenBundle(e.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := must[[]byte](t)(os.ReadFile(f.Name())); string(got) != string(file) {
		t.Errorf("read %q", got)
	}
	if err := s.AddBundle(t.Context(), e, []byte("other")); err == nil {
		t.Error("a file was stored under another's digest")
	}
	for _, d := range []bundle.Digest{bundle.DigestOf(nil), "sha256:../../identity.json", ""} {
		if _, err := s.OpenBundle(d); err == nil {
			t.Errorf("opened %q", d)
		}
	}
	err = s.ChangeBundle(t.Context(), e.Digest, func(e store.CatalogEntry) (store.CatalogEntry, error) {
		e.State = store.BundleWithdrawn
		return e, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddBundle(t.Context(), e, file); !errors.Is(err, store.ErrConflict) {
		t.Errorf("withdrawn bundle added again: %v, want ErrConflict", err)
	}
	if all := must[[]store.CatalogEntry](t)(s.Catalog(t.Context())); len(all) != 1 || all[0].State != store.BundleWithdrawn {
		t.Errorf("catalog %+v", all)
	}
}

func lease(t *testing.T, s *store.Store) {
	a := must[*store.Lease](t)(s.Lead(t.Context(), "a", time.Minute))
	_, err := s.Lead(t.Context(), "b", time.Minute)
	if held, ok := errors.AsType[*store.HeldError](err); !ok || held.Owner != "a" {
		t.Errorf("second leader: %v, want HeldError by a", err)
	}
	if err := a.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	again := must[*store.Lease](t)(s.Lead(t.Context(), "a", time.Minute))
	if again.Epoch() <= a.Epoch() {
		t.Errorf("epoch %d after %d", again.Epoch(), a.Epoch())
	}
	if err := a.Renew(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the ghost renewed: %v, want ErrConflict", err)
	}
	if err := a.Recover(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the ghost recovered: %v, want ErrConflict", err)
	}
}

// until asks for the lease until it is free, and returns how long that took.
func until(t *testing.T, s *store.Store, owner string) (*store.Lease, time.Duration) {
	t.Helper()
	began := time.Now()
	for {
		l, err := s.Lead(t.Context(), owner, time.Minute)
		if err == nil {
			return l, time.Since(began)
		}
		if _, held := errors.AsType[*store.HeldError](err); !held {
			t.Fatal(err)
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("the lease never expired")
		}
	}
}

func leaseExpires(t *testing.T, s *store.Store) {
	a := must[*store.Lease](t)(s.Lead(t.Context(), "a", time.Second))
	b, _ := until(t, s, "b")
	if b.Epoch() <= a.Epoch() {
		t.Errorf("epoch %d after %d", b.Epoch(), a.Epoch())
	}
	if err := a.Renew(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the deposed leader renewed: %v, want ErrConflict", err)
	}
}

func leaseRenewal(t *testing.T, s *store.Store) {
	a := must[*store.Lease](t)(s.Lead(t.Context(), "a", 2*time.Second))
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, took := until(t, s, "b"); took < time.Second {
		t.Errorf("the renewed lease held for %s only", took)
	}
}

func leaseDeposed(t *testing.T, s *store.Store) {
	a := must[*store.Lease](t)(s.Lead(t.Context(), "a", time.Second))
	until(t, s, "b")
	err := a.Recover(t.Context())
	if err == nil {
		t.Fatal("the deposed leader recovered its lease")
	}
}

func epoch(t *testing.T, s *store.Store) {
	a := must[*store.Lease](t)(s.Lead(t.Context(), "a", time.Minute))
	if got := must[uint64](t)(a.Raise(t.Context(), 41)); got != 42 || a.Epoch() != 42 {
		t.Errorf("raised to %d, lease says %d, want 42", got, a.Epoch())
	}
	if got := must[uint64](t)(a.Raise(t.Context(), 7)); got != 43 {
		t.Errorf("raised to %d, want 43", got)
	}
	if err := a.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	b := must[*store.Lease](t)(s.Lead(t.Context(), "a", time.Minute))
	if b.Epoch() != 44 {
		t.Errorf("epoch %d, want 44", b.Epoch())
	}
	if _, err := a.Raise(t.Context(), 99); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the ghost raised the epoch: %v, want ErrConflict", err)
	}
}
