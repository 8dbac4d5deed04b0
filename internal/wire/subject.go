package wire

import (
	"fmt"
	"strings"

	"afloat/internal/fleet"
)

// Subjects. A host may publish only below afloat.up.<id> and subscribe only
// below afloat.down.<id> and its own inbox; the user JWT's scope enforces it.
const (
	upPrefix   = "afloat.up."
	downPrefix = "afloat.down."
	// AllReports, AllBeats and AllRequests are what the server listens to.
	AllReports  = upPrefix + "*.report"
	AllBeats    = upPrefix + "*.beat"
	AllRequests = upPrefix + "*.orders"
)

// ReportSubject is where a host publishes its Report (request: the server acknowledges).
func ReportSubject(id fleet.HostID) string { return upPrefix + string(id) + ".report" }

// BeatSubject is where a host publishes its heartbeat, a Beat.
func BeatSubject(id fleet.HostID) string { return upPrefix + string(id) + ".beat" }

// OrdersSubject is where a host asks for its Orders.
func OrdersSubject(id fleet.HostID) string { return upPrefix + string(id) + ".orders" }

// NudgeSubject wakes a host so that it asks for its Orders; its content does not matter.
func NudgeSubject(id fleet.HostID) string { return downPrefix + string(id) + ".nudge" }

// InboxPrefix keeps one host from reading another's replies.
func InboxPrefix(id fleet.HostID) string { return "_INBOX_" + string(id) }

// SubjectHost is the host an afloat.up subject belongs to.
func SubjectHost(subject string) (fleet.HostID, error) {
	rest, ok := strings.CutPrefix(subject, upPrefix)
	id, _, dotted := strings.Cut(rest, ".")
	if !ok || !dotted {
		return "", fmt.Errorf("read subject %q: not below %s<id>", subject, upPrefix)
	}
	return fleet.ParseHostID(id)
}
