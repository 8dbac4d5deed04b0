// Package bundle encodes, decodes, signs and verifies the file that carries one
// live patch from its publisher to the hosts. The publisher's key signs the
// manifest, and the manifest holds the payload's hash; the server never has that key.
//
// The file is, in this order: the magic line, the manifest's length (4 bytes,
// big endian), the manifest (JSON), the ed25519 signature over magic and
// manifest (64 bytes), the payload (to the end).
package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"afloat/internal/kernel"
)

const (
	magic = "afloat-bundle/1\n"
	// MaxManifest and MaxPayload bound what a decoder reads, in bytes.
	MaxManifest = 4 << 20
	MaxPayload  = 64 << 20
)

// Sentinels that callers branch on.
var (
	// ErrUnknownPublisher: the signature is by none of the pinned keys.
	ErrUnknownPublisher = errors.New("signed by no publisher this host trusts")
	// ErrDamaged: the file is not what its publisher signed, or not a bundle at all.
	ErrDamaged = errors.New("bundle is damaged")
)

// Digest names a bundle by its content: "sha256:" and 64 lower-case hex digits of the whole file.
type Digest string

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Validate refuses anything that is not a whole digest, so that a digest is safe in a path or URL.
func (d Digest) Validate() error {
	if !digestPattern.MatchString(string(d)) {
		return fmt.Errorf("digest %q is not sha256: and 64 hex digits", string(d))
	}
	return nil
}

// Hex is the digest without its "sha256:" prefix.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// Short is the head of the digest, for people.
func (d Digest) Short() string { return fmt.Sprintf("%.12s", d.Hex()) }

// DigestOf returns the digest of a whole bundle file.
func DigestOf(file []byte) Digest { return Digest("sha256:" + hexSum(file)) }

// Kind says what the payload is.
type Kind string

// KindLive is a livepatch kernel module.
const KindLive Kind = "live"

// Reboot is how soon a reboot must follow a live patch, by its publisher's
// word; "" for when it suits.
type Reboot string

const (
	// RebootPromptly: the live patch stops the bug, but memory may be damaged already.
	RebootPromptly Reboot = "promptly"
	// RebootRequired: no live patch is enough. A kernel it was made for takes no
	// later ones: hosts boot another kernel first.
	RebootRequired Reboot = "required"
)

// ParseReboot reads what people write; "" is one of them.
func ParseReboot(s string) (Reboot, error) {
	switch r := Reboot(s); r {
	case "", RebootPromptly, RebootRequired:
		return r, nil
	}
	return "", fmt.Errorf("reboot %q: want %s or %s", s, RebootPromptly, RebootRequired)
}

// Stricter is the stricter of two.
func (r Reboot) Stricter(o Reboot) Reboot {
	if r == RebootRequired || o == "" {
		return r
	}
	return o
}

// Manifest is what the publisher signs.
type Manifest struct {
	Kind Kind `json:"kind"`
	// Name of the patch set this bundle belongs to, the same for every kernel: 2026-11-ext4.
	Name string   `json:"name"`
	CVEs []string `json:"cves,omitempty"`
	// Reboot is how soon one must follow.
	Reboot Reboot `json:"reboot,omitempty"`
	// Kernel is the one exact build the payload was made for.
	Kernel kernel.ID `json:"kernel"`
	// Module is the payload's kernel module name, as sysfs shows it.
	Module  string `json:"module"`
	Size    int64  `json:"size"`   // payload, bytes
	SHA256  string `json:"sha256"` // payload, hex
	Replace bool   `json:"replace"`
	// Functions that the live patch replaces.
	Functions []Function `json:"functions"`
	// Callbacks are functions of the patch's author that the kernel calls when
	// the live patch is applied or taken off.
	Callbacks []Callback `json:"callbacks,omitempty"`
	// States are what it changes beyond code: the kernel lets it be replaced
	// only by one that has them all, none in a lower version.
	States []State `json:"states,omitempty"`
	// Waivers are what the author set aside against the builder's judgement.
	Waivers []Waiver `json:"waivers,omitempty"`
	// KlpSymbols is the number of symbols resolved at load time: load time grows with it.
	KlpSymbols int `json:"klp_symbols"`
	// Sources are the diffs, oldest first; a cumulative live patch lists every earlier one.
	Sources []Source `json:"sources"`
	// On is the bundle that this one was built on: its sources come first here. "" for none.
	On       Digest    `json:"on,omitempty"`
	Evidence Evidence  `json:"evidence"`
	Created  time.Time `json:"created"`
}

