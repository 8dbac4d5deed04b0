package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// Log is an append-only stream. Sequences run from 1 without gaps.
type Log struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	subject string
}

// dedupWindow is how long the stream remembers message ids.
const dedupWindow = 2 * time.Minute

func openLog(ctx context.Context, js jetstream.JetStream, name, subject string, replicas int) (*Log, error) {
	stream, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: name, Subjects: []string{subject}, Storage: jetstream.FileStorage, Replicas: replicas,
		Retention: jetstream.LimitsPolicy, Duplicates: dedupWindow, AllowDirect: true,
		DenyDelete: true, DenyPurge: true,
	})
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	return &Log{js: js, stream: stream, subject: subject}, nil
}

// Last is the sequence of the newest entry, 0 for an empty log.
func (l *Log) Last(ctx context.Context) (uint64, error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("read log state: %w", err)
	}
	return info.State.LastSeq, nil
}

// publishTries bounds how often an append whose answer is missing is repeated.
const publishTries = 3

// Append writes data right behind entry last and returns its sequence. It
// returns ErrConflict when somebody else wrote there. A missing answer is not
// a failure: it reads back what stands at last+1, and repeats the write under
// the same message id and condition, which cannot store it twice. ErrUnknown
// remains when the store stays silent.
func (l *Log) Append(ctx context.Context, last uint64, data []byte) (uint64, error) {
	id := nuid.Next()
	var failure error
	for range publishTries {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("append to log: %w: %w", ErrUnknown, err)
		}
		ack, err := l.publish(ctx, last, id, data)
		if err == nil {
			return ack, nil
		}
		failure = err
		// Both a conflict and silence may hide one's own earlier write.
		switch mine, readErr := l.holds(ctx, last+1, id); {
		case readErr == nil && mine:
			return last + 1, nil
		case readErr == nil:
			return 0, fmt.Errorf("append to log after %d: %w", last, ErrConflict)
		case errors.Is(readErr, ErrNotFound) && isConflict(err):
			return 0, fmt.Errorf("append to log after %d: %w", last, ErrConflict)
		}
	}
	return 0, fmt.Errorf("append to log after %d: %w: %w", last, ErrUnknown, failure)
}

func (l *Log) publish(ctx context.Context, last uint64, id string, data []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	ack, err := l.js.PublishMsg(ctx, &nats.Msg{Subject: l.subject, Data: data, Header: nats.Header{}},
		jetstream.WithMsgID(id), jetstream.WithExpectLastSequence(last), jetstream.WithRetryAttempts(0))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// holds reports whether entry seq was written under the message id.
func (l *Log) holds(ctx context.Context, seq uint64, id string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	msg, err := l.stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, ErrNotFound
	}
	if err != nil {
		return false, fmt.Errorf("read back entry %d: %w", seq, err)
	}
	return msg.Header.Get(nats.MsgIdHdr) == id, nil
}

// replayBatch is how many entries are asked for at a time.
const replayBatch = 256

// Replay calls each for every entry after sequence `after`, in order, up to
// the entry that is the newest when it begins. A gap is an error: an
// incomplete history must not be acted on.
func (l *Log) Replay(ctx context.Context, after uint64, each func(seq uint64, data []byte) error) error {
	last, err := l.Last(ctx)
	if err != nil {
		return err
	}
	if after > last {
		return fmt.Errorf("replay log after %d: it ends at %d: its tail is lost", after, last)
	}
	if after == last {
		return nil
	}
	consumer, err := l.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1,
		InactiveThreshold: opLimit,
	})
	if err != nil {
		return fmt.Errorf("replay log: %w", err)
	}
	for next := after + 1; next <= last; {
		n, err := replayPart(consumer, next, min(replayBatch, int(last-next+1)), each)
		if err != nil {
			return fmt.Errorf("replay log: %w", err)
		}
		if n == 0 {
			return fmt.Errorf("replay log: entry %d of %d did not arrive", next, last)
		}
		next += uint64(n)
	}
	return nil
}

func replayPart(c jetstream.Consumer, next uint64, limit int, each func(uint64, []byte) error) (int, error) {
	batch, err := c.Fetch(limit, jetstream.FetchMaxWait(opLimit))
	if err != nil {
		return 0, err
	}
	n := 0
	var failure error
	for msg := range batch.Messages() {
		if failure != nil {
			continue // drain, so that the fetch ends
		}
		failure = replayOne(msg, next+uint64(n), each)
		n++
	}
	return n, errors.Join(failure, batch.Error())
}

func replayOne(msg jetstream.Msg, want uint64, each func(uint64, []byte) error) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	if meta.Sequence.Stream != want {
		return fmt.Errorf("entry %d is missing: the next one is %d", want, meta.Sequence.Stream)
	}
	return each(want, msg.Data())
}

// Snapshot is a state that replaces the replay of every entry up to Seq.
type Snapshot struct {
	Seq  uint64
	Data []byte
}

const (
	snapshotName = "events"
	snapshotSeq  = "Afloat-Seq"
)

// SaveSnapshot stores a state of the rollout log.
func (s *Store) SaveSnapshot(ctx context.Context, snap Snapshot) error {
	_, err := s.snapshots.Put(ctx, jetstream.ObjectMeta{
		Name: snapshotName, Headers: nats.Header{snapshotSeq: {fmt.Sprint(snap.Seq)}},
	}, bytes.NewReader(snap.Data))
	if err != nil {
		return fmt.Errorf("save snapshot at %d: %w", snap.Seq, err)
	}
	return nil
}

// LoadSnapshot returns the newest snapshot, or the zero Snapshot when there is none.
func (s *Store) LoadSnapshot(ctx context.Context) (Snapshot, error) {
	object, err := s.snapshots.Get(ctx, snapshotName)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return Snapshot{}, nil
	}
	if err != nil {
		return Snapshot{}, fmt.Errorf("load snapshot: %w", err)
	}
	info, err := object.Info()
	if err != nil {
		return Snapshot{}, fmt.Errorf("load snapshot: %w", err)
	}
	var snap Snapshot
	if _, err := fmt.Sscan(info.Headers.Get(snapshotSeq), &snap.Seq); err != nil {
		return Snapshot{}, fmt.Errorf("load snapshot: sequence %q: %w", info.Headers.Get(snapshotSeq), err)
	}
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(object); err != nil {
		return Snapshot{}, errors.Join(fmt.Errorf("load snapshot: %w", err), object.Close())
	}
	snap.Data = buf.Bytes()
	return snap, object.Close()
}
