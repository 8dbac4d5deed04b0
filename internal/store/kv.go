package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// get reads one value, or ErrNotFound.
func get[T any](ctx context.Context, kv jetstream.KeyValue, key string) (T, uint64, error) {
	var v T
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return v, 0, ErrNotFound
	}
	if err != nil {
		return v, 0, fmt.Errorf("read %s %s: %w", kv.Bucket(), key, err)
	}
	if err := json.Unmarshal(e.Value(), &v); err != nil {
		return v, 0, fmt.Errorf("read %s %s: %w", kv.Bucket(), key, err)
	}
	return v, e.Revision(), nil
}

// changeTries bounds how often a compare-and-swap is repeated against other writers.
const changeTries = 64

// change replaces the value at key by compare and swap. fn gets the zero value
// and false when there is none; its error ends the call with nothing changed.
// A write whose answer is lost is settled by reading back: the loop sees its
// own value there, or tries again under a condition that the lost write would break.
func change[T any](ctx context.Context, kv jetstream.KeyValue, key string, fn func(old T, found bool) (T, error)) error {
	var failure error
	var written []byte
	for range changeTries {
		old, revision, err := get[T](ctx, kv, key)
		found := err == nil
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		before, err := json.Marshal(old)
		if err != nil {
			return fmt.Errorf("change %s %s: %w", kv.Bucket(), key, err)
		}
		if found && written != nil && bytes.Equal(before, written) {
			return nil
		}
		next, err := fn(old, found)
		if err != nil {
			return err
		}
		after, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("change %s %s: %w", kv.Bucket(), key, err)
		}
		if found && bytes.Equal(before, after) {
			return nil
		}
		failure = put(ctx, kv, key, revision, after)
		if failure == nil {
			return nil
		}
		if !isConflict(failure) {
			if ctx.Err() != nil {
				return fmt.Errorf("change %s %s: %w: %w", kv.Bucket(), key, ErrUnknown, failure)
			}
			written = after
		}
	}
	return fmt.Errorf("change %s %s: %w: %w", kv.Bucket(), key, ErrConflict, failure)
}

func put(ctx context.Context, kv jetstream.KeyValue, key string, revision uint64, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	if revision == 0 {
		_, err := kv.Create(ctx, key, data)
		return err
	}
	_, err := kv.Update(ctx, key, data, revision)
	return err
}

// list reads every value of a bucket. It returns an error rather than a part.
func list[T any](ctx context.Context, kv jetstream.KeyValue) ([]T, error) {
	w, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kv.Bucket(), err)
	}
	out, err := collect[T](ctx, w)
	if err = errors.Join(err, w.Stop()); err != nil {
		return nil, fmt.Errorf("list %s: %w", kv.Bucket(), err)
	}
	return out, nil
}

func collect[T any](ctx context.Context, w jetstream.KeyWatcher) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	out := []T{}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				return nil, errors.New("the watch ended early")
			}
			if e == nil {
				return out, nil // all there was when the watch began
			}
			var v T
			if err := json.Unmarshal(e.Value(), &v); err != nil {
				return nil, fmt.Errorf("key %s: %w", e.Key(), err)
			}
			out = append(out, v)
		}
	}
}
