package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"afloat/internal/audit"
	"afloat/internal/bundle"
	"afloat/internal/enrol"
	"afloat/internal/fleet"
	"afloat/internal/store"
	"afloat/internal/wire"
)

// RefusedError is a request that was understood and turned down: the caller's
// to fix, never the server's. Hint says how, "" for nothing to say.
type RefusedError struct {
	Reason string
	Hint   string
}

func (e *RefusedError) Error() string { return e.Reason }

func refuse(hint, format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...), Hint: hint}
}

// act audits fn: first state, then its record. A refusal is recorded as one.
func (s *Server) act(ctx context.Context, who audit.Actor, what, target string, fn func() (reason string, err error)) error {
	reason, err := fn()
	e := audit.Entry{Who: who, What: what, Target: target, Outcome: audit.Done, Reason: reason}
	if err != nil {
		e.Reason, e.Outcome = err.Error(), audit.Failed
		if _, ok := errors.AsType[*RefusedError](err); ok {
			e.Outcome = audit.Refused
		}
	}
	if auditErr := s.recorder.record(ctx, e); auditErr != nil {
		return errors.Join(err, auditErr)
	}
	return err
}

// Refuse records that who was not let do something, by the layer that knows.
func (s *Server) Refuse(ctx context.Context, who audit.Actor, what, target, reason string) {
	s.recorder.refused(ctx, audit.Entry{Who: who, What: what, Target: target, Reason: reason})
}

// TLS is the configuration of every listener of this server.
func (s *Server) TLS() *tls.Config {
	return s.identity.CA().TLS(append([]string{"localhost", "127.0.0.1", "::1"}, s.cfg.Advertise...))
}

// Join answers a host that redeems a token; remote is where it came from.
func (s *Server) Join(ctx context.Context, req wire.JoinRequest, remote net.Addr) (wire.JoinReply, error) {
	reply, reg, err := s.desk.Join(ctx, req, time.Now())
	if r, ok := errors.AsType[*enrol.RefusedError](err); ok {
		s.recorder.refused(ctx, audit.Entry{Who: strangerActor(hostOf(remote.String())), What: "host.join",
			Target: "token " + req.TokenID, Reason: r.Reason})
		return reply, refuse("", "%s", r.Reason)
	}
	if err != nil {
		return reply, err
	}
	err = s.recorder.record(ctx, audit.Entry{Who: hostActor(string(reg.Host)), What: "host.join", Outcome: audit.Done,
		Target: "token " + req.TokenID, Reason: fmt.Sprintf("%s from %s, mode %s", reg.Name, hostOf(remote.String()), reg.Mode)})
	if err != nil {
		return reply, err
	}
	return reply, tell(ctx, s, func(o *owner) {
		if o.hosts[reg.Host] == nil {
			o.hosts[reg.Host] = &host{reg: reg}
			o.enrol(o.hosts[reg.Host])
			o.dirty = true
		}
	})
}

// Nonce is a challenge for Renew.
func (s *Server) Nonce() wire.Nonce { return s.desk.Nonce(time.Now()) }

// Renew gives a host a fresh JWT.
func (s *Server) Renew(ctx context.Context, req wire.RenewRequest, remote net.Addr) (wire.RenewReply, error) {
	reply, err := s.desk.Renew(ctx, req, time.Now())
	if r, ok := errors.AsType[*enrol.RefusedError](err); ok {
		s.recorder.refused(ctx, audit.Entry{Who: strangerActor(hostOf(remote.String())), What: "host.renew",
			Target: string(req.Host), Reason: r.Reason})
		return reply, refuse("", "%s", r.Reason)
	}
	return reply, err
}

// NewToken makes a join token.
func (s *Server) NewToken(ctx context.Context, who audit.Actor, o enrol.TokenOptions) (wire.Token, enrol.Token, error) {
	o.By = who.String()
	token, record, err := enrol.NewToken(s.identity.CA().Hash(), o, time.Now())
	if r, ok := errors.AsType[*enrol.RefusedError](err); ok {
		return token, record, refuse("", "%s", r.Reason)
	}
	if err != nil {
		return token, record, err
	}
	return token, record, s.act(ctx, who, "token.create", record.ID, func() (string, error) {
		return tokenTerms(record), s.store.AddToken(ctx, record)
	})
}

// tokenTerms says for the audit what a token gives.
func tokenTerms(t enrol.Token) string {
	labels := "no labels"
	if len(t.Labels) > 0 {
		labels = "labels " + t.Labels.String()
	}
	return fmt.Sprintf("uses %d, mode %s, %s, expires %s", t.Uses, t.Mode, labels, t.Expires.Format(time.RFC3339))
}

// Tokens lists every join token, newest first.
func (s *Server) Tokens(ctx context.Context) ([]enrol.Token, error) {
	tokens, err := s.store.Tokens(ctx)
	slices.SortFunc(tokens, func(a, b enrol.Token) int { return strings.Compare(b.ID, a.ID) })
	return tokens, err
}

// RevokeToken makes a token worthless. Hosts that it let in stay.
func (s *Server) RevokeToken(ctx context.Context, who audit.Actor, id string) error {
	if _, err := fleet.ParseHostID(id); err != nil {
		return refuse("afloat token list shows their ids", "cannot revoke token: %q is no token id", id)
	}
	return s.act(ctx, who, "token.revoke", id, func() (string, error) {
		err := s.store.ChangeToken(ctx, id, func(t enrol.Token) (enrol.Token, error) { t.Revoked = true; return t, nil })
		if errors.Is(err, store.ErrNotFound) {
			return "", refuse("afloat token list shows their ids", "cannot revoke token: there is no token %s", id)
		}
		return "", err
	})
}

