package wire

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"afloat/internal/fleet"
)

// Enrolment runs over HTTPS before a host has an identity: POST PathJoin once,
// then GET PathNonce and POST PathRenew when two thirds of the JWT's life are over.
// Bundles are served at PathBundle + digest and never change.
const (
	PathJoin   = "/v1/join"
	PathNonce  = "/v1/nonce"
	PathRenew  = "/v1/renew"
	PathBundle = "/v1/bundles/"
)

// Contexts of what a host signs with its nkey while enrolling.
const (
	ContextJoin  = "afloat-join/1"
	ContextRenew = "afloat-renew/1"
)

// Token is a join token as the operator carries it to a host. CAHash pins the
// server: the agent accepts only a certificate chain whose root's DER has this SHA-256.
type Token struct {
	ID     string // [a-z0-9]{1,63}
	Secret string // base64url, 32 random bytes
	CAHash string // hex
}

const tokenPrefix = "afloat1"

// String is afloat1.<id>.<secret>.<ca hash>.
func (t Token) String() string {
	return strings.Join([]string{tokenPrefix, t.ID, t.Secret, t.CAHash}, ".")
}

// ParseToken reads what Token.String printed.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(s), ".")
	if len(parts) != 4 || parts[0] != tokenPrefix {
		return Token{}, fmt.Errorf("parse join token: want %s.<id>.<secret>.<ca hash>", tokenPrefix)
	}
	t := Token{ID: parts[1], Secret: parts[2], CAHash: parts[3]}
	if _, err := fleet.ParseHostID(t.ID); err != nil {
		return Token{}, errors.New("parse join token: malformed id")
	}
	if b, err := base64.RawURLEncoding.DecodeString(t.Secret); err != nil || len(b) != 32 {
		return Token{}, errors.New("parse join token: malformed secret")
	}
	if b, err := hex.DecodeString(t.CAHash); err != nil || len(b) != 32 {
		return Token{}, errors.New("parse join token: malformed ca hash")
	}
	return t, nil
}

// JoinRequest asks for a host identity. Sig is the nkey's signature over JoinBytes.
type JoinRequest struct {
	Version int          `json:"v"`
	TokenID string       `json:"token_id"`
	Secret  string       `json:"secret"`
	NKey    string       `json:"nkey"` // public user nkey; its seed never leaves the host
	Name    string       `json:"name"` // host name, for people
	Labels  fleet.Labels `json:"labels,omitempty"`
	Sig     []byte       `json:"sig"`
}

// JoinBytes is what a joining host signs.
func JoinBytes(tokenID, secret, nkey string) []byte {
	return []byte(strings.Join([]string{ContextJoin, tokenID, secret, nkey}, "\n"))
}

// JoinReply is a host's identity. The publisher's key is deliberately not in it (law 5).
type JoinReply struct {
	Version int          `json:"v"`
	Host    fleet.HostID `json:"host"`
	JWT     string       `json:"jwt"`
	Expires time.Time    `json:"expires"`
	NATS    []string     `json:"nats"` // tls://host:port
	CA      string       `json:"ca"`   // PEM; the agent checks it against the token's hash
	// ServerKey verifies Desired and Permit: 32 bytes, ed25519.
	ServerKey []byte `json:"server_key"`
}

// Nonce is a short-lived challenge. Now lets a host name its clock skew.
type Nonce struct {
	Nonce string    `json:"nonce"`
	Now   time.Time `json:"now"`
}

// RenewRequest asks for a fresh JWT. Sig is the nkey's signature over RenewBytes.
type RenewRequest struct {
	Version int          `json:"v"`
	Host    fleet.HostID `json:"host"`
	NKey    string       `json:"nkey"`
	Nonce   string       `json:"nonce"`
	Sig     []byte       `json:"sig"`
}

// RenewBytes is what a renewing host signs.
func RenewBytes(host fleet.HostID, nkey, nonce string) []byte {
	return []byte(strings.Join([]string{ContextRenew, string(host), nkey, nonce}, "\n"))
}

// RenewReply is the fresh JWT.
type RenewReply struct {
	Version int       `json:"v"`
	JWT     string    `json:"jwt"`
	Expires time.Time `json:"expires"`
}
