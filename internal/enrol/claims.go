package enrol

import (
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"afloat/internal/fleet"
)

// UserLife is how long a host's JWT holds; agents renew at two thirds.
const UserLife = 30 * 24 * time.Hour

// Claims is what a NATS server needs to know to trust this identity's users.
type Claims struct {
	Operator   *jwt.OperatorClaims
	System     string // public key
	SystemJWT  string
	Account    string // public key
	AccountJWT string
}

// Claims encodes the operator and account JWTs. JWTs of a revoked nkey that
// were issued before its time are refused by the NATS server.
func (id *Identity) Claims(revoked map[string]time.Time) (Claims, error) {
	var c Claims
	var err error
	operator, err := id.operator.PublicKey()
	if err != nil {
		return c, fmt.Errorf("encode claims: %w", err)
	}
	if c.System, err = id.system.PublicKey(); err != nil {
		return c, fmt.Errorf("encode claims: %w", err)
	}
	if c.Account, err = id.account.PublicKey(); err != nil {
		return c, fmt.Errorf("encode claims: %w", err)
	}
	c.Operator = jwt.NewOperatorClaims(operator)
	c.Operator.Name, c.Operator.SystemAccount = "afloat", c.System
	system := jwt.NewAccountClaims(c.System)
	system.Name = "SYS"
	if c.SystemJWT, err = system.Encode(id.operator); err != nil {
		return c, fmt.Errorf("encode system account: %w", err)
	}
	if c.AccountJWT, err = id.accountJWT(c.Account, revoked); err != nil {
		return c, fmt.Errorf("encode account: %w", err)
	}
	return c, nil
}

// accountJWT encodes the account that holds every host and the server itself.
func (id *Identity) accountJWT(account string, revoked map[string]time.Time) (string, error) {
	signing, err := id.signing.PublicKey()
	if err != nil {
		return "", err
	}
	a := jwt.NewAccountClaims(account)
	a.Name = "fleet"
	a.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
	}
	scope := jwt.NewUserScope()
	scope.Key, scope.Role = signing, "host"
	// {{name()}} is the JWT's name, which issue sets to the host id. Nothing
	// sanitises it, so that only an id of [a-z0-9-] may ever get there.
	scope.Template.Pub.Allow.Add("afloat.up.{{name()}}.>")
	scope.Template.Sub.Allow.Add("afloat.down.{{name()}}.>", "_INBOX_{{name()}}.>")
	scope.Template.Limits.Subs = maxSubs
	scope.Template.Limits.Payload = maxPayload
	a.SigningKeys.AddScopedSigner(scope)
	for nkey, at := range revoked {
		a.RevokeAt(nkey, at)
	}
	return a.Encode(id.operator)
}

const (
	maxSubs    = 16
	maxPayload = 256 << 10 // wire.MaxMessage
)

// issue returns a user JWT for one host. The host id is parsed again here:
// this is the one place where a wrong id would widen what a host may do.
func (id *Identity) issue(host fleet.HostID, nkey string, now time.Time) (token string, expires time.Time, err error) {
	if _, err := fleet.ParseHostID(string(host)); err != nil {
		return "", time.Time{}, fmt.Errorf("issue jwt: %w", err)
	}
	account, err := id.account.PublicKey()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("issue jwt: %w", err)
	}
	expires = now.Add(UserLife)
	u := jwt.NewUserClaims(nkey)
	u.SetScoped(true)
	u.Name, u.IssuerAccount, u.Expires = string(host), account, expires.Unix()
	token, err = u.Encode(id.signing)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("issue jwt: %w", err)
	}
	return token, expires, nil
}

// ServerUser makes a fresh user with all rights in the account, for the
// server's own connection. It lives in memory only and dies with the process.
func (id *Identity) ServerUser() (token string, pair nkeys.KeyPair, err error) {
	pair, err = nkeys.CreateUser()
	if err != nil {
		return "", nil, fmt.Errorf("make server user: %w", err)
	}
	pub, err := pair.PublicKey()
	if err != nil {
		return "", nil, fmt.Errorf("make server user: %w", err)
	}
	u := jwt.NewUserClaims(pub)
	u.Name = "afloat-server"
	u.AllowedConnectionTypes.Add(jwt.ConnectionTypeInProcess)
	token, err = u.Encode(id.account)
	if err != nil {
		return "", nil, fmt.Errorf("make server user: %w", err)
	}
	return token, pair, nil
}
