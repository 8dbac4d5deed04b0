// Package health turns what hosts report into evidence: which crashes are new
// and which live patch they fall to, and for how long how many hosts have run
// that patch. It counts; it never judges.
package health

import (
	"slices"
	"strings"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// CrashSilent is a host that stayed silent after apply while its neighbours
// reported. No host reports it: the server infers it.
const CrashSilent wire.CrashKind = "silent"

// Crash is one piece of crash evidence, attributed.
type Crash struct {
	Host      fleet.HostID   `json:"host"`
	ID        string         `json:"id"`
	Kind      wire.CrashKind `json:"kind"`
	Signature string         `json:"signature,omitempty"`
	Text      string         `json:"text,omitempty"`
	// Live is the bundle that was loaded, "" for none.
	Live bundle.Digest `json:"live,omitempty"`
	// At is when it happened, as near as the server can tell: for a crash that
	// ended a boot, when the host was last heard in that boot. Not when it became
	// known: hosts that lose power together come back minutes apart.
	At time.Time `json:"at"`
	// Domains are what the host shares fate with: rack=r12.
	Domains []string `json:"domains,omitempty"`
}

// Counts says whether the crash counts: a warning is shown, not counted.
func (c Crash) Counts() bool { return c.Kind != wire.CrashWarning }

// maxText bounds what is kept of a crash's text, in bytes.
const maxText = 400

// Crashes returns the evidence in the report that is not in known, the ids of
// this host's earlier crashes. down is when the host was last heard before its
// present boot, zero if that is not known.
func Crashes(r wire.Report, known []string, labels fleet.Labels, down, now time.Time) []Crash {
	var out []Crash
	for _, c := range r.Crashes {
		if slices.Contains(known, c.ID) || slices.ContainsFunc(out, func(o Crash) bool { return o.ID == c.ID }) {
			continue
		}
		at := now
		if c.Boot != r.Boot && !down.IsZero() && down.Before(now) {
			at = down
		}
		out = append(out, Crash{Host: r.Host, ID: c.ID, Kind: c.Kind, Signature: c.Signature,
			Text: c.Text[:min(len(c.Text), maxText)], Live: c.Live, At: at, Domains: Domains(labels)})
	}
	return out
}

// Domains are the labels by which a host shares its fate with others, from the
// small domain to the big: rack=r12, zone=z1.
func Domains(labels fleet.Labels) []string {
	var out []string
	for _, key := range slices.Concat(small(), wide()) {
		if v := labels[key]; v != "" {
			out = append(out, key+"="+v)
		}
	}
	return out
}

// small are the domains of hosts that stand side by side, wide those that span racks.
func small() []string { return []string{"pdu", "rack", "switch", "power"} }

func wide() []string {
	return []string{"row", "room", "zone", "topology.kubernetes.io/zone", "datacenter", "dc", "region", "topology.kubernetes.io/region"}
}

// Wide says that a domain as Domains names it spans racks.
func Wide(domain string) bool {
	key, _, _ := strings.Cut(domain, "=")
	return slices.Contains(wide(), key)
}

// Runs says whether the report shows the bundle loaded, enabled and its transition over.
func Runs(r wire.Report, d bundle.Digest) bool {
	return slices.ContainsFunc(r.Live, func(l wire.LivePatch) bool {
		return l.Bundle == d && l.Enabled && !l.Transition
	})
}

// Foreign is the name of a live patch that afloat did not load, "" if there is none.
func Foreign(r wire.Report) string {
	for _, l := range r.Live {
		if l.Bundle == "" {
			return l.Name
		}
	}
	return ""
}
