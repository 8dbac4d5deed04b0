package enrol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

const (
	caLife     = 20 * 365 * 24 * time.Hour
	serverLife = 90 * 24 * time.Hour
	// clockSlack lets a host whose clock is behind still accept a new certificate.
	clockSlack = 24 * time.Hour
)

// CA is afloat's own certificate authority. It signs the server's certificate
// and nothing else: hosts prove themselves by nkey, not by certificate.
type CA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func generateCA() (key, cert []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make CA key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "afloat CA"},
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err = x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return nil, nil, fmt.Errorf("make CA certificate: %w", err)
	}
	key, err = x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("encode CA key: %w", err)
	}
	return key, cert, nil
}

func openCA(key, cert []byte) (*CA, error) {
	k, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("CA key: %w", err)
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("CA key: %T is not ecdsa", k)
	}
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	if !ec.PublicKey.Equal(c.PublicKey) {
		return nil, fmt.Errorf("CA certificate does not belong to the CA key")
	}
	return &CA{key: ec, cert: c}, nil
}

// Hash is the hex SHA-256 of the CA certificate's DER: what a join token pins.
func (ca *CA) Hash() string {
	sum := sha256.Sum256(ca.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// PEM is the CA certificate.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Pool trusts this CA and nothing else.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// TLS returns a server configuration whose certificate names the given hosts
// and addresses and is made anew before it expires. The chain ends with the CA
// certificate, so that a joining host can pin it by the token's hash.
func (ca *CA) TLS(names []string) *tls.Config {
	issuer := &issuer{ca: ca, names: names}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return issuer.current(time.Now())
		},
	}
}

type issuer struct {
	ca    *CA
	names []string

	mu   sync.Mutex // guards cert
	cert *tls.Certificate
}

// current returns the certificate in use, replacing it when a third of its life is left.
func (i *issuer) current(now time.Time) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cert != nil && now.Before(i.cert.Leaf.NotAfter.Add(-serverLife/3)) {
		return i.cert, nil
	}
	cert, err := i.ca.issue(i.names, now)
	if err != nil {
		return nil, err
	}
	i.cert = cert
	return cert, nil
}

func (ca *CA) issue(names []string, now time.Time) (*tls.Certificate, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issue server certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "afloat server"},
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(serverLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, k.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue server certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issue server certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: k, Leaf: leaf}, nil
}

// serial is 127 random bits: unguessable and never negative.
func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails: crypto/rand aborts the process instead
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}
