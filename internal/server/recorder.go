package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"afloat/internal/audit"
	"afloat/internal/store"
)

// recorder appends to the audit chain. Many goroutines may use it.
type recorder struct {
	trail *store.Log
	log   *slog.Logger

	mu     sync.Mutex // guards all below, and keeps the chain in order
	head   audit.Head
	seen   map[string]bool      // Keys in the chain: what may be told twice
	recent map[string]time.Time // refusals of strangers, to bound a flood
}

func newRecorder(ctx context.Context, trail *store.Log, log *slog.Logger) (*recorder, error) {
	r := &recorder{trail: trail, log: log, seen: map[string]bool{}, recent: map[string]time.Time{}}
	if err := r.catchUp(ctx); err != nil {
		return nil, fmt.Errorf("open audit: %w", err)
	}
	return r, nil
}

// catchUp reads what is behind head. A broken chain does not stop the server:
// it is recorded as such by `afloat audit --verify`, and goes on from its end.
func (r *recorder) catchUp(ctx context.Context) error {
	return r.trail.Replay(ctx, r.head.Seq, func(seq uint64, data []byte) error {
		var rec audit.Record
		if err := json.Unmarshal(data, &rec); err != nil {
			return fmt.Errorf("audit record %d: %w", seq, err)
		}
		if _, err := audit.Follow(r.head, rec); err != nil {
			r.log.Error("audit chain is broken", "err", err)
		}
		r.head = audit.Head{Seq: seq, Hash: rec.Hash}
		if rec.Key != "" {
			r.seen[rec.Key] = true
		}
		return nil
	})
}

// record appends one entry. An entry whose Key is in the chain already is
// dropped. The error says that it is not in the audit trail: whoever asked for
// a change must then be refused it.
func (r *recorder) record(ctx context.Context, e audit.Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Key != "" && r.seen[e.Key] {
		return nil
	}
	e.When = time.Now()
	for {
		rec, err := audit.Chain(r.head, e)
		if err != nil {
			return err
		}
		data, err := json.Marshal(rec)
		if err != nil {
			return fmt.Errorf("record audit: %w", err)
		}
		_, err = r.trail.Append(ctx, r.head.Seq, data)
		if errors.Is(err, store.ErrConflict) {
			if err := r.catchUp(ctx); err != nil {
				return fmt.Errorf("record audit: %w", err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("record audit: %w", err)
		}
		r.head = rec.Head()
		if e.Key != "" {
			r.seen[e.Key] = true
		}
		return nil
	}
}

const (
	floodWindow = time.Minute
	floodSize   = 1000
)

// refused records something that a host or a stranger was not allowed to do.
// The same again within a minute is left out, and so is everything beyond a
// thousand different ones: nobody outside may fill the disk through the audit.
func (r *recorder) refused(ctx context.Context, e audit.Entry) {
	e.Outcome = audit.Refused
	if !r.fresh(e.Who.String()+"\n"+e.What+"\n"+e.Target+"\n"+e.Reason, time.Now()) {
		return
	}
	if err := r.record(ctx, e); err != nil {
		r.log.Error("refusal not audited", "what", e.What, "who", e.Who.String(), "err", err)
		return
	}
	r.log.Info("refused", "what", e.What, "who", e.Who.String(), "target", e.Target, "reason", e.Reason)
}

func (r *recorder) fresh(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.recent[key]; ok && now.Sub(at) < floodWindow {
		return false
	}
	if len(r.recent) >= floodSize {
		for k, at := range r.recent {
			if now.Sub(at) >= floodWindow {
				delete(r.recent, k)
			}
		}
	}
	if len(r.recent) >= floodSize {
		return false
	}
	r.recent[key] = now
	return true
}

// hostActor and serverActor name who acted.
func hostActor(id string) audit.Actor { return audit.Actor{Kind: audit.ActorHost, Name: id} }

func serverActor() audit.Actor { return audit.Actor{Kind: audit.ActorServer} }

func strangerActor(remote string) audit.Actor {
	return audit.Actor{Kind: audit.ActorStranger, Name: remote}
}

// auditViolation records what NATS refused a client.
func (s *Server) auditViolation(ctx context.Context, v store.Violation) {
	who := strangerActor(hostOf(v.Remote))
	if v.Host != "" {
		who = hostActor(string(v.Host))
	}
	s.recorder.refused(ctx, audit.Entry{Who: who, What: "nats." + v.What, Target: v.Detail,
		Reason: "not allowed by the host's credentials"})
}

// Audit returns the chain's records after seq, at most limit of them.
func (s *Server) Audit(ctx context.Context, after uint64, limit int) ([]audit.Record, error) {
	errEnough := errors.New("enough")
	out := []audit.Record{}
	err := s.store.Audit.Replay(ctx, after, func(seq uint64, data []byte) error {
		var rec audit.Record
		if err := json.Unmarshal(data, &rec); err != nil {
			return fmt.Errorf("audit record %d: %w", seq, err)
		}
		out = append(out, rec)
		if len(out) >= limit {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("read audit: %w", err)
	}
	return out, nil
}
