package store

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"os"
	"testing"
)

func root(t *testing.T) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func newX25519(t *testing.T) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func backedUp(t *testing.T) (*ecdh.PrivateKey, []byte, map[string][]byte) {
	t.Helper()
	dir, key := root(t), newX25519(t)
	big := make([]byte, 3*chunkSize+17)
	rand.Read(big)
	files := map[string][]byte{"identity.json": []byte("secret"), "jetstream/a/b": big, "empty": {}}
	if err := dir.MkdirAll("jetstream/a", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := dir.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := dir.WriteFile("lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Backup(&out, key.PublicKey(), dir); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out.Bytes(), []byte("secret")) {
		t.Error("the backup can be read without the key")
	}
	return key, out.Bytes(), files
}

func TestBackupComesBack(t *testing.T) {
	key, backup, files := backedUp(t)
	dir := root(t)
	if err := Restore(bytes.NewReader(backup), key, dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := dir.ReadFile(name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d, %v", name, len(got), len(want), err)
		}
	}
	if _, err := dir.Stat("lock"); err == nil {
		t.Error("the lock was restored")
	}
}

func TestDamagedBackupIsRefused(t *testing.T) {
	key, backup, _ := backedUp(t)
	flipped := bytes.Clone(backup)
	flipped[len(flipped)/2] ^= 1
	chunk := 4 + chunkSize + 16
	head := len(backupMagic) + 32
	swapped := bytes.Clone(backup)
	copy(swapped[head:head+chunk], backup[head+chunk:head+2*chunk])
	copy(swapped[head+chunk:head+2*chunk], backup[head:head+chunk])
	for name, tc := range map[string]struct {
		data []byte
		key  *ecdh.PrivateKey
	}{
		"another key":          {backup, newX25519(t)},
		"flipped bit":          {flipped, key},
		"cut off":              {backup[:len(backup)-1], key},
		"last chunk left out":  {backup[:len(backup)-20], key},
		"chunks swapped":       {swapped, key},
		"first chunk left out": {append(bytes.Clone(backup[:head]), backup[head+chunk:]...), key},
		"no backup":            {[]byte("hello"), key},
		"nothing":              {nil, key},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Restore(bytes.NewReader(tc.data), tc.key, root(t)); !errors.Is(err, ErrBackup) {
				t.Errorf("err = %v, want ErrBackup", err)
			}
		})
	}
}

func FuzzRestore(f *testing.F) {
	f.Add([]byte(backupMagic))
	f.Add(append([]byte(backupMagic), make([]byte, 80)...))
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := Restore(bytes.NewReader(data), key, root(t)); err == nil {
			t.Error("a forged backup was restored")
		}
	})
}
