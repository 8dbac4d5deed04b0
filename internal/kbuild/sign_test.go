package kbuild

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afloat/internal/kit"
	"afloat/internal/kit/kittest"
)

// moduleKey writes a key and its certificate.
func moduleKey(t *testing.T, name string) ModuleKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	m := ModuleKey{Key: filepath.Join(t.TempDir(), name+".key"), Cert: filepath.Join(t.TempDir(), name+".pem")}
	if err := errors.Join(
		os.WriteFile(m.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
		os.WriteFile(m.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644)); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSign(t *testing.T) {
	k := kittest.Open(t, "debian:6.1.0-55-cloud-amd64")
	key, other := moduleKey(t, "fleet"), moduleKey(t, "other")
	if subject, err := key.Check(); err != nil || subject != "CN=fleet" {
		t.Errorf("subject %q, %v", subject, err)
	}
	module := []byte("\x7fELF module")
	signed, err := Sign(t.Context(), k, key, module)
	if err != nil {
		t.Fatal(err)
	}
	content, cms, err := Signature(signed)
	if err != nil || !bytes.Equal(content, module) {
		t.Fatalf("what is signed is %q, %v", content, err)
	}
	verify := func(cert string, content []byte) error {
		dir := t.TempDir()
		c, s := filepath.Join(dir, "content"), filepath.Join(dir, "signature")
		if err := errors.Join(os.WriteFile(c, content, 0o600), os.WriteFile(s, cms, 0o600)); err != nil {
			t.Fatal(err)
		}
		return exec.Command("openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", s, "-content", c, "-noverify",
			"-certfile", cert, "-nointern", "-out", os.DevNull).Run()
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("the signature was not verified: ", err)
	}
	if err := verify(key.Cert, module); err != nil {
		t.Error("the signature does not verify: ", err)
	}
	if verify(key.Cert, []byte("another")) == nil || verify(other.Cert, module) == nil {
		t.Error("the signature verifies for another module, or another key")
	}
}

func TestSignRefuses(t *testing.T) {
	key, other := moduleKey(t, "fleet"), moduleKey(t, "other")
	for name, m := range map[string]ModuleKey{
		"no key": {"none.key", key.Cert}, "no cert": {key.Key, "none.pem"}, "cert as key": {key.Cert, key.Cert}, "key as cert": {key.Key, key.Key},
	} {
		_, err := m.Check()
		if _, ok := errors.AsType[*SignError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := Sign(t.Context(), &kit.Kit{Dir: t.TempDir()}, key, []byte("x"))
	if e, ok := errors.AsType[*SignError](err); !ok || !strings.Contains(e.Why, "CONFIG_MODULE_SIG_FORMAT") {
		t.Errorf("a kernel without signatures: %v", err)
	}
	k := kittest.Open(t, "debian:6.1.0-55-cloud-amd64")
	_, err = Sign(t.Context(), k, ModuleKey{key.Key, other.Cert}, []byte("x"))
	if _, ok := errors.AsType[*SignError](err); !ok {
		t.Errorf("key and certificate of two: %v", err)
	}
}

func FuzzSignature(f *testing.F) {
	trailer := append(append([]byte("module"), "sig"...), 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3)
	f.Add(append(trailer, sigMark...))
	f.Add([]byte(sigMark))
	f.Add([]byte("module"))
	f.Fuzz(func(t *testing.T, module []byte) {
		content, cms, err := Signature(module)
		if err == nil && len(content)+len(cms)+sigTrailer+len(sigMark) != len(module) {
			t.Errorf("%d bytes part into %d and %d", len(module), len(content), len(cms))
		}
	})
}
