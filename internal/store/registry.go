package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"afloat/internal/enrol"
	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// AddToken records a new join token.
func (s *Store) AddToken(ctx context.Context, t enrol.Token) error {
	return change(ctx, s.tokens, t.ID, func(_ enrol.Token, found bool) (enrol.Token, error) {
		if found {
			return t, ErrConflict
		}
		return t, nil
	})
}

// ChangeToken implements enrol.Registry.
func (s *Store) ChangeToken(ctx context.Context, id string, fn func(enrol.Token) (enrol.Token, error)) error {
	return change(ctx, s.tokens, id, func(old enrol.Token, found bool) (enrol.Token, error) {
		if !found {
			return old, ErrNotFound
		}
		return fn(old)
	})
}

// Tokens lists every join token, used ones included.
func (s *Store) Tokens(ctx context.Context) ([]enrol.Token, error) {
	return list[enrol.Token](ctx, s.tokens)
}

// AddHost implements enrol.Registry: a host that is there already stays as it is.
func (s *Store) AddHost(ctx context.Context, r enrol.Registration) error {
	return change(ctx, s.hosts, string(r.Host), func(old enrol.Registration, found bool) (enrol.Registration, error) {
		if found {
			return old, nil
		}
		return r, nil
	})
}

// Host implements enrol.Registry.
func (s *Store) Host(ctx context.Context, id fleet.HostID) (enrol.Registration, error) {
	r, _, err := get[enrol.Registration](ctx, s.hosts, string(id))
	return r, err
}

// ChangeHost replaces a registration by compare and swap.
func (s *Store) ChangeHost(ctx context.Context, id fleet.HostID, fn func(enrol.Registration) (enrol.Registration, error)) error {
	return change(ctx, s.hosts, string(id), func(old enrol.Registration, found bool) (enrol.Registration, error) {
		if !found {
			return old, ErrNotFound
		}
		return fn(old)
	})
}

// Hosts lists every registration, revoked ones included.
func (s *Store) Hosts(ctx context.Context) ([]enrol.Registration, error) {
	return list[enrol.Registration](ctx, s.hosts)
}

// SettleTokens makes the host records that a crash between burning a token and
// recording its host left out. Call it at start.
func (s *Store) SettleTokens(ctx context.Context) error {
	tokens, err := s.Tokens(ctx)
	if err != nil {
		return fmt.Errorf("settle tokens: %w", err)
	}
	for _, t := range tokens {
		for _, r := range t.Redeemed {
			if err := s.AddHost(ctx, r); err != nil {
				return fmt.Errorf("settle tokens: %w", err)
			}
		}
	}
	return nil
}

// LastReport is the newest report of one host.
type LastReport struct {
	At     time.Time   `json:"at"` // when the server got it
	Report wire.Report `json:"report"`
}

// SaveReport keeps a host's last report. It does not wait for the disk: a lost
// report is told again.
func (s *Store) SaveReport(r LastReport) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("save report: %w", err)
	}
	if _, err := s.js.PublishAsync("$KV.AFLOAT_REPORTS."+string(r.Report.Host), data); err != nil {
		return fmt.Errorf("save report: %w", err)
	}
	return nil
}

// reportsPending bounds how many reports are on their way to the disk.
const reportsPending = 1000

// RoomForReport says whether SaveReport would go through without waiting.
func (s *Store) RoomForReport() bool { return s.js.PublishAsyncPending() < reportsPending }

// Reports lists the last report of every host.
func (s *Store) Reports(ctx context.Context) ([]LastReport, error) {
	return list[LastReport](ctx, s.reports)
}
