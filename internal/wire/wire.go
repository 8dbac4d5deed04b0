// Package wire defines what travels between server and agent: the Report a
// host sends, the Desired and Permit a server signs, their subjects, and the
// strict decoding of both. Nothing here talks to a network.
package wire

import (
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/kernel"
)

// Version of the wire format. A decoder refuses any other.
const Version = 1

// Desired is what one host should be. It is level, not edge: sending it twice,
// late or out of order changes nothing, because Generation only grows.
type Desired struct {
	Version int          `json:"v"`
	Host    fleet.HostID `json:"host"`
	// Epoch of the leader that signed it. A host refuses an epoch below the
	// highest one in its journal.
	Epoch uint64 `json:"epoch"`
	// Generation grows with each change for this host, a revert included.
	Generation uint64 `json:"generation"`
	// Rollout that asked for it, "" when none did.
	Rollout string `json:"rollout,omitempty"`
	// Live is the digest of the live patch the host should run, "" for none.
	Live bundle.Digest `json:"live,omitempty"`
	// Kernel is the kernel the host should run, by release or package version,
	// "" to leave it as it is. A host that runs it already does not boot for it.
	Kernel string `json:"kernel,omitempty"`
	// Module, Replace and Restart name what ActionModule, ActionReplace and
	// ActionRestart are about: the module, the image, the unit.
	Module  string `json:"module,omitempty"`
	Replace string `json:"replace,omitempty"`
	Restart string `json:"restart,omitempty"`
	// Action is what Nonce orders, ActionLive when it orders nothing.
	Action Action `json:"action,omitempty"`
	// Nonce lets the host carry out Action once: a host never acts twice on one
	// nonce, whatever crashes or arrives again. Set if and only if Action is.
	Nonce string `json:"nonce,omitempty"`
	// Out: the host should be out of rotation. An Action that disrupts takes it
	// out and back in by itself, Out or not.
	Out bool `json:"out,omitempty"`
	// Mode the policy raises the host to. The host's own ceiling still wins.
	Mode fleet.Mode `json:"mode"`
	// Withdrawn lists the digests the host must refuse, whoever signed them.
	Withdrawn []bundle.Digest `json:"withdrawn,omitempty"`
}

// Permit lets the hosts of one rollout start something new for a while. It is
// signed once per period, not per host. Its time counts on the host's
// CLOCK_BOOTTIME from the moment the host's own request left, so wall clocks
// are never compared, and it dies with the boot.
type Permit struct {
	Version int    `json:"v"`
	Rollout string `json:"rollout"`
	Epoch   uint64 `json:"epoch"`
	// Seq only grows within an epoch; a lower one is a replay.
	Seq uint64 `json:"seq"`
	// TTL is how long the permit holds, in nanoseconds.
	TTL time.Duration `json:"ttl_ns"`
}

// Signed is a payload with the server's ed25519 signature over
// Context + "\n" + Payload. The context keeps a Permit from being read as a Desired.
type Signed struct {
	Context string `json:"context"`
	Payload []byte `json:"payload"`
	Sig     []byte `json:"sig"`
}

// Orders answers a host's request: its signed Desired, and the permit of the
// rollout it belongs to, if that rollout may start new work.
type Orders struct {
	Desired Signed  `json:"desired"`
	Permit  *Signed `json:"permit,omitempty"`
}

// Phase is where a host stands on its way to its Desired.
type Phase string

const (
	PhaseIdle      Phase = "idle"      // nothing asked, nothing loaded by afloat
	PhaseWaiting   Phase = "waiting"   // may not start yet: see Reason (no permit, observe mode, stop file)
	PhaseApplying  Phase = "applying"  // fetching, loading or in transition
	PhaseApplied   Phase = "applied"   // transition over, enabled, generation reached
	PhaseReverting Phase = "reverting" // taking a live patch off
	PhaseReverted  Phase = "reverted"  // taken off, generation reached
	PhaseFailed    Phase = "failed"    // tried, undone, see Reason
	PhaseRefused   Phase = "refused"   // not tried: signature, kernel, foreign patch ..., see Reason
	PhaseDraining  Phase = "draining"  // leaving rotation
	PhaseRebooting Phase = "rebooting" // the ordered action is under way, whichever it is
	PhaseVerifying Phase = "verifying" // acted; looking whether the host is what was ordered
	PhaseWarming   Phase = "warming"   // back in rotation, not yet at full strength
)

