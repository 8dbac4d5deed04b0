package kbuild

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"afloat/internal/kit"
)

// ModuleKey signs modules for kernels that want them signed (Secure Boot,
// module.sig_enforce). It is not the publisher's key: hosts' kernels trust it.
type ModuleKey struct {
	Key  string // PEM file, or a pkcs11: URI
	Cert string // X.509 certificate, PEM or DER
}

// SignError says why a module could not be signed.
type SignError struct {
	Place string // file, or the kernel
	Why   string
}

func (e *SignError) Error() string {
	return fmt.Sprintf("cannot sign the module: %s: %s", e.Place, e.Why)
}

// Check makes sure that key and certificate can be read, and returns the
// certificate's subject. Errors are a *SignError.
func (m ModuleKey) Check() (subject string, err error) {
	if !strings.HasPrefix(m.Key, "pkcs11:") {
		key, err := os.ReadFile(m.Key)
		if err != nil {
			return "", &SignError{m.Key, err.Error()}
		}
		if block, _ := pem.Decode(key); block == nil || !strings.Contains(block.Type, "PRIVATE KEY") {
			return "", &SignError{m.Key, "no private key in PEM"}
		}
	}
	der, err := os.ReadFile(m.Cert)
	if err != nil {
		return "", &SignError{m.Cert, err.Error()}
	}
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return "", &SignError{m.Cert, err.Error()}
	}
	return cert.Subject.String(), nil
}

// Sign returns the module with a signature in the format of the kernel's own
// build: CMS, detached, and a trailer (Documentation/admin-guide/module-signing.rst).
// The kit's sign-file makes it, which also reads keys from tokens; a key's
// passphrase is taken from KBUILD_SIGN_PIN. Errors are a *SignError where it cannot be done.
func Sign(ctx context.Context, k *kit.Kit, m ModuleKey, module []byte) ([]byte, error) {
	tool := filepath.Join(k.Source(), "scripts/sign-file")
	if _, err := os.Stat(tool); err != nil {
		return nil, &SignError{k.Release(), "its kernel knows no signatures (CONFIG_MODULE_SIG_FORMAT is not set)"}
	}
	work, err := os.MkdirTemp("", "afloat-sign-")
	if err != nil {
		return nil, fmt.Errorf("sign module: %w", err)
	}
	defer os.RemoveAll(work)
	file := filepath.Join(work, "module.ko")
	if err := os.WriteFile(file, module, 0o600); err != nil {
		return nil, fmt.Errorf("sign module: %w", err)
	}
	cmd := exec.CommandContext(ctx, tool, k.SignatureHash(), m.Key, m.Cert, file)
	cmd.Env = kit.Environ(os.Environ())
	if pin, ok := os.LookupEnv("KBUILD_SIGN_PIN"); ok {
		cmd.Env = append(cmd.Env, "KBUILD_SIGN_PIN="+pin)
	}
	said, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		return nil, &SignError{m.Key, strings.TrimSpace(string(said))}
	}
	if err != nil {
		return nil, fmt.Errorf("sign module: %w", err)
	}
	signed, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("sign module: %w", err)
	}
	if _, _, err := Signature(signed); err != nil {
		return nil, fmt.Errorf("sign module: %w", err)
	}
	return signed, nil
}

const (
	// sigMark ends a signed module, after a struct module_signature of 12 bytes
	// (include/linux/module_signature.h), whose last four are the length of what is before it.
	sigMark    = "~Module signature appended~\n"
	sigTrailer = 12
	idPKCS7    = 2 // PKEY_ID_PKCS7
)

// ErrUnsigned says that a module carries no signature.
var ErrUnsigned = errors.New("module is not signed")

// Signature parts a signed module into what is signed and the CMS signature
// over it. Errors wrap ErrUnsigned where there is none.
func Signature(module []byte) (content, cms []byte, err error) {
	rest, ok := strings.CutSuffix(string(module), sigMark)
	if !ok {
		return nil, nil, ErrUnsigned
	}
	if len(rest) < sigTrailer {
		return nil, nil, errors.New("module's signature is cut")
	}
	trailer := rest[len(rest)-sigTrailer:]
	size := int64(binary.BigEndian.Uint32([]byte(trailer[8:])))
	at := int64(len(rest)-sigTrailer) - size
	if trailer[2] != idPKCS7 || size == 0 || at < 0 {
		return nil, nil, fmt.Errorf("module's signature has kind %d and %d bytes", trailer[2], size)
	}
	return module[:at], module[at : at+size], nil
}