// AddBundle checks a bundle file and puts it into the catalog.
func (s *Server) AddBundle(ctx context.Context, who audit.Actor, file []byte) (store.CatalogEntry, error) {
	entry := store.CatalogEntry{Digest: bundle.DigestOf(file), Size: int64(len(file)), State: store.BundlePresent,
		Added: time.Now().UTC(), By: who.String()}
	err := s.act(ctx, who, "bundle.add", string(entry.Digest), func() (string, error) {
		b, err := bundle.Decode(file)
		if err != nil {
			return "", refuse("build it again, or copy it again: afloat inspect shows what is in it", "cannot add bundle: %v", err)
		}
		entry.Manifest = b.Manifest
		if len(s.cfg.Publishers) > 0 {
			key, err := b.Verify(s.cfg.Publishers)
			if err != nil {
				return "", refuse("the server was started with --publishers; add the publisher's .pub file there", "cannot add bundle: %v", err)
			}
			entry.Signer = bundle.KeyID(key)
		}
		return b.Manifest.Name + " for " + b.Manifest.Kernel.String(), s.admitBundle(ctx, entry, file)
	})
	return entry, err
}

// admitBundle stores a checked bundle. One name and kernel has at most one
// bundle that is not withdrawn, or a rollout could not tell which one is meant.
func (s *Server) admitBundle(ctx context.Context, entry store.CatalogEntry, file []byte) error {
	_, err := ask(ctx, s, func(o *owner) (struct{}, error) { return struct{}{}, o.roomFor(entry) })
	if err != nil {
		return err
	}
	err = s.store.AddBundle(ctx, entry, file)
	if errors.Is(err, store.ErrConflict) {
		return refuse("", "cannot add bundle: %s was withdrawn", entry.Digest.Short())
	}
	if err != nil {
		return err
	}
	return tell(ctx, s, func(o *owner) { o.list(entry) })
}

func (o *owner) roomFor(entry store.CatalogEntry) error {
	for d, e := range o.catalog {
		if d != entry.Digest && e.State == store.BundlePresent && e.Manifest.Name == entry.Manifest.Name &&
			e.Manifest.Kernel == entry.Manifest.Kernel {
			return refuse("afloat bundle withdraw "+string(d)+", or build under another --name",
				"cannot add bundle: the catalog has another one named %s for %s: %s", e.Manifest.Name, e.Manifest.Kernel, d.Short())
		}
	}
	return nil
}

// Bundles lists the catalog, newest first.
func (s *Server) Bundles(ctx context.Context) ([]store.CatalogEntry, error) {
	return ask(ctx, s, func(o *owner) ([]store.CatalogEntry, error) {
		out := make([]store.CatalogEntry, 0, len(o.catalog))
		for _, e := range o.catalog {
			out = append(out, e)
		}
		slices.SortFunc(out, func(a, b store.CatalogEntry) int {
			if c := b.Added.Compare(a.Added); c != 0 {
				return c
			}
			return strings.Compare(string(a.Digest), string(b.Digest))
		})
		return out, nil
	})
}

// Withdraw makes every host refuse a bundle, for ever. prefix may be the head of its digest.
func (s *Server) Withdraw(ctx context.Context, who audit.Actor, prefix, reason string) (store.CatalogEntry, error) {
	var entry store.CatalogEntry
	err := s.act(ctx, who, "bundle.withdraw", prefix, func() (string, error) {
		d, err := ask(ctx, s, func(o *owner) (bundle.Digest, error) { return o.findBundle(prefix) })
		if err != nil {
			return "", err
		}
		err = s.store.ChangeBundle(ctx, d, func(e store.CatalogEntry) (store.CatalogEntry, error) {
			if e.State != store.BundleWithdrawn {
				e.State, e.Withdrawn, e.Reason = store.BundleWithdrawn, time.Now().UTC(), reason
			}
			entry = e
			return e, nil
		})
		if err != nil {
			return "", err
		}
		return reason, tell(ctx, s, func(o *owner) { o.list(entry); o.nudgeAll() })
	})
	return entry, err
}

func (o *owner) findBundle(prefix string) (bundle.Digest, error) {
	var found []bundle.Digest
	for d := range o.catalog {
		if prefix != "" && (string(d) == prefix || strings.HasPrefix(d.Hex(), prefix)) {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return "", refuse("afloat bundle list shows what the catalog has", "cannot find bundle %q", prefix)
	case 1:
		return found[0], nil
	}
	return "", refuse("give more of the digest", "cannot tell which bundle %q is: %d begin with it", prefix, len(found))
}

// OpenBundle opens a bundle for download. Withdrawn ones are refused.
func (s *Server) OpenBundle(ctx context.Context, d bundle.Digest) (*os.File, error) {
	if err := d.Validate(); err != nil {
		return nil, refuse("", "cannot serve bundle: %v", err)
	}
	state, err := ask(ctx, s, func(o *owner) (store.BundleState, error) { return o.catalog[d].State, nil })
	switch {
	case err != nil:
		return nil, err
	case state == store.BundleWithdrawn:
		return nil, refuse("", "bundle %s was withdrawn", d.Short())
	case state == "":
		return nil, store.ErrNotFound
	}
	return s.store.OpenBundle(d)
}
