package enrol

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nkeys"

	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// ErrNotFound is what a Registry returns for a token or host it does not have.
var ErrNotFound = errors.New("not found")

// Registry keeps tokens and hosts.
type Registry interface {
	// ChangeToken replaces a token by compare and swap: change may be called
	// again with a newer value, and its error ends the call unchanged.
	ChangeToken(ctx context.Context, id string, change func(Token) (Token, error)) error
	// AddHost records a registration unless the host is already there.
	AddHost(ctx context.Context, r Registration) error
	// Host returns ErrNotFound for an id that never joined.
	Host(ctx context.Context, id fleet.HostID) (Registration, error)
}

// Desk answers hosts that want an identity.
type Desk struct {
	identity *Identity
	registry Registry
	urls     []string // tls://host:port of the NATS listener
}

// NewDesk returns a Desk that tells joining hosts to connect to urls.
func NewDesk(identity *Identity, registry Registry, urls []string) *Desk {
	return &Desk{identity: identity, registry: registry, urls: urls}
}

const (
	maxName   = 253
	maxLabels = 64
)

// Join redeems a token. A *RefusedError is the caller's fault and is to be
// audited; any other error is the server's.
func (d *Desk) Join(ctx context.Context, req wire.JoinRequest, now time.Time) (wire.JoinReply, Registration, error) {
	if err := checkJoin(req); err != nil {
		return wire.JoinReply{}, Registration{}, err
	}
	reg, err := d.redeem(ctx, req, now)
	if err != nil {
		return wire.JoinReply{}, Registration{}, err
	}
	token, expires, err := d.identity.issue(reg.Host, reg.NKey, now)
	if err != nil {
		return wire.JoinReply{}, Registration{}, fmt.Errorf("join host: %w", err)
	}
	return wire.JoinReply{
		Version: wire.Version, Host: reg.Host, JWT: token, Expires: expires, NATS: d.urls,
		CA: string(d.identity.ca.PEM()), ServerKey: d.identity.orders.Public().(ed25519.PublicKey),
	}, reg, nil
}

func (d *Desk) redeem(ctx context.Context, req wire.JoinRequest, now time.Time) (Registration, error) {
	var reg Registration
	host := fleet.HostID(newID(now))
	err := d.registry.ChangeToken(ctx, req.TokenID, func(t Token) (Token, error) {
		next, r, err := t.redeem(req, host, now)
		reg = r
		return next, err
	})
	if errors.Is(err, ErrNotFound) {
		return reg, refuse("the join token is not known here")
	}
	if err != nil {
		return reg, fmt.Errorf("redeem token: %w", err)
	}
	if err := d.registry.AddHost(ctx, reg); err != nil {
		return reg, fmt.Errorf("record host: %w", err)
	}
	// The same key may come again after its host was revoked: the record decides.
	current, err := d.registry.Host(ctx, reg.Host)
	if err != nil {
		return reg, fmt.Errorf("read host: %w", err)
	}
	if !current.Revoked.IsZero() {
		return reg, refuse("host %s was revoked", reg.Host)
	}
	return current, nil
}

func checkJoin(req wire.JoinRequest) error {
	switch {
	case req.Version != wire.Version:
		return refuse("the agent speaks wire version %d, this server %d", req.Version, wire.Version)
	case len(req.Name) > maxName || len(req.Labels) > maxLabels:
		return refuse("name or labels are too long")
	}
	if _, err := fleet.ParseHostID(req.TokenID); err != nil {
		return refuse("the join token's id is malformed")
	}
	return checkSig(req.NKey, wire.JoinBytes(req.TokenID, req.Secret, req.NKey), req.Sig)
}

func checkSig(nkey string, signed, sig []byte) error {
	if !nkeys.IsValidPublicUserKey(nkey) {
		return refuse("the public key is not a user nkey")
	}
	pub, err := nkeys.FromPublicKey(nkey)
	if err != nil {
		return refuse("the public key is not a user nkey")
	}
	if pub.Verify(signed, sig) != nil {
		return refuse("the signature is not by the key %s", nkey)
	}
	return nil
}

// nonceLife is how long a renewal may take from challenge to answer.
const nonceLife = 2 * time.Minute

// Nonce returns a challenge. It is stateless: time, salt and an HMAC over both.
func (d *Desk) Nonce(now time.Time) wire.Nonce {
	b := binary.BigEndian.AppendUint64(nil, uint64(now.UnixMilli()))
	salt := make([]byte, 16)
	rand.Read(salt) // never fails: crypto/rand aborts the process instead
	b = append(b, salt...)
	return wire.Nonce{Nonce: base64.RawURLEncoding.EncodeToString(append(b, d.mac(b)...)), Now: now.UTC()}
}

func (d *Desk) mac(b []byte) []byte {
	m := hmac.New(sha256.New, d.identity.nonceKey)
	m.Write(b)
	return m.Sum(nil)
}

func (d *Desk) checkNonce(nonce string, now time.Time) error {
	b, err := base64.RawURLEncoding.DecodeString(nonce)
	if err != nil || len(b) != 8+16+sha256.Size {
		return refuse("the nonce is malformed")
	}
	head, mac := b[:24], b[24:]
	if !hmac.Equal(mac, d.mac(head)) {
		return refuse("the nonce was not made by this server")
	}
	age := now.Sub(time.UnixMilli(int64(binary.BigEndian.Uint64(head))))
	if age > nonceLife || age < -nonceLife {
		return refuse("the nonce is %s old, at most %s allowed", age.Round(time.Second), nonceLife)
	}
	return nil
}

// Renew issues a fresh JWT to a host that proves it still holds its nkey.
// A *RefusedError is the caller's fault and is to be audited.
func (d *Desk) Renew(ctx context.Context, req wire.RenewRequest, now time.Time) (wire.RenewReply, error) {
	if req.Version != wire.Version {
		return wire.RenewReply{}, refuse("the agent speaks wire version %d, this server %d", req.Version, wire.Version)
	}
	if err := d.checkNonce(req.Nonce, now); err != nil {
		return wire.RenewReply{}, err
	}
	if _, err := fleet.ParseHostID(string(req.Host)); err != nil {
		return wire.RenewReply{}, refuse("the host id is malformed")
	}
	if err := checkSig(req.NKey, wire.RenewBytes(req.Host, req.NKey, req.Nonce), req.Sig); err != nil {
		return wire.RenewReply{}, err
	}
	reg, err := d.registry.Host(ctx, req.Host)
	switch {
	case errors.Is(err, ErrNotFound):
		return wire.RenewReply{}, refuse("host %s is not known here", req.Host)
	case err != nil:
		return wire.RenewReply{}, fmt.Errorf("renew jwt: %w", err)
	case reg.NKey != req.NKey:
		return wire.RenewReply{}, refuse("host %s has another key", req.Host)
	case !reg.Revoked.IsZero():
		return wire.RenewReply{}, refuse("host %s was revoked", req.Host)
	}
	token, expires, err := d.identity.issue(reg.Host, reg.NKey, now)
	if err != nil {
		return wire.RenewReply{}, fmt.Errorf("renew jwt: %w", err)
	}
	return wire.RenewReply{Version: wire.Version, JWT: token, Expires: expires}, nil
}
