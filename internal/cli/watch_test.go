package cli

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/api"
	"afloat/internal/fleet"
)

func detail(state string, phases ...string) api.RolloutDetail {
	d := api.RolloutDetail{Rollout: api.Rollout{ID: "r1", Name: "ext4", Target: "live fix", State: state, Hosts: len(phases),
		Waves: []api.Wave{{Name: "all", State: "open", Hosts: len(phases), Phases: map[string]int{}}}}}
	for i, p := range phases {
		d.Members = append(d.Members, api.RolloutHost{ID: fleet.HostID(fmt.Sprintf("h%d", i+1)), Name: fmt.Sprintf("web%d", i+1), Wave: "all", Phase: p})
		d.Waves[0].Phases[p]++
	}
	return d
}

var clock = regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d `)

func TestPipedWatchPrintsChangesOnly(t *testing.T) {
	var out bytes.Buffer
	v := newView(&out)
	for _, d := range []api.RolloutDetail{
		detail("running", "waiting", "waiting"), detail("running", "applying", "waiting"),
		detail("running", "applying", "waiting"), detail("running", "soaking", "failed"),
	} {
		v.show(d)
	}
	v.note("gone")
	v.note("gone")
	want := `wave all: open (waiting 2)
rollout r1 running
web1 (all) applying
web1 (all) soaking
web2 (all) failed
gone
`
	if diff := cmp.Diff(want, clock.ReplaceAllString(out.String(), "")); diff != "" {
		t.Error(diff)
	}
}

func TestScreenRedrawsInPlace(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, width: 70, height: 3}
	s.show(detail("running", "soaking", "waiting"))
	first := out.String()
	if !strings.Contains(first, "[############............] 1/2  open  soaking 1, waiting 1") {
		t.Errorf("first drawing:\n%s", first)
	}
	s.show(detail("running", "soaking", "soaking"))
	if second := strings.TrimPrefix(out.String(), first); !strings.HasPrefix(second, "\x1b[2A\x1b[J") {
		t.Errorf("second drawing begins %q", second)
	}
	out.Reset()
	s.draw(strings.Split(strings.Repeat("line\n", 9)+strings.Repeat("x", 99), "\n"))
	drawn := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(drawn) != 3 || drawn[2] != "  ... and 8 lines more" {
		t.Errorf("drew %q", drawn)
	}
	out.Reset()
	s.draw([]string{strings.Repeat("x", 99)})
	if !strings.HasSuffix(out.String(), "x…\n") || strings.Count(out.String(), "x") != 69 {
		t.Errorf("drew %q", out.String())
	}
}

func TestVerdictIsTheExitCode(t *testing.T) {
	if err := verdict(api.Rollout{Good: true}); err != nil {
		t.Error(err)
	}
	if err := verdict(api.Rollout{ID: "r1", State: "reverted", Reason: "1 crash"}); err == nil || err.Error() != "rollout r1 is reverted: 1 crash" {
		t.Error(err)
	}
}
