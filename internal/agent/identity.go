package agent

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"afloat/internal/fleet"
)

// Identity is what a host got when it joined. It is secret: Seed is the host's key.
type Identity struct {
	Host      fleet.HostID `json:"host"`
	Server    string       `json:"server"` // https://host:port
	NATS      []string     `json:"nats"`
	CA        string       `json:"ca"` // PEM
	ServerKey []byte       `json:"server_key"`
	Seed      string       `json:"seed"` // nkey seed; made here, never sent
	JWT       string       `json:"jwt"`
	Issued    time.Time    `json:"issued"`
	Expires   time.Time    `json:"expires"`
}

// Settings are the host owner's, in the configuration folder.
type Settings struct {
	Name    string       `json:"name"`
	Labels  fleet.Labels `json:"labels,omitempty"`
	Ceiling fleet.Mode   `json:"ceiling"` // the most that the server may raise this host to
}

const (
	identityFile = "identity.json"
	settingsFile = "agent.json"
)

// ErrNotJoined says that the host has no identity yet.
var ErrNotJoined = errors.New("this host has not joined a server")

// LoadIdentity reads the identity from a state folder. It wraps ErrNotJoined if there is none.
func LoadIdentity(dir string) (Identity, error) {
	data, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return Identity{}, fmt.Errorf("read identity: %w", ErrNotJoined)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("read identity: %w", err)
	}
	var id Identity
	if err := json.Unmarshal(data, &id); err != nil {
		return Identity{}, fmt.Errorf("read identity: %w", err)
	}
	if _, err := fleet.ParseHostID(string(id.Host)); err != nil {
		return Identity{}, fmt.Errorf("read identity: %w", err)
	}
	if len(id.ServerKey) != ed25519.PublicKeySize {
		return Identity{}, fmt.Errorf("read identity: server key has %d bytes", len(id.ServerKey))
	}
	return id, nil
}

// Store writes the identity so that it survives a power cut.
func (id Identity) Store(dir string) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return writeDurably(filepath.Join(dir, identityFile), append(data, '\n'), 0o600)
}

// loadSettings reads the owner's settings; without any, the host is as a
// joined one with no labels.
func loadSettings(dir string) (Settings, error) {
	s := Settings{Ceiling: fleet.ModeAct}
	data, err := os.ReadFile(filepath.Join(dir, settingsFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return s, fmt.Errorf("read settings: %w", err)
	default:
		if err := json.Unmarshal(data, &s); err != nil {
			return s, fmt.Errorf("read settings: %s: %w", settingsFile, err)
		}
	}
	if s.Ceiling != fleet.ModeAct && s.Ceiling != fleet.ModeObserve {
		return s, fmt.Errorf("read settings: ceiling %q is neither %s nor %s", s.Ceiling, fleet.ModeObserve, fleet.ModeAct)
	}
	return s, nil
}

func (s Settings) store(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return writeDurably(filepath.Join(dir, settingsFile), append(data, '\n'), 0o644)
}

// parseCA reads the server's CA certificate and its SHA-256 in hex.
func parseCA(text string) (*x509.Certificate, string, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, "", errors.New("read CA: no PEM certificate")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, "", fmt.Errorf("read CA: %w", err)
	}
	return ca, certHash(ca), nil
}

func certHash(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
