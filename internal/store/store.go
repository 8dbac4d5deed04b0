package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"afloat/internal/enrol"
)

// Sentinels that callers branch on.
var (
	// ErrConflict: what was to be changed has moved since it was read, by another writer.
	ErrConflict = errors.New("changed by another writer")
	// ErrNotFound: there is no such thing.
	ErrNotFound = enrol.ErrNotFound
	// ErrUnknown: the store did not answer, and reading back did not settle
	// whether the write happened. Hold, and read again.
	ErrUnknown = errors.New("outcome of the write is not known")
)

// opLimit bounds one store operation.
const opLimit = 10 * time.Second

// Store is afloat's durable state over one NATS connection.
type Store struct {
	js      jetstream.JetStream
	bundles *os.Root

	// Events is the rollout log, Audit the audit chain: both only grow.
	Events *Log
	Audit  *Log

	catalog, hosts, tokens, reports, settings jetstream.KeyValue
	lead                                      jetstream.Stream
	snapshots                                 jetstream.ObjectStore
}

// Options of Open.
type Options struct {
	// Replicas of every stream: 1 embedded, 3 on a cluster.
	Replicas int
	// Bundles is the folder that keeps bundle files by digest.
	Bundles *os.Root
}

// Open creates what is missing and returns the Store. The caller keeps the connection.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Store, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{js: js, bundles: o.Bundles}
	if s.Events, err = openLog(ctx, js, "AFLOAT_EVENTS", "afloat.log.events", o.Replicas); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if s.Audit, err = openLog(ctx, js, "AFLOAT_AUDIT", "afloat.log.audit", o.Replicas); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	for _, b := range []struct {
		name string
		kv   *jetstream.KeyValue
	}{
		{"AFLOAT_CATALOG", &s.catalog}, {"AFLOAT_HOSTS", &s.hosts}, {"AFLOAT_TOKENS", &s.tokens},
		{"AFLOAT_REPORTS", &s.reports}, {"AFLOAT_SETTINGS", &s.settings},
	} {
		*b.kv, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: b.name, History: 1, Storage: jetstream.FileStorage, Replicas: o.Replicas,
		})
		if err != nil {
			return nil, fmt.Errorf("open store: bucket %s: %w", b.name, err)
		}
	}
	if s.lead, err = openLead(ctx, js, o.Replicas); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.snapshots, err = js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: "AFLOAT_SNAPSHOTS", Storage: jetstream.FileStorage, Replicas: o.Replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("open store: snapshots: %w", err)
	}
	return s, nil
}

func isConflict(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		var js jetstream.JetStreamError
		if !errors.As(err, &js) || js.APIError() == nil {
			return errors.Is(err, jetstream.ErrKeyExists)
		}
		api = js.APIError()
	}
	return api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}
