package enrol

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// Token is what the server keeps of a join token. The secret itself is never stored.
type Token struct {
	ID      string       `json:"id"`
	Hash    string       `json:"hash"` // hex SHA-256 of the secret
	Created time.Time    `json:"created"`
	Expires time.Time    `json:"expires"`
	Uses    int          `json:"uses"` // how many hosts may redeem it
	Mode    fleet.Mode   `json:"mode"`
	Labels  fleet.Labels `json:"labels,omitempty"`
	By      string       `json:"by,omitempty"`
	Revoked bool         `json:"revoked,omitempty"`
	// Redeemed is the registrations this token bought. Burning the token and
	// recording the host are one write: this record. The host's own record
	// follows from it and is made again if a crash came between.
	Redeemed []Registration `json:"redeemed,omitempty"`
}

// Registration is one enrolled host.
type Registration struct {
	Host   fleet.HostID `json:"host"`
	NKey   string       `json:"nkey"` // public
	Name   string       `json:"name"` // for people
	Labels fleet.Labels `json:"labels,omitempty"`
	Mode   fleet.Mode   `json:"mode"`
	Token  string       `json:"token"`
	Joined time.Time    `json:"joined"`
	// Revoked is when the host's identity was taken away, zero while it holds.
	Revoked time.Time `json:"revoked,omitzero"`
}

// RefusedError is a request that was understood and turned down, with the reason.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// TokenOptions are the bounds of a new token.
type TokenOptions struct {
	TTL    time.Duration // 0: one hour
	Uses   int           // 0: one
	Mode   fleet.Mode    // "": observe
	Labels fleet.Labels
	By     string
}

const (
	defaultTTL = time.Hour
	maxTTL     = 90 * 24 * time.Hour
	maxUses    = 10000
)

// NewToken makes a token and the record the server keeps of it.
func NewToken(caHash string, o TokenOptions, now time.Time) (wire.Token, Token, error) {
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.Uses == 0 {
		o.Uses = 1
	}
	if o.Mode == "" {
		o.Mode = fleet.ModeObserve
	}
	switch {
	case o.TTL < 0 || o.TTL > maxTTL:
		return wire.Token{}, Token{}, refuse("cannot make a token that lives %s: at most %s", o.TTL, maxTTL)
	case o.Uses < 0 || o.Uses > maxUses:
		return wire.Token{}, Token{}, refuse("cannot make a token for %d hosts: 1 to %d", o.Uses, maxUses)
	case o.Mode != fleet.ModeObserve && o.Mode != fleet.ModeAct:
		return wire.Token{}, Token{}, refuse("cannot make a token with mode %q: observe or act", o.Mode)
	}
	secret := make([]byte, 32)
	rand.Read(secret) // never fails: crypto/rand aborts the process instead
	t := wire.Token{ID: newID(now), Secret: base64.RawURLEncoding.EncodeToString(secret), CAHash: caHash}
	return t, Token{
		ID: t.ID, Hash: hashSecret(t.Secret), Created: now.UTC(), Expires: now.Add(o.TTL).UTC(),
		Uses: o.Uses, Mode: o.Mode, Labels: o.Labels, By: o.By,
	}, nil
}

// State is what the token is still good for: valid, used up, expired or revoked.
func (t Token) State(now time.Time) string {
	switch {
	case t.Revoked:
		return "revoked"
	case len(t.Redeemed) >= t.Uses:
		return "used up"
	case !now.Before(t.Expires):
		return "expired"
	}
	return "valid"
}

// redeem burns one use of t for the request's nkey and returns the token to
// write and the registration in it. The same nkey may come again: its first
// answer may have been lost. host is the id a new registration gets.
func (t Token) redeem(req wire.JoinRequest, host fleet.HostID, now time.Time) (Token, Registration, error) {
	if subtle.ConstantTimeCompare([]byte(t.Hash), []byte(hashSecret(req.Secret))) != 1 {
		return t, Registration{}, refuse("the join token's secret is wrong")
	}
	if t.Revoked {
		return t, Registration{}, refuse("the join token was revoked")
	}
	for _, r := range t.Redeemed {
		if r.NKey == req.NKey {
			return t, r, nil
		}
	}
	if len(t.Redeemed) >= t.Uses {
		return t, Registration{}, refuse("the join token is used up (%d of %d)", len(t.Redeemed), t.Uses)
	}
	if !now.Before(t.Expires) {
		return t, Registration{}, refuse("the join token expired at %s; the server's clock says %s",
			t.Expires.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	r := Registration{
		Host: host, NKey: req.NKey, Name: req.Name, Labels: mergeLabels(req.Labels, t.Labels),
		Mode: t.Mode, Token: t.ID, Joined: now.UTC(),
	}
	t.Redeemed = append(append([]Registration{}, t.Redeemed...), r)
	return t, r, nil
}

// mergeLabels returns what a host says of itself, overridden by what its token bound.
func mergeLabels(own, bound fleet.Labels) fleet.Labels {
	out := maps.Clone(own)
	if out == nil {
		out = fleet.Labels{}
	}
	maps.Copy(out, bound)
	return out
}

// newID is a lower-case ULID: sortable by time, of [a-z0-9] only.
func newID(now time.Time) string {
	return strings.ToLower(ulid.MustNew(ulid.Timestamp(now), rand.Reader).String())
}

func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
