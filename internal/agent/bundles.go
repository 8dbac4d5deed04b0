package agent

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"afloat/internal/bundle"
)

// bundles is the host's own store of bundle files, named by digest. It keeps
// what the host runs and what it ran before, so that both survive a dead server.
type bundles struct {
	dir        string // of the bundle files
	publishers string // folder of pinned public keys, *.pub
}

// get reads a bundle and verifies it from the file up: digest, form, payload, publisher.
// The error wraps fs.ErrNotExist, bundle.ErrDamaged or bundle.ErrUnknownPublisher.
func (s bundles) get(d bundle.Digest) (*bundle.Bundle, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	file, err := os.ReadFile(s.path(d))
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	return s.verify(d, file)
}

func (s bundles) verify(d bundle.Digest, file []byte) (*bundle.Bundle, error) {
	if got := bundle.DigestOf(file); got != d {
		return nil, fmt.Errorf("%w: content is %s, asked for %s", bundle.ErrDamaged, got.Short(), d.Short())
	}
	b, err := bundle.Decode(file)
	if err != nil {
		return nil, err
	}
	keys, err := s.keys()
	if err != nil {
		return nil, err
	}
	if _, err := b.Verify(keys); err != nil {
		return nil, err
	}
	return b, nil
}

// put verifies a bundle file and makes it durable. One that is there already
// was made durable when it came: each sync costs a host tens of milliseconds.
func (s bundles) put(d bundle.Digest, file []byte) (*bundle.Bundle, error) {
	b, err := s.verify(d, file)
	if err != nil {
		return nil, err
	}
	if there, err := os.ReadFile(s.path(d)); err == nil && bytes.Equal(there, file) {
		return b, syncDir(s.dir) // nothing to wait for, unless it came in the last moment before a kill
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("store bundle: %w", err)
	}
	if err := writeDurably(s.path(d), file, 0o600); err != nil {
		return nil, fmt.Errorf("store bundle: %w", err)
	}
	return b, nil
}

// keep removes every bundle that is not named.
func (s bundles) keep(digests []bundle.Digest) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tidy bundles: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !slices.Contains(digests, bundle.Digest("sha256:"+e.Name())) {
			errs = append(errs, os.Remove(filepath.Join(s.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// keys reads the pinned publishers. None at all is an empty list: then nothing verifies.
func (s bundles) keys() ([]ed25519.PublicKey, error) {
	entries, err := os.ReadDir(s.publishers)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read publishers: %w", err)
	}
	var keys []ed25519.PublicKey
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".pub") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.publishers, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read publishers: %w", err)
		}
		key, err := bundle.ParsePublicKey(data)
		if err != nil {
			return nil, fmt.Errorf("read publishers: %s: %w", e.Name(), err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (s bundles) path(d bundle.Digest) string { return filepath.Join(s.dir, d.Hex()) }
