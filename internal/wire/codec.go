package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"afloat/internal/fleet"
)

// Contexts of Signed.
const (
	ContextDesired = "afloat-desired/1"
	ContextPermit  = "afloat-permit/1"
)

// MaxMessage is the largest message either side accepts, in bytes.
const MaxMessage = 256 << 10

// ErrSignature says that a signed message was not signed by the key it must be signed by.
var ErrSignature = errors.New("signature does not verify")

// Beat is the short heartbeat between reports.
type Beat struct {
	Version    int    `json:"v"`
	Boot       string `json:"boot"`
	Generation uint64 `json:"generation"`
	Seq        uint64 `json:"seq"` // of the last report sent, so that a lost one is noticed
}

// Decode reads exactly one JSON value of at most MaxMessage bytes into v and
// refuses unknown fields and anything behind the value.
func Decode(data []byte, v any) error {
	if len(data) > MaxMessage {
		return fmt.Errorf("decode message: %d bytes, at most %d allowed", len(data), MaxMessage)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode message: data behind the value")
	}
	return nil
}

// DecodeReport reads a Report and checks the parts that everything else relies on.
func DecodeReport(data []byte) (Report, error) {
	var r Report
	if err := Decode(data, &r); err != nil {
		return Report{}, fmt.Errorf("read report: %w", err)
	}
	if err := checkHead(r.Version, r.Host); err != nil {
		return Report{}, fmt.Errorf("read report: %w", err)
	}
	if r.Boot == "" {
		return Report{}, errors.New("read report: no boot id")
	}
	if err := r.checkAction(); err != nil {
		return Report{}, fmt.Errorf("read report: %w", err)
	}
	return r, nil
}

// Sign encodes v and signs it for one context.
func Sign(key ed25519.PrivateKey, context string, v any) (Signed, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return Signed{}, fmt.Errorf("sign %s: %w", context, err)
	}
	return Signed{Context: context, Payload: payload, Sig: ed25519.Sign(key, signedBytes(context, payload))}, nil
}

// OpenDesired verifies and decodes a Desired addressed to host.
func OpenDesired(key ed25519.PublicKey, s Signed, host fleet.HostID) (Desired, error) {
	var d Desired
	if err := open(key, ContextDesired, s, &d); err != nil {
		return Desired{}, fmt.Errorf("open desired: %w", err)
	}
	if err := checkHead(d.Version, d.Host); err != nil {
		return Desired{}, fmt.Errorf("open desired: %w", err)
	}
	if d.Host != host {
		return Desired{}, fmt.Errorf("open desired: addressed to host %s, this is %s", d.Host, host)
	}
	if err := d.Validate(); err != nil {
		return Desired{}, fmt.Errorf("open desired: %w", err)
	}
	return d, nil
}

// OpenPermit verifies and decodes a Permit.
func OpenPermit(key ed25519.PublicKey, s Signed) (Permit, error) {
	var p Permit
	if err := open(key, ContextPermit, s, &p); err != nil {
		return Permit{}, fmt.Errorf("open permit: %w", err)
	}
	if p.Version != Version || p.Rollout == "" || p.TTL <= 0 {
		return Permit{}, errors.New("open permit: version, rollout or ttl is missing or wrong")
	}
	return p, nil
}

func open(key ed25519.PublicKey, context string, s Signed, v any) error {
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("server key has %d bytes: %w", len(key), ErrSignature)
	}
	if s.Context != context {
		return fmt.Errorf("context is %q, want %q: %w", s.Context, context, ErrSignature)
	}
	if !ed25519.Verify(key, signedBytes(context, s.Payload), s.Sig) {
		return ErrSignature
	}
	return Decode(s.Payload, v)
}

func signedBytes(context string, payload []byte) []byte {
	return append([]byte(context+"\n"), payload...)
}

func checkHead(version int, host fleet.HostID) error {
	if version != Version {
		return fmt.Errorf("wire version %d, this is %d", version, Version)
	}
	_, err := fleet.ParseHostID(string(host))
	return err
}