// Function is one replaced function.
type Function struct {
	Object string `json:"object"` // vmlinux or a module's name
	Name   string `json:"name"`
	Sympos int    `json:"sympos"` // klp_func.old_sympos
}

// Callback is one function that the kernel calls; Kind is its member in struct klp_callbacks.
type Callback struct {
	Object   string `json:"object"`
	Kind     string `json:"kind"`
	Function string `json:"function"`
	Source   string `json:"source,omitempty"` // file:line that names it
}

// State is one klp_state.
type State struct {
	ID      uint64 `json:"id"`
	Version uint32 `json:"version"`
}

// Waiver is an author's statement, with the reason: "ignore data", of fs/exec.c's limit.
type Waiver struct {
	Kind   string `json:"kind"`
	Of     string `json:"of"`
	Reason string `json:"reason"`
	Source string `json:"source,omitempty"` // file:line
}

// Source is one diff that went in.
type Source struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Diff   string `json:"diff"`
}

// Evidence is what the builder found out, for whoever decides to trust the bundle.
type Evidence struct {
	Kit      string   `json:"kit"`                 // debian:6.1.0-55-amd64
	Compiler string   `json:"compiler"`            // first line of gcc --version
	Objects  []string `json:"objects"`             // recompiled objects
	Proof    []string `json:"proof,omitempty"`     // what was compared with the shipped kernel, in sentences
	BootTest []string `json:"boot_test,omitempty"` // what the exact kernel did with it in a virtual machine, in sentences
	BuildMS  int64    `json:"build_ms,omitempty"`  // wall time of the build
	NextBoot []string `json:"next_boot,omitempty"` // changed functions that ran at boot in their old form: not in effect before the next one
	// LoadMS is how long the module took to load in the boot test, in
	// milliseconds without hardware virtualisation; 0 where none was run.
	LoadMS int64    `json:"load_ms,omitempty"`
	Notes  []string `json:"notes,omitempty"` // what else the build found, in sentences
	// LivePatching is what the kernel's configuration has for live patching, in a sentence.
	LivePatching string `json:"live_patching,omitempty"`
	// Risks are what may go wrong although the live patch is right.
	Risks []Risk `json:"risks,omitempty"`
}

// RiskKind says what a risk is about.
type RiskKind string

// The kinds of risks.
const (
	// RiskStuck: the transition cannot end while a certain thread lives.
	RiskStuck RiskKind = "stuck"
	// RiskStall: the transition waits for tasks that sleep in the function.
	RiskStall RiskKind = "stall"
	// RiskUntraced: the function's callers include some that ftrace cannot redirect.
	RiskUntraced RiskKind = "untraced-caller"
	// RiskHot: the function is hot in a profile.
	RiskHot RiskKind = "hot"
	// RiskUnreliable: the kernel cannot tell reliably what is on a sleeping task's stack.
	RiskUnreliable RiskKind = "unreliable-stack"
	// RiskSupport: the kernel's vendor no longer repairs it.
	RiskSupport RiskKind = "support"
)

// Risk is a fact about a live patch that a person should weigh before a rollout.
type Risk struct {
	Kind     RiskKind `json:"kind"`
	Function string   `json:"function,omitempty"` // object:name, where one function is meant
	Why      string   `json:"why"`
}

