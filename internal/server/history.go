package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"afloat/internal/control"
	"afloat/internal/store"
)

// eventLog is what the history needs of the store's rollout log.
type eventLog interface {
	Append(ctx context.Context, last uint64, data []byte) (uint64, error)
	Replay(ctx context.Context, after uint64, each func(seq uint64, data []byte) error) error
}

// event is one entry of the rollout log: what one turn decided, or that a
// leader began. The leader's own entry comes first in its epoch, so that the
// append of a deposed one always meets a log that has moved on.
type event struct {
	Epoch uint64    `json:"epoch"`
	At    time.Time `json:"at"`
	// Record is the decision, nil in an entry that begins an epoch.
	Record *control.Record `json:"record,omitempty"`
}

// maxEvent bounds one entry, in bytes: half of what NATS carries.
const maxEvent = 512 << 10

// errDeposed ends a server that is no longer the leader.
var errDeposed = errors.New("another server leads")

// history is the rollout log as this leader has seen and written it.
//
// Invariant: every entry up to last has been applied, in order, and nothing else.
type history struct {
	log   eventLog
	epoch uint64 // of this leader, 0 while reading before the lead begins
	last  uint64
	seen  uint64 // highest epoch in the log
	apply func(event) error
	// unsettled is the error of an append whose outcome is not known, nil otherwise.
	unsettled error
}

// appendLimit bounds how long one append may keep the owner from answering.
const appendLimit = 5 * time.Second

// append stores e and applies it, in this order. After an error nothing was
// applied, and nothing may be appended before settle has succeeded.
func (h *history) append(ctx context.Context, e event) error {
	e.Epoch = h.epoch
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("append event: %w", err)
	}
	if len(data) > maxEvent {
		return fmt.Errorf("append event: %d bytes, at most %d allowed", len(data), maxEvent)
	}
	ctx, cancel := context.WithTimeout(ctx, appendLimit)
	defer cancel()
	seq, err := h.log.Append(ctx, h.last, data)
	if err != nil {
		h.unsettled = err
		return fmt.Errorf("append event: %w", err)
	}
	return h.take(seq, data)
}

// settle reads what the log holds beyond last and applies it: entries whose
// acknowledgement was lost are found there. It returns errDeposed when another
// leader has begun.
func (h *history) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, appendLimit)
	defer cancel()
	if err := h.log.Replay(ctx, h.last, h.take); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	h.unsettled = nil
	return nil
}

func (h *history) take(seq uint64, data []byte) error {
	var e event
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return fmt.Errorf("event %d: %w", seq, err)
	}
	switch {
	case seq != h.last+1:
		return fmt.Errorf("event %d follows event %d", seq, h.last)
	case e.Epoch < h.seen:
		return fmt.Errorf("event %d is of epoch %d, after one of epoch %d", seq, e.Epoch, h.seen)
	case h.epoch != 0 && e.Epoch > h.epoch:
		return fmt.Errorf("event %d is of epoch %d, this leader's is %d: %w", seq, e.Epoch, h.epoch, errDeposed)
	}
	if err := h.apply(e); err != nil {
		return fmt.Errorf("apply event %d: %w", seq, err)
	}
	h.last, h.seen = seq, e.Epoch
	return nil
}

// lead begins this leader's epoch in the log.
func (h *history) lead(ctx context.Context, epoch uint64, now time.Time) error {
	h.epoch = epoch
	if h.seen >= epoch {
		return fmt.Errorf("begin epoch %d: the log is at epoch %d: %w", epoch, h.seen, errDeposed)
	}
	for {
		err := h.append(ctx, event{At: now})
		if err == nil || !errors.Is(err, store.ErrConflict) {
			return err
		}
		if err := h.settle(ctx); err != nil {
			return err
		}
	}
}
