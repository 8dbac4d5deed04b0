package bundle

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"afloat/internal/kernel"
)

// key is a fixed key pair per seed, so that failures repeat.
func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func manifest() Manifest {
	return Manifest{
		Kind: KindLive, Name: "2026-11-ext4", CVEs: []string{"CVE-2026-1"}, Module: "afloat_2026_11_ext4", Replace: true,
		Kernel:    kernel.ID{Release: "6.1.0-55-amd64", Version: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-30)", BuildID: strings.Repeat("ab", 20)},
		Functions: []Function{{Object: "ext4", Name: "ext4_mb_new_blocks", Sympos: 1}},
		Sources:   []Source{{Name: "fix.patch", SHA256: strings.Repeat("0", 64), Diff: "--- a\n+++ b\n"}},
		Created:   time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC),
	}
}

func seal(t testing.TB, m Manifest, payload []byte) []byte {
	t.Helper()
	file, err := Seal(key(1), m, payload)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRoundTrip(t *testing.T) {
	payload := []byte("\x7fELF and so on")
	b, err := Decode(seal(t, manifest(), payload))
	if err != nil {
		t.Fatal(err)
	}
	want := manifest()
	want.Size, want.SHA256 = int64(len(payload)), hexSum(payload)
	if diff := cmp.Diff(want, b.Manifest); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
	if !bytes.Equal(b.Payload, payload) {
		t.Errorf("payload %q, want %q", b.Payload, payload)
	}
	signer, err := b.Verify([]ed25519.PublicKey{public(key(2)), public(key(1))})
	if err != nil || !signer.Equal(public(key(1))) {
		t.Errorf("Verify = %x, %v; want the first key", signer, err)
	}
}

func TestVerifyRefusesOthers(t *testing.T) {
	b, err := Decode(seal(t, manifest(), nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string][]ed25519.PublicKey{
		"no key":    nil,
		"other key": {public(key(2))},
		"short key": {public(key(1))[:16]},
		"empty key": {{}},
	} {
		if _, err := b.Verify(keys); !errors.Is(err, ErrUnknownPublisher) {
			t.Errorf("%s: Verify = %v, want ErrUnknownPublisher", name, err)
		}
	}
}

// TestAnyFlippedBitIsSeen flips one bit anywhere in the file: the bundle must
// then fail to decode, or fail to verify.
func TestAnyFlippedBitIsSeen(t *testing.T) {
	file := seal(t, manifest(), bytes.Repeat([]byte("module"), 100))
	rapid.Check(t, func(t *rapid.T) {
		bit := rapid.IntRange(0, len(file)*8-1).Draw(t, "bit")
		bad := bytes.Clone(file)
		bad[bit/8] ^= 1 << (bit % 8)
		b, err := Decode(bad)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("bit %d: %v does not wrap ErrDamaged", bit, err)
			}
			return
		}
		if _, err := b.Verify([]ed25519.PublicKey{public(key(1))}); err == nil {
			t.Fatalf("bit %d flipped and nobody saw it", bit)
		}
	})
}

func TestSealRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Manifest){
		"kind":        func(m *Manifest) { m.Kind = "firmware" },
		"empty name":  func(m *Manifest) { m.Name = "" },
		"path name":   func(m *Manifest) { m.Name = "../../etc" },
		"module name": func(m *Manifest) { m.Module = "a-b" },
		"long module": func(m *Manifest) { m.Module = strings.Repeat("m", 56) },
		"no build id": func(m *Manifest) { m.Kernel.BuildID = "" },
		"no version":  func(m *Manifest) { m.Kernel.Version = " " },
		"reboot":      func(m *Manifest) { m.Reboot = "soon" },
		"built on":    func(m *Manifest) { m.On = "sha256:1" },
	} {
		m := manifest()
		spoil(&m)
		if _, err := Seal(key(1), m, nil); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
}

func TestDigest(t *testing.T) {
	d := DigestOf([]byte("x"))
	if err := d.Validate(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Digest{"", "sha256:", d + "0", Digest(strings.ToUpper(string(d))), "sha256:" + Digest(strings.Repeat("../", 22))[:64]} {
		if bad.Validate() == nil {
			t.Errorf("digest %q is taken", bad)
		}
	}
}

func TestKeysRoundTrip(t *testing.T) {
	priv, pub, err := EncodeKeys(key(3))
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParsePrivateKey(priv)
	if err != nil || !k.Equal(key(3)) {
		t.Errorf("ParsePrivateKey: %v", err)
	}
	p, err := ParsePublicKey(pub)
	if err != nil || !p.Equal(public(key(3))) {
		t.Errorf("ParsePublicKey: %v", err)
	}
	if _, err := ParsePublicKey(priv); err == nil {
		t.Error("a private key is taken for a public one")
	}
	if _, err := ParsePrivateKey([]byte("nothing")); err == nil {
		t.Error("text is taken for a key")
	}
	if len(KeyID(p)) != 16 || KeyID(p) == KeyID(public(key(1))) {
		t.Errorf("KeyID = %q", KeyID(p))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(seal(f, manifest(), []byte("payload")))
	f.Add([]byte(magic))
	f.Add([]byte(magic + "\xff\xff\xff\xff{}"))
	f.Fuzz(func(t *testing.T, file []byte) {
		b, err := Decode(file)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("%v does not wrap ErrDamaged", err)
			}
			return
		}
		if err := b.Manifest.validate(); err != nil {
			t.Errorf("decoded an invalid manifest: %v", err)
		}
		_, _ = b.Verify([]ed25519.PublicKey{public(key(1))})
	})
}

func FuzzKeys(f *testing.F) {
	priv, pub, err := EncodeKeys(key(3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(priv)
	f.Add(pub)
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := ParsePrivateKey(data); err == nil && len(k) != ed25519.PrivateKeySize {
			t.Errorf("private key of %d bytes", len(k))
		}
		if k, err := ParsePublicKey(data); err == nil && len(k) != ed25519.PublicKeySize {
			t.Errorf("public key of %d bytes", len(k))
		}
	})
}

// TestStricterReboot: of two words about reboots the stricter counts.
func TestStricterReboot(t *testing.T) {
	order := []Reboot{"", RebootPromptly, RebootRequired}
	for i, a := range order {
		for j, b := range order {
			if got, want := a.Stricter(b), order[max(i, j)]; got != want {
				t.Errorf("the stricter of %q and %q is %q, want %q", a, b, got, want)
			}
		}
	}
}
