// Package enrol gives out identities: it holds the server's own keys and CA,
// turns a one-time join token into a host's registration and user JWT, and
// renews that JWT. What is durable it keeps in a Registry, which the store implements.
package enrol

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/nats-io/nkeys"
)

// identityFile holds every secret of one server. One file, so that a first
// start that is killed half-way leaves either all of the keys or none.
const identityFile = "identity.json"

// Identity is the server's own secrets, made at its first start and never changed.
type Identity struct {
	operator, system, account, signing nkeys.KeyPair
	ca                                 *CA
	orders                             ed25519.PrivateKey
	nonceKey                           []byte
}

type identityJSON struct {
	Operator string `json:"operator_seed"`
	System   string `json:"system_account_seed"`
	Account  string `json:"account_seed"`
	Signing  string `json:"signing_seed"`
	CAKey    []byte `json:"ca_key_pkcs8"`
	CACert   []byte `json:"ca_cert_der"`
	Orders   []byte `json:"orders_seed"`
	NonceKey []byte `json:"nonce_key"`
}

// Load reads the identity in dir, or makes one when there is none. A damaged
// identity is an error: making a new one would orphan every enrolled host.
func Load(dir *os.Root) (*Identity, error) {
	data, err := dir.ReadFile(identityFile)
	if errors.Is(err, fs.ErrNotExist) {
		return create(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read server identity: %w", err)
	}
	var j identityJSON
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return nil, fmt.Errorf("read server identity: %w", err)
	}
	id, err := j.open()
	if err != nil {
		return nil, fmt.Errorf("read server identity: %w", err)
	}
	return id, nil
}

func create(dir *os.Root) (*Identity, error) {
	j, err := generate()
	if err != nil {
		return nil, fmt.Errorf("make server identity: %w", err)
	}
	data, err := json.Marshal(j)
	if err != nil {
		return nil, fmt.Errorf("make server identity: %w", err)
	}
	if err := writeFile(dir, identityFile, data); err != nil {
		return nil, fmt.Errorf("write server identity: %w", err)
	}
	return j.open()
}

func generate() (identityJSON, error) {
	var j identityJSON
	for _, k := range []struct {
		seed *string
		make func() (nkeys.KeyPair, error)
	}{
		{&j.Operator, nkeys.CreateOperator}, {&j.System, nkeys.CreateAccount},
		{&j.Account, nkeys.CreateAccount}, {&j.Signing, nkeys.CreateAccount},
	} {
		pair, err := k.make()
		if err != nil {
			return j, err
		}
		seed, err := pair.Seed()
		if err != nil {
			return j, err
		}
		*k.seed = string(seed)
	}
	_, orders, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return j, err
	}
	j.Orders = orders.Seed()
	j.NonceKey = make([]byte, 32)
	rand.Read(j.NonceKey) // never fails: crypto/rand aborts the process instead
	j.CAKey, j.CACert, err = generateCA()
	return j, err
}

func (j identityJSON) open() (*Identity, error) {
	id := &Identity{nonceKey: j.NonceKey}
	for _, k := range []struct {
		name, seed string
		pair       *nkeys.KeyPair
		kind       nkeys.PrefixByte
	}{
		{"operator", j.Operator, &id.operator, nkeys.PrefixByteOperator},
		{"system account", j.System, &id.system, nkeys.PrefixByteAccount},
		{"account", j.Account, &id.account, nkeys.PrefixByteAccount},
		{"signing", j.Signing, &id.signing, nkeys.PrefixByteAccount},
	} {
		pair, err := nkeys.FromSeed([]byte(k.seed))
		if err != nil {
			return nil, fmt.Errorf("%s key: %w", k.name, err)
		}
		if pub, err := pair.PublicKey(); err != nil || nkeys.Prefix(pub) != k.kind {
			return nil, fmt.Errorf("%s key is of the wrong kind", k.name)
		}
		*k.pair = pair
	}
	if len(j.Orders) != ed25519.SeedSize || len(j.NonceKey) < 32 {
		return nil, errors.New("orders or nonce key has the wrong length")
	}
	id.orders = ed25519.NewKeyFromSeed(j.Orders)
	ca, err := openCA(j.CAKey, j.CACert)
	if err != nil {
		return nil, err
	}
	id.ca = ca
	return id, nil
}

// OrdersKey signs Desired and Permit.
func (id *Identity) OrdersKey() ed25519.PrivateKey { return id.orders }

// CA is the authority behind the server's certificates.
func (id *Identity) CA() *CA { return id.ca }

// writeFile replaces a file so that a crash leaves the old or the new one, whole.
func writeFile(dir *os.Root, name string, data []byte) error {
	tmp := name + ".tmp"
	f, err := dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := dir.Rename(tmp, name); err != nil {
		return err
	}
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Name tells this server from others: the head of a hash of its CA certificate.
func (id *Identity) Name() string { return id.ca.Hash()[:16] }
