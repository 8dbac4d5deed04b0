package kit

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
)

// StoreGzip writes a value as packed JSON, whole or not at all. It is for what
// is derived from a kit and kept in its Cache folder: the file's name must
// change with the value's form.
func StoreGzip(file string, value any) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	z := gzip.NewWriter(f)
	if err := errors.Join(json.NewEncoder(z).Encode(value), z.Close(), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// LoadGzip reads what StoreGzip wrote.
func LoadGzip(file string, value any) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	return json.NewDecoder(z).Decode(value)
}