// Bundle is a decoded bundle. Nothing in it may be trusted before Verify.
type Bundle struct {
	Manifest Manifest
	Payload  []byte
	raw      []byte // manifest as signed
	sig      []byte
}

// Seal fills in the payload's size and hash, signs, and returns the file.
func Seal(key ed25519.PrivateKey, m Manifest, payload []byte) ([]byte, error) {
	m.Size, m.SHA256 = int64(len(payload)), hexSum(payload)
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("seal bundle: %w", err)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("seal bundle: %w", err)
	}
	if len(raw) > MaxManifest || len(payload) > MaxPayload {
		return nil, fmt.Errorf("seal bundle: manifest %d or payload %d bytes is too large", len(raw), len(payload))
	}
	var b bytes.Buffer
	b.WriteString(magic)
	b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(raw))))
	b.Write(raw)
	b.Write(ed25519.Sign(key, signed(raw)))
	b.Write(payload)
	return b.Bytes(), nil
}

// Decode reads a bundle file. It checks the form and the payload's hash, but
// not who signed it: that is Verify. Every error wraps ErrDamaged.
func Decode(file []byte) (*Bundle, error) {
	b, err := decode(file)
	if err != nil {
		return nil, fmt.Errorf("decode bundle: %w: %w", ErrDamaged, err)
	}
	return b, nil
}

func decode(file []byte) (*Bundle, error) {
	rest, ok := bytes.CutPrefix(file, []byte(magic))
	if !ok {
		return nil, errors.New("does not begin with " + strings.TrimSpace(magic))
	}
	if len(rest) < 4 {
		return nil, io.ErrUnexpectedEOF
	}
	n := int64(binary.BigEndian.Uint32(rest))
	rest = rest[4:]
	if n > MaxManifest || int64(len(rest)) < n+ed25519.SignatureSize {
		return nil, fmt.Errorf("manifest of %d bytes does not fit", n)
	}
	b := &Bundle{raw: rest[:n], sig: rest[n : n+ed25519.SignatureSize], Payload: rest[n+ed25519.SignatureSize:]}
	dec := json.NewDecoder(bytes.NewReader(b.raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b.Manifest); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if err := b.Manifest.validate(); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if int64(len(b.Payload)) != b.Manifest.Size || hexSum(b.Payload) != b.Manifest.SHA256 {
		return nil, errors.New("payload is not the one the manifest names")
	}
	return b, nil
}

// Verify returns the key that signed the bundle, or ErrUnknownPublisher. A key
// of the wrong size is no key.
func (b *Bundle) Verify(publishers []ed25519.PublicKey) (ed25519.PublicKey, error) {
	for _, key := range publishers {
		if len(key) == ed25519.PublicKeySize && ed25519.Verify(key, signed(b.raw), b.sig) {
			return key, nil
		}
	}
	return nil, fmt.Errorf("verify bundle %s: %w", b.Manifest.Name, ErrUnknownPublisher)
}

var (
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	modulePattern = regexp.MustCompile(`^[A-Za-z0-9_]{1,55}$`)
)

func (m Manifest) validate() error {
	switch {
	case m.Kind != KindLive:
		return fmt.Errorf("kind %q is not known", m.Kind)
	case !namePattern.MatchString(m.Name):
		return fmt.Errorf("name %q: want 1 to 64 letters, digits, dots, dashes", m.Name)
	case !modulePattern.MatchString(m.Module):
		return fmt.Errorf("module name %q: want 1 to 55 letters, digits, underscores", m.Module)
	case m.Size < 0 || m.Size > MaxPayload:
		return fmt.Errorf("payload size %d", m.Size)
	}
	if _, err := ParseReboot(string(m.Reboot)); err != nil {
		return err
	}
	if m.On != "" {
		if err := m.On.Validate(); err != nil {
			return fmt.Errorf("built on: %w", err)
		}
	}
	return m.Kernel.Validate()
}

func signed(manifest []byte) []byte { return append([]byte(magic), manifest...) }

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
