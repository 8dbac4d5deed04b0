// Package api holds the JSON types of the operator API: what the server's
// socket answers and what the command line asks. Types that already travel
// elsewhere (audit.Record, bundle.Manifest) are used as they are.
package api

import (
	"time"

	"afloat/internal/audit"
	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/wire"
)

// Paths of the operator API, all on the local socket.
const (
	PathStatus      = "/v1/status"
	PathHosts       = "/v1/hosts"
	PathHostMode    = "/v1/hosts/mode"
	PathHostRevoke  = "/v1/hosts/revoke"
	PathHostRelease = "/v1/hosts/release"
	PathExplain     = "/v1/hosts/explain"
	PathDebts       = "/v1/debts"
	PathTook        = "/v1/took"
	PathTokens      = "/v1/tokens"
	PathTokenRevoke = "/v1/tokens/revoke"
	PathBundles     = "/v1/bundles"
	PathWithdraw    = "/v1/bundles/withdraw"
	PathRollouts    = "/v1/rollouts"
	PathRollout     = "/v1/rollouts/one"
	PathRolloutDo   = "/v1/rollouts/do"
	PathAudit       = "/v1/audit"
)

// Error is every answer that is not a success.
type Error struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

// Status is the server in a few lines.
type Status struct {
	Version   string   `json:"version"`
	Epoch     uint64   `json:"epoch"`
	CAHash    string   `json:"ca_hash"`
	HTTPS     []string `json:"https"` // URLs under which hosts reach the server
	NATS      []string `json:"nats"`
	Hosts     int      `json:"hosts"`
	Connected int      `json:"connected"`
	// Held is why the server decides nothing now, "" when it does.
	Held string `json:"held,omitempty"`
}

// Host is one enrolled host.
type Host struct {
	ID     fleet.HostID `json:"id"`
	Name   string       `json:"name"`
	Labels fleet.Labels `json:"labels"`
	// Mode that the server raises the host to; Report.Mode is what it does.
	Mode   fleet.Mode `json:"mode"`
	Joined time.Time  `json:"joined"`
	Seen   time.Time  `json:"seen,omitzero"`
	// Silent: it was not heard of for two minutes, or never.
	Silent bool         `json:"silent"`
	Report *wire.Report `json:"report,omitempty"`
}

// HostMode asks to set the mode of the selected hosts.
type HostMode struct {
	Select string     `json:"select"`
	Mode   fleet.Mode `json:"mode"`
}

// Changed answers HostMode.
type Changed struct {
	Hosts []fleet.HostID `json:"hosts"`
}

// Named asks for something to be done to one thing, with the reason for the audit.
type Named struct {
	ID     string `json:"id"`
	Reason string `json:"reason,omitempty"`
}

// NewToken asks for a join token.
type NewToken struct {
	TTLSeconds int64        `json:"ttl_s,omitempty"` // 0: one hour
	Uses       int          `json:"uses,omitempty"`  // 0: one
	Mode       fleet.Mode   `json:"mode,omitempty"`  // "": observe
	Labels     fleet.Labels `json:"labels,omitempty"`
}

// TokenMade answers NewToken. Token is the only place where the secret is ever shown.
type TokenMade struct {
	ID      string    `json:"id"`
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
	Server  string    `json:"server"` // URL for afloat-agent join
	Join    string    `json:"join"`   // the whole command
}

// Token is a join token without its secret.
type Token struct {
	ID      string         `json:"id"`
	State   string         `json:"state"` // valid, used up, expired or revoked
	Created time.Time      `json:"created"`
	Expires time.Time      `json:"expires"`
	Uses    int            `json:"uses"`
	Mode    fleet.Mode     `json:"mode"`
	Labels  fleet.Labels   `json:"labels,omitempty"`
	By      string         `json:"by"`
	Hosts   []fleet.HostID `json:"hosts"` // that redeemed it
}

// Bundle is one entry of the catalog.
type Bundle struct {
	Digest    bundle.Digest   `json:"digest"`
	State     string          `json:"state"` // present or withdrawn
	Size      int64           `json:"size"`
	Signer    string          `json:"signer,omitempty"`
	Added     time.Time       `json:"added"`
	By        string          `json:"by"`
	Withdrawn time.Time       `json:"withdrawn,omitzero"`
	Reason    string          `json:"reason,omitempty"`
	Manifest  bundle.Manifest `json:"manifest"`
}

// AuditPage is a part of the audit chain.
type AuditPage struct {
	Records []audit.Record `json:"records"`
}
