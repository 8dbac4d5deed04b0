package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/wire"
)

// maxBundle bounds a download: the largest bundle file there can be.
const maxBundle = bundle.MaxManifest + bundle.MaxPayload + 1024

// skewNamed is the clock difference from which on errors name it.
const skewNamed = time.Minute

// web talks HTTPS to the server. It trusts one CA and nothing else.
type web struct {
	base   string // https://host:port
	client *http.Client
}

func newWeb(base string, conf *tls.Config) *web {
	return &web{base: strings.TrimSuffix(base, "/"), client: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: conf, ForceAttemptHTTP2: false, MaxIdleConns: 1, IdleConnTimeout: 30 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second, Proxy: http.ProxyFromEnvironment,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// pinnedTLS trusts exactly the CA that the host got when it joined.
func pinnedTLS(id Identity) (*tls.Config, error) {
	ca, _, err := parseCA(id.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}, nil
}

// tokenTLS trusts a chain only if its root is the certificate whose hash the
// join token carries. The chain holds its root, as its last certificate.
func tokenTLS(caHash string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The usual verification is replaced by a stricter one, not left out.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			root := s.PeerCertificates[len(s.PeerCertificates)-1]
			if got := certHash(root); got != caHash {
				return fmt.Errorf("cannot trust the server: its CA is %.16s, the join token names %.16s", got, caHash)
			}
			if !root.IsCA {
				return errors.New("cannot trust the server: the certificate that the join token names is no CA")
			}
			opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), DNSName: s.ServerName}
			opts.Roots.AddCert(root)
			for _, c := range s.PeerCertificates[1:] {
				opts.Intermediates.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(opts)
			return err
		},
	}
}

// post sends a JSON value and reads one.
func (w *web) post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return w.exchange(ctx, http.MethodPost, path, body, out)
}

func (w *web) exchange(ctx context.Context, method, path string, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	data, err := w.do(ctx, method, path, body, wire.MaxMessage)
	if err != nil {
		return err
	}
	return wire.Decode(data, out)
}

// bundle downloads a bundle file. What it returns is not verified.
func (w *web) bundle(ctx context.Context, d bundle.Digest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	return w.do(ctx, http.MethodGet, wire.PathBundle+string(d), nil, maxBundle)
}

func (w *web) do(ctx context.Context, method, path string, body []byte, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = fmt.Errorf("reach the server at %s: %w", w.base, e.Err)
		}
		return nil, nameClock(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return nil, statusError(resp, strings.TrimSpace(string(text)))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s %s: more than %d bytes", method, path, limit)
	}
	return data, nil
}

func statusError(resp *http.Response, text string) error {
	err := fmt.Errorf("server answers %s: %s", resp.Status, text)
	if skew := skewOf(resp.Header.Get("Date")); skew != "" {
		err = fmt.Errorf("%w (%s)", err, skew)
	}
	return err
}

func skewOf(date string) string {
	server, err := http.ParseTime(date)
	if err != nil {
		return ""
	}
	return skewText(time.Since(server))
}

// skewText names the difference of this host's clock to the server's, if it is large.
func skewText(ahead time.Duration) string {
	switch {
	case ahead > skewNamed:
		return fmt.Sprintf("this host's clock is %s ahead of the server's", ahead.Round(time.Second))
	case ahead < -skewNamed:
		return fmt.Sprintf("this host's clock is %s behind the server's", (-ahead).Round(time.Second))
	}
	return ""
}

// nameClock adds the host's time to a certificate error that a wrong clock explains.
func nameClock(err error) error {
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return fmt.Errorf("%w (this host's clock says %s: is it right?)", err, time.Now().UTC().Format(time.RFC3339))
	}
	return err
}