// LivePatch is one entry of /sys/kernel/livepatch.
type LivePatch struct {
	Name       string `json:"name"`
	Enabled    bool   `json:"enabled"`
	Transition bool   `json:"transition"`
	// Bundle is the digest afloat loaded it from, "" for a foreign live patch.
	Bundle bundle.Digest `json:"bundle,omitempty"`
	// Proven: transition done, probes passed, up for 10 minutes.
	Proven bool `json:"proven,omitempty"`
}

// CrashKind says what kind of evidence a Crash rests on.
type CrashKind string

const (
	CrashUnorderedBoot CrashKind = "unordered-boot" // the boot id changed and nobody asked for it
	CrashOops          CrashKind = "oops"           // an oops, BUG or panic in the kernel log
	CrashWarning       CrashKind = "warning"        // a WARN in the kernel log: shown, not counted by the cap
)

// Crash is one piece of crash evidence found by the host itself.
type Crash struct {
	// ID is stable across restarts of the agent, so that a repeated report is counted once.
	ID   string    `json:"id"`
	Kind CrashKind `json:"kind"`
	// Boot is the boot id in which it happened (for an unordered boot: the one that ended).
	Boot string `json:"boot"`
	// Live is the bundle that was loaded when it happened, "" for none.
	Live bundle.Digest `json:"live,omitempty"`
	// Signature is the hash of the top frames, the same for the same fault.
	Signature string `json:"signature,omitempty"`
	// Text is the first lines of the evidence, for people.
	Text string `json:"text,omitempty"`
}

// Report is what a host says it is. The host id in the subject, which the
// NATS server enforces, is the authority; the one in the body must agree.
type Report struct {
	Version int          `json:"v"`
	Host    fleet.HostID `json:"host"`
	// Seq grows with each report of one agent process run and boot.
	Seq        uint64       `json:"seq"`
	Agent      string       `json:"agent"` // agent version
	Name       string       `json:"name"`  // host name, for people only
	Kernel     kernel.ID    `json:"kernel"`
	Boot       string       `json:"boot"`     // boot id
	UptimeS    float64      `json:"uptime_s"` // seconds since boot (CLOCK_BOOTTIME)
	Labels     fleet.Labels `json:"labels,omitempty"`
	Mode       fleet.Mode   `json:"mode"`              // effective mode: min(ceiling, Desired.Mode)
	Stopped    bool         `json:"stopped,omitempty"` // /etc/afloat/stop is there
	Live       []LivePatch  `json:"live,omitempty"`
	Epoch      uint64       `json:"epoch"`      // highest epoch accepted
	Generation uint64       `json:"generation"` // generation this phase belongs to
	Phase      Phase        `json:"phase"`
	Reason     string       `json:"reason,omitempty"`
	// ApplyMS is how long the last load and transition took on this host, download excluded.
	ApplyMS int64 `json:"apply_ms,omitempty"`
	// UnpatchedMS is how long tasks ran without a live patch before the last one
	// was applied, because it could not replace the one before in one step.
	UnpatchedMS int64   `json:"unpatched_ms,omitempty"`
	Crashes     []Crash `json:"crashes,omitempty"` // all evidence of the last 7 days, oldest first, at most 32
	// Nonce is the last one whose action was carried out (for a boot, proved by
	// a new boot id) or had nothing left to do. "" before the first.
	Nonce string `json:"nonce,omitempty"`
	// Out: the host is out of rotation now.
	Out bool `json:"out,omitempty"`
	// Abilities are the actions this agent can carry out beside ActionLive;
	// none means only that one.
	Abilities []Action `json:"abilities,omitempty"`
	// Blind says why crash evidence of this boot cannot be seen, "" if it can.
	Blind string `json:"blind,omitempty"`
	// Refusals are orders and bundles this host turned down since its last acknowledged report.
	Refusals []Refusal `json:"refusals,omitempty"`
}

// Refusal is one thing the host would not do, for the server's audit.
type Refusal struct {
	ID     string        `json:"id"`   // stable, so that it is audited once
	What   string        `json:"what"` // "desired" or "bundle"
	Digest bundle.Digest `json:"digest,omitempty"`
	Reason string        `json:"reason"`
}
