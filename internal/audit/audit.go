// Package audit is the hash-chained record of every act and decision: who did
// what to what, when, and how it ended. It turns an Entry and the chain's Head
// into the next Record, and finds where a chain was altered. Storing the
// records is the store's job.
package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrBroken says that a chain is not the one that was written.
var ErrBroken = errors.New("audit chain is broken")

// Outcome is how an act ended.
type Outcome string

const (
	Done    Outcome = "done"    // it was carried out
	Refused Outcome = "refused" // it was not allowed, see Reason
	Failed  Outcome = "failed"  // it was allowed and did not work, see Reason
)

// Actor is who acted. Exactly one kind of caller each: a person on the local
// socket, a host over its connection, the server itself, or somebody unknown.
type Actor struct {
	Kind ActorKind `json:"kind"`
	// Name is the host id, the user's name, or the remote address of a stranger.
	Name string `json:"name,omitempty"`
	// Role of an operator: viewer, operator or admin.
	Role string `json:"role,omitempty"`
	// UID is the peer's uid on the local socket, nil for everyone else.
	UID *uint32 `json:"uid,omitempty"`
}

// ActorKind says where an act came from.
type ActorKind string

const (
	ActorOperator ActorKind = "operator" // a person, over the local socket
	ActorHost     ActorKind = "host"     // an enrolled host, as its credentials prove
	ActorServer   ActorKind = "server"   // afloat itself
	ActorStranger ActorKind = "stranger" // nobody whose credentials held
)

// String is the short form for people: operator root (uid 0, admin).
func (a Actor) String() string {
	s := string(a.Kind)
	if a.Name != "" {
		s += " " + a.Name
	}
	if a.UID != nil {
		s += fmt.Sprintf(" (uid %d, %s)", *a.UID, a.Role)
	}
	return s
}

// Entry is one act before it is chained.
type Entry struct {
	Who     Actor     `json:"who"`
	What    string    `json:"what"`             // noun.verb: bundle.add, host.join, rollout.start
	Target  string    `json:"target,omitempty"` // id of what it was done to
	When    time.Time `json:"when"`             // UTC
	Outcome Outcome   `json:"outcome"`
	Reason  string    `json:"reason,omitempty"`
	// Key makes an act that may be told twice appear once: a refusal's id.
	Key string `json:"key,omitempty"`
}

// Record is an Entry in its place in the chain.
type Record struct {
	Seq uint64 `json:"seq"` // from 1, without gaps
	// Prev is the Hash of the record before, "" for the first.
	Prev string `json:"prev"`
	Entry
	// Hash is the hex SHA-256 of this record as JSON with an empty Hash.
	Hash string `json:"hash"`
}

// Head is the end of a chain; its zero value is the empty chain.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// Chain makes entry the next record after head.
func Chain(head Head, entry Entry) (Record, error) {
	if entry.What == "" || entry.Who.Kind == "" || entry.Outcome == "" {
		return Record{}, errors.New("chain audit record: who, what and outcome must be there")
	}
	entry = entry.clean()
	r := Record{Seq: head.Seq + 1, Prev: head.Hash, Entry: entry}
	hash, err := r.sum()
	if err != nil {
		return Record{}, fmt.Errorf("chain audit record: %w", err)
	}
	r.Hash = hash
	return r, nil
}

// maxText bounds what a stranger can put into one field, in bytes.
const maxText = 1024

// clean makes an entry read back from JSON exactly as it was written.
func (e Entry) clean() Entry {
	e.When = e.When.UTC()
	for _, s := range []*string{&e.Who.Name, &e.Who.Role, &e.What, &e.Target, &e.Reason, &e.Key} {
		if len(*s) > maxText {
			*s = (*s)[:maxText] + "..."
		}
		*s = strings.ToValidUTF8(*s, "?")
	}
	return e
}

// Head is the chain's end once r is its last record.
func (r Record) Head() Head { return Head{Seq: r.Seq, Hash: r.Hash} }

// Follow checks that r is the record right after head and returns the new
// head, or an error that wraps ErrBroken and names the place.
func Follow(head Head, r Record) (Head, error) {
	hash, err := r.sum()
	switch {
	case err != nil:
		return head, fmt.Errorf("check audit record %d: %w", r.Seq, err)
	case r.Seq != head.Seq+1:
		return head, fmt.Errorf("%w: record %d follows record %d", ErrBroken, r.Seq, head.Seq)
	case r.Prev != head.Hash:
		return head, fmt.Errorf("%w: record %d does not name the hash of record %d", ErrBroken, r.Seq, head.Seq)
	case r.Hash != hash:
		return head, fmt.Errorf("%w: record %d was changed after it was written", ErrBroken, r.Seq)
	}
	return r.Head(), nil
}

// Verify walks a chain from its first record and returns its head.
func Verify(records []Record) (Head, error) {
	var head Head
	for _, r := range records {
		next, err := Follow(head, r)
		if err != nil {
			return head, err
		}
		head = next
	}
	return head, nil
}

func (r Record) sum() (string, error) {
	r.Hash = ""
	data, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encode record: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}
