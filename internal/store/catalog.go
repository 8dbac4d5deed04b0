package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"afloat/internal/bundle"
)

// BundleState says whether a bundle may be used.
type BundleState string

const (
	BundlePresent   BundleState = "present"
	BundleWithdrawn BundleState = "withdrawn" // for ever: hosts refuse its digest
)

// CatalogEntry is one bundle the server offers. Its manifest is what the
// publisher signed, but only hosts, which pin the publisher's key, trust it.
type CatalogEntry struct {
	Digest   bundle.Digest   `json:"digest"`
	Manifest bundle.Manifest `json:"manifest"`
	Size     int64           `json:"size"` // file, bytes
	// Signer is the id of the publisher's key, "" when the server was told of no keys.
	Signer    string      `json:"signer,omitempty"`
	State     BundleState `json:"state"`
	Added     time.Time   `json:"added"`
	By        string      `json:"by,omitempty"`
	Withdrawn time.Time   `json:"withdrawn,omitzero"`
	Reason    string      `json:"reason,omitempty"` // of the withdrawal
}

// AddBundle stores the file, then its entry. Adding the same bundle again
// changes nothing; a withdrawn one stays withdrawn and the error is ErrConflict.
func (s *Store) AddBundle(ctx context.Context, e CatalogEntry, file []byte) error {
	if got := bundle.DigestOf(file); got != e.Digest {
		return fmt.Errorf("add bundle: the file is %s, not %s", got, e.Digest)
	}
	if err := writeBundle(s.bundles, e.Digest, file); err != nil {
		return fmt.Errorf("add bundle: %w", err)
	}
	return change(ctx, s.catalog, e.Digest.Hex(), func(old CatalogEntry, found bool) (CatalogEntry, error) {
		switch {
		case found && old.State == BundleWithdrawn:
			return old, ErrConflict
		case found:
			return old, nil
		}
		return e, nil
	})
}

// ChangeBundle replaces a catalog entry by compare and swap.
func (s *Store) ChangeBundle(ctx context.Context, d bundle.Digest, fn func(CatalogEntry) (CatalogEntry, error)) error {
	return change(ctx, s.catalog, d.Hex(), func(old CatalogEntry, found bool) (CatalogEntry, error) {
		if !found {
			return old, ErrNotFound
		}
		return fn(old)
	})
}

// Catalog lists every bundle, withdrawn ones included.
func (s *Store) Catalog(ctx context.Context) ([]CatalogEntry, error) {
	return list[CatalogEntry](ctx, s.catalog)
}

// OpenBundle opens a bundle's file, or returns ErrNotFound.
func (s *Store) OpenBundle(d bundle.Digest) (*os.File, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	f, err := s.bundles.Open(d.Hex())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	return f, nil
}

// writeBundle puts a file under its digest so that it is whole or not there,
// also after a power cut.
func writeBundle(dir *os.Root, d bundle.Digest, file []byte) error {
	if _, err := dir.Stat(d.Hex()); err == nil {
		return nil
	}
	tmp := d.Hex() + ".tmp"
	f, err := dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(file)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := dir.Rename(tmp, d.Hex()); err != nil {
		return err
	}
	parent, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}
