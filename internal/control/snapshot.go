package control

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/policy"
	"afloat/internal/rollout"
)

// snapshot is State as it is stored.
type snapshot struct {
	Version  int                    `json:"version"`
	Seq      uint64                 `json:"seq"`
	At       time.Time              `json:"at"`
	Hosts    map[fleet.HostID]*Host `json:"hosts"`
	Rollouts []*rollout.Rollout     `json:"rollouts"`
	Bad      map[bundle.Digest]Bad  `json:"bad"`
	BadName  map[string]Bad         `json:"bad_name,omitempty"`
	Proofs   map[string]Proof       `json:"proofs,omitempty"`
	Times    map[string]Took        `json:"times,omitempty"`
}

const snapshotVersion = 1

// Snapshot encodes the state, so that only later records need to be replayed.
func (s *State) Snapshot() ([]byte, error) {
	data, err := json.Marshal(snapshot{snapshotVersion, s.seq, s.at, s.hosts, s.Rollouts(), s.bad, s.badName, s.proofs, s.times})
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	return data, nil
}

// Restore reads what Snapshot made.
func Restore(data []byte) (*State, error) { return RestoreSharing(data, nil) }

// RestoreSharing is Restore as NewSharing is New.
func RestoreSharing(data []byte, shelf policy.Shelf) (*State, error) {
	var snap snapshot
	if err := json.Unmarshal(data, &snap); err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	if snap.Version != snapshotVersion {
		return nil, fmt.Errorf("read snapshot: version %d, this is %d", snap.Version, snapshotVersion)
	}
	s := NewSharing(shelf)
	s.seq, s.at = snap.Seq, snap.At
	for id, h := range snap.Hosts {
		if h != nil {
			s.hosts[id] = h
		}
	}
	maps.Copy(s.bad, snap.Bad)
	maps.Copy(s.badName, snap.BadName)
	maps.Copy(s.proofs, snap.Proofs)
	maps.Copy(s.times, snap.Times)
	for _, r := range snap.Rollouts {
		if r == nil {
			return nil, fmt.Errorf("read snapshot: a rollout is missing")
		}
		if err := r.Restore(shelf); err != nil {
			return nil, fmt.Errorf("read snapshot: %w", err)
		}
		s.rollouts[r.ID], s.order = r, append(s.order, r.ID)
	}
	return s, nil
}
