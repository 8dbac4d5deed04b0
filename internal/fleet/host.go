// Package fleet holds the nouns of a fleet: hosts, their labels, and the
// selectors that choose among them.
package fleet

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// HostID names one host for ever: a lower-case ULID given out at enrolment.
// The alphabet is kept to [a-z0-9-] because ids become NATS subject tokens,
// and a token such as "*" would widen what a host may publish.
type HostID string

var hostIDPattern = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// ParseHostID accepts only ids that are safe as a subject token.
func ParseHostID(s string) (HostID, error) {
	if !hostIDPattern.MatchString(s) {
		return "", fmt.Errorf("parse host id %q: want 1 to 63 of a-z, 0-9 and -", s)
	}
	return HostID(s), nil
}

// Labels say what a host is: service, zone, rack, tier, hardware, cluster ...
type Labels map[string]string

// String prints the labels in key order: "rack=r1,zone=a".
func (l Labels) String() string {
	parts := make([]string, 0, len(l))
	for _, k := range slices.Sorted(maps.Keys(l)) {
		parts = append(parts, k+"="+l[k])
	}
	return strings.Join(parts, ",")
}

// Mode is how far an agent may go. Agents join in ModeObserve.
type Mode string

const (
	// ModeObserve reports and never acts.
	ModeObserve Mode = "observe"
	// ModeAct converges to the signed Desired.
	ModeAct Mode = "act"
)
