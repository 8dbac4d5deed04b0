package agent

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/wire"

	"github.com/nats-io/nkeys"
)

// JoinOptions are what an operator gives a host to join with.
type JoinOptions struct {
	Folder
	Server       string // https://host:port
	Token        string
	PublisherKey string // path of a PEM public key; empty if publishers.d has one already
	Settings     Settings
}

// Join enrols the host: it makes the host's key, redeems the token, and stores
// the identity and the owner's settings. The publisher's key comes from the
// operator's hand and never from the server (law 5).
func Join(ctx context.Context, o JoinOptions) (Identity, error) {
	id, err := join(ctx, o)
	if err != nil {
		return Identity{}, fmt.Errorf("join: %w", err)
	}
	return id, nil
}

func join(ctx context.Context, o JoinOptions) (Identity, error) {
	token, err := wire.ParseToken(o.Token)
	if err != nil {
		return Identity{}, err
	}
	if u, err := url.Parse(o.Server); err != nil || u.Scheme != "https" || u.Host == "" {
		return Identity{}, fmt.Errorf("server %q is not https://HOST:PORT", o.Server)
	}
	switch _, err := LoadIdentity(o.State); {
	case err == nil:
		return Identity{}, fmt.Errorf("%s has an identity already", o.State)
	case !errors.Is(err, ErrNotJoined):
		return Identity{}, err
	}
	if err := prepare(o); err != nil {
		return Identity{}, err
	}
	id, err := redeem(ctx, o, token)
	if err != nil {
		return Identity{}, err
	}
	if err := o.Settings.store(o.Config); err != nil {
		return Identity{}, err
	}
	if err := id.Store(o.State); err != nil {
		return Identity{}, err
	}
	return id, os.Remove(filepath.Join(o.State, seedFile))
}

// prepare does what can fail on this host before the token is used up.
func prepare(o JoinOptions) error {
	if err := errors.Join(os.MkdirAll(o.State, 0o700), os.MkdirAll(o.publishers(), 0o755)); err != nil {
		return err
	}
	if o.PublisherKey == "" {
		keys, err := bundles{publishers: o.publishers()}.keys()
		if err == nil && len(keys) == 0 {
			err = fmt.Errorf("%s has no publisher's key, and none was given", o.publishers())
		}
		return err
	}
	data, err := os.ReadFile(o.PublisherKey)
	if err != nil {
		return fmt.Errorf("read publisher's key: %w", err)
	}
	key, err := bundle.ParsePublicKey(data)
	if err != nil {
		return fmt.Errorf("publisher's key %s: %w", o.PublisherKey, err)
	}
	return writeDurably(filepath.Join(o.publishers(), bundle.KeyID(key)+".pub"), data, 0o644)
}

// redeem uses the token up. The key is stored first: a reply that was lost can
// be asked for again with the same key.
func redeem(ctx context.Context, o JoinOptions, token wire.Token) (Identity, error) {
	seed, err := joinSeed(o.State)
	if err != nil {
		return Identity{}, err
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return Identity{}, fmt.Errorf("read host key: %w", err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return Identity{}, fmt.Errorf("read host key: %w", err)
	}
	sig, err := pair.Sign(wire.JoinBytes(token.ID, token.Secret, public))
	if err != nil {
		return Identity{}, fmt.Errorf("sign request: %w", err)
	}
	var reply wire.JoinReply
	w := newWeb(o.Server, tokenTLS(token.CAHash))
	defer w.client.CloseIdleConnections()
	err = w.post(ctx, wire.PathJoin, wire.JoinRequest{
		Version: wire.Version, TokenID: token.ID, Secret: token.Secret, NKey: public,
		Name: o.Settings.Name, Labels: o.Settings.Labels, Sig: sig,
	}, &reply)
	if err != nil {
		return Identity{}, err
	}
	return identityFrom(o, token, string(seed), reply)
}

func identityFrom(o JoinOptions, token wire.Token, seed string, r wire.JoinReply) (Identity, error) {
	_, hash, err := parseCA(r.CA)
	switch {
	case r.Version != wire.Version:
		return Identity{}, fmt.Errorf("server speaks wire version %d, this is %d", r.Version, wire.Version)
	case err != nil:
		return Identity{}, err
	case hash != token.CAHash:
		return Identity{}, errors.New("the server's reply names another CA than the join token")
	case len(r.NATS) == 0 || r.JWT == "":
		return Identity{}, errors.New("the server's reply is incomplete")
	}
	return Identity{
		Host: r.Host, Server: o.Server, NATS: r.NATS, CA: r.CA, ServerKey: r.ServerKey, Seed: seed,
		JWT: r.JWT, Issued: time.Now().UTC(), Expires: r.Expires,
	}, nil
}

// seedFile holds the host's key between the first try to join and the one that succeeds.
const seedFile = "join.seed"

// joinSeed is the host's new key, kept until the join succeeds.
func joinSeed(dir string) ([]byte, error) {
	path := filepath.Join(dir, seedFile)
	if seed, err := os.ReadFile(path); err == nil {
		return seed, nil
	}
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("make host key: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return nil, fmt.Errorf("make host key: %w", err)
	}
	return seed, writeDurably(path, seed, 0o600)
}
