package policy

import (
	"time"

	"afloat/internal/fleet"
)

// Budget bounds what may be unavailable or started at once, in each group of
// the hosts it selects, those that the policy does not select included. Any host
// that is down uses it, whoever took it down.
// Every bound that is set holds.
type Budget struct {
	Name    string
	Select  fleet.Selector
	GroupBy string // label; "" makes one group
	// Unavailable is how many hosts of a group may be out at once.
	Unavailable Amount
	// Domains is how many groups may have a host out at once, 0 for no bound.
	Domains int
	// Warm is how long a host counts as out after it is back: its cache is cold.
	Warm time.Duration
	// Starts bounds how many hosts of a group start in a sliding time.
	Starts Rate
	// Headroom, from 0 to 1, is the load that the rest of a group may at most
	// carry when hosts are out; 0 for no bound. Load says what a group carries now.
	Headroom float64
	// Load is the label whose value is a host's load as a share of its capacity
	// (0.9 or 90%), used with Headroom.
	Load string
	// Order bounds pairs and like groups: at most one of a group may be out, and
	// the label that it names says who goes first ("passive" before "active").
	Order string
	// Disruptions bounds how many starts a group may see in a time (SLO over time).
	Disruptions Rate
}

// Caps says that the budget bounds how many hosts of a group may be out at once.
func (b *Budget) Caps() bool { return !b.Unavailable.Zero() || b.Headroom > 0 || b.Order != "" }

// parts says that the budget keeps the hosts of a group from going together:
// what holds each other's data or stands in for each other does so in an
// emergency too, so that its Unavailable never grows.
func (b *Budget) parts() bool {
	return b.GroupBy != "" || b.Order != "" || b.Domains > 0 || b.Unavailable.Quorum
}

// Guards says that no hurry may spend the budget, neither on the way nor on the
// way back: a quorum, an order, domains, or one at a time of each group.
func (b *Budget) Guards() bool {
	return b.Unavailable.Quorum || b.Order != "" || b.Domains > 0 || b.GroupBy != "" && b.Unavailable == (Amount{N: 1})
}
