package cli

import (
	"slices"
	"testing"
	"time"

	"afloat/internal/api"
)

// TestDebtsAreLoud: who is late or overdue shows in the table, and why once a rollout.
func TestDebtsAreLoud(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	debts := []api.Debt{
		{Rollout: "r1", Due: now.Add(-time.Hour), Late: true, Outlook: "OVERDUE: 1 host"},
		{Rollout: "r1", Due: now.Add(time.Hour), Late: true, Outlook: "OVERDUE: 1 host"},
		{Rollout: "r1", Due: now.Add(2 * time.Hour)},
		{},
	}
	var got []string
	for _, d := range debts {
		got = append(got, due(d, now))
	}
	if want := []string{"2026-11-28T11:00:00Z OVERDUE", "2026-11-28T13:00:00Z LATE", "2026-11-28T14:00:00Z", "-"}; !slices.Equal(got, want) {
		t.Errorf("due %q, want %q", got, want)
	}
	if got, want := outlooks(debts), []string{"rollout r1: OVERDUE: 1 host"}; !slices.Equal(got, want) {
		t.Errorf("below the table %q, want %q", got, want)
	}
}
