package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	leadStream   = "AFLOAT_LEAD"
	leaseSubject = "afloat.lead.lease"
	epochSubject = "afloat.lead.epoch"
)

// Lease says that one server leads. It is for liveness only: what keeps a
// deposed leader from doing harm is the epoch in every append and every order.
type Lease struct {
	store *Store
	owner string
	ttl   time.Duration

	mu    sync.Mutex // guards seq and epoch
	seq   uint64
	epoch uint64
}

// Epoch grows with each leadership and never repeats.
func (l *Lease) Epoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

type leaseJSON struct {
	Owner string `json:"owner"`
}

// HeldError says who leads now.
type HeldError struct{ Owner string }

func (e *HeldError) Error() string { return fmt.Sprintf("the lease is held by server %s", e.Owner) }

func openLead(ctx context.Context, js jetstream.JetStream, replicas int) (jetstream.Stream, error) {
	stream, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: leadStream, Subjects: []string{leaseSubject, epochSubject}, Storage: jetstream.FileStorage,
		Replicas: replicas, MaxMsgsPerSubject: 1, AllowMsgTTL: true,
		SubjectDeleteMarkerTTL: time.Hour,
	})
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", leadStream, err)
	}
	return stream, nil
}

// Lead takes the lease for owner and begins a new epoch. While another owner
// holds it the error is a *HeldError. The same owner takes it over at once: a
// server that was killed must not wait for its own ghost. ttl is at least one second.
func (s *Store) Lead(ctx context.Context, owner string, ttl time.Duration) (*Lease, error) {
	seq, data, err := s.leadState(ctx, leaseSubject)
	if err != nil {
		return nil, fmt.Errorf("take lease: %w", err)
	}
	if len(data) > 0 {
		var held leaseJSON
		if err := json.Unmarshal(data, &held); err != nil {
			return nil, fmt.Errorf("take lease: %w", err)
		}
		if held.Owner != owner {
			return nil, &HeldError{Owner: held.Owner}
		}
	}
	l := &Lease{store: s, owner: owner, ttl: ttl, seq: seq}
	if err := l.Renew(ctx); err != nil {
		return nil, fmt.Errorf("take lease: %w", err)
	}
	if l.epoch, err = s.nextEpoch(ctx, 0); err != nil {
		return nil, fmt.Errorf("take lease: %w", err)
	}
	return l, nil
}

// Renew keeps the lease for another ttl, or returns ErrConflict: somebody else leads.
// It publishes with both the TTL and the expected sequence: a plain KV update
// would drop the TTL, and the lease would never expire.
func (l *Lease) Renew(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.renew(ctx)
}

func (l *Lease) renew(ctx context.Context) error {
	data, err := json.Marshal(leaseJSON{Owner: l.owner})
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	seq, err := l.store.leadPublish(ctx, leaseSubject, l.seq, data, jetstream.WithMsgTTL(l.ttl))
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	l.seq = seq
	return nil
}

// nextEpoch begins the epoch after the stored one and after floor.
func (s *Store) nextEpoch(ctx context.Context, floor uint64) (uint64, error) {
	seq, data, err := s.leadState(ctx, epochSubject)
	if err != nil {
		return 0, err
	}
	var epoch uint64
	if len(data) > 0 {
		if epoch, err = strconv.ParseUint(string(data), 10, 64); err != nil {
			return 0, fmt.Errorf("read epoch: %w", err)
		}
	}
	epoch = max(epoch, floor) + 1
	if _, err := s.leadPublish(ctx, epochSubject, seq, strconv.AppendUint(nil, epoch, 10)); err != nil {
		return 0, fmt.Errorf("begin epoch %d: %w", epoch, err)
	}
	return epoch, nil
}

// Raise begins a new epoch above floor under the same lease: a host has seen
// a higher one than the store, which then lost its tail or was restored.
func (l *Lease) Raise(ctx context.Context, floor uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.check(ctx); err != nil {
		return 0, fmt.Errorf("raise epoch: %w", err)
	}
	epoch, err := l.store.nextEpoch(ctx, floor)
	if err != nil {
		return 0, fmt.Errorf("raise epoch: %w", err)
	}
	l.epoch = epoch
	return epoch, nil
}

// check returns ErrConflict when another epoch than this lease's has begun.
func (l *Lease) check(ctx context.Context) error {
	_, epoch, err := l.store.leadState(ctx, epochSubject)
	if err != nil {
		return err
	}
	if string(epoch) != strconv.FormatUint(l.epoch, 10) {
		return fmt.Errorf("epoch %s has begun: %w", epoch, ErrConflict)
	}
	return nil
}

// leadState returns the last sequence on subject and its data; an expired
// lease leaves a marker, which has a sequence and no data.
func (s *Store) leadState(ctx context.Context, subject string) (uint64, []byte, error) {
	msg, err := s.lead.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("read %s: %w", subject, err)
	}
	if msg.Header.Get(jetstream.MarkerReasonHeader) != "" {
		return msg.Sequence, nil, nil
	}
	return msg.Sequence, msg.Data, nil
}

func (s *Store) leadPublish(ctx context.Context, subject string, last uint64, data []byte, opts ...jetstream.PublishOpt) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	opts = append(opts, jetstream.WithExpectLastSequencePerSubject(last), jetstream.WithRetryAttempts(0))
	ack, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}, opts...)
	if isConflict(err) {
		return 0, ErrConflict
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return ack.Sequence, nil
}

// Recover settles a renewal whose outcome was lost: it renews again if the
// lease is still this owner's, or free, and no other epoch has begun.
func (l *Lease) Recover(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.check(ctx); err != nil {
		return fmt.Errorf("recover lease: %w", err)
	}
	seq, data, err := l.store.leadState(ctx, leaseSubject)
	if err != nil {
		return fmt.Errorf("recover lease: %w", err)
	}
	var held leaseJSON
	if len(data) > 0 {
		if err := json.Unmarshal(data, &held); err != nil {
			return fmt.Errorf("recover lease: %w", err)
		}
		if held.Owner != l.owner {
			return &HeldError{Owner: held.Owner}
		}
	}
	l.seq = seq
	return l.renew(ctx)
}
