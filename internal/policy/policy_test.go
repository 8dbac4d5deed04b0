package policy

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const demo = `name: ext4-mballoc
target: {live: 2026-11-ext4}
select: env=prod,service!=db
waves:
  - {name: rc, select: tier=rc, soak: 30m}
  - {name: canary, size: 1, soak: 1h}
  - {size: 10%, soak: 1d}
  - {size: 100%}
gate:
  crashes: {falseRevert: 1%, cap: {excess: 1/1000, within: 24h}}
  noData: hold
  onInconclusive: continue
  onRevert: revert
budgets:
  - {name: cache, select: service=search, unavailable: 20%, warm: 30m}
  - {name: quorum, select: role=etcd, groupBy: cluster, unavailable: quorum-1}
  - {name: racks, groupBy: rack, domains: 1}
windows: ["Mon-Fri 09:00-17:00 Europe/Paris"]
`

func TestParse(t *testing.T) {
	p, err := Parse([]byte(demo))
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "ext4-mballoc" || p.Target != (Target{Action: Live, Name: "2026-11-ext4"}) || len(p.Waves) != 4 {
		t.Errorf("got %+v", p)
	}
	if w := p.Waves[2]; w.Soak != 24*time.Hour || w.Size.Share != 0.1 || w.Name != "10%" {
		t.Errorf("third wave is %+v", w)
	}
	if c := p.Gate.Crashes; c.Cap != (Cap{0.001, 24 * time.Hour}) || c.FalseRevert != 0.01 {
		t.Errorf("crashes are %+v", c)
	}
	if b := p.Budgets[1]; b.Unavailable != (Amount{Quorum: true, N: 1}) || b.GroupBy != "cluster" {
		t.Errorf("quorum budget is %+v", b)
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct {
		old, new  string
		line, col int
		want      string
	}{
		{"name: ext4-mballoc", "nam: x", 1, 1, "unknown field"},
		{"soak: 30m", "soak: 30x", 5, 39, "is not a duration"},
		{"soak: 30m", "sok: 30m", 5, 33, "unknown field"},
		{"tier=rc", "tier~rc", 5, 24, "tier~rc"},
		{"{size: 10%", "{size: 0%", 7, 12, "want a share"},
		{"{size: 100%", "{size: 5%", 8, 12, "not above the one before"},
		{"1/1000", "1/0", 10, 44, "is not a share"},
		{"onRevert: revert", "onRevert: maybe", 13, 13, "not one of revert, pause"},
		{"unavailable: 20%", "unavailable: 0", 15, 56, "never let a host start"},
		{"domains: 1", "domains: 0", 17, 43, "from 1 up"},
		{"Europe/Paris", "Europe/Atlantis", 18, 11, "time zone"},
		{"{live: 2026-11-ext4}", "{live: x, kernel: 6.1.192-2}", 2, 27, "exactly one of"},
		{"name: canary", "name: rc", 6, 12, `"rc" is taken`},
		{"{size: 10%", "{name: canary, size: 10%", 7, 12, `"canary" is taken`},
		{"{size: 10%, soak: 1d}", "{select: a=b}\n  - {select: a=b}", 8, 14, `"a=b" is taken`},
		{"tier=rc", "tier==", 5, 24, "compares tier with nothing"},
		{"service!=db", "service!=", 3, 9, "compares service with nothing"},
		{"select: service=search", "select: 'service='", 15, 27, "compares service with nothing"},
		{"noData: hold", "metrics: [{query: up, max: 1}]", 11, 21, "gate.metrics cannot be judged: the server asks no metrics store"},
	} {
		_, err := Parse([]byte(strings.Replace(demo, tt.old, tt.new, 1)))
		e, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%s: got %v, want an *Error", tt.new, err)
			continue
		}
		if e.Line != tt.line || e.Column != tt.col || !strings.Contains(e.Msg, tt.want) {
			t.Errorf("%s: got %v, want line %d column %d and %q", tt.new, err, tt.line, tt.col, tt.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const head = "name: x\ntarget: {live: y}\n"
	for _, tt := range []struct{ text, want string }{
		{head, "policy: line 1, column 7: no waves: say in which steps hosts change, waves: [{size: 100%}] for all of them at once"},
		{head + "waves: []\n", "policy: line 3, column 8: no waves: say in which steps hosts change, waves: [{size: 100%}] for all of them at once"},
		{head + "waves: [{name: control, size: 10%}, {size: 100%}]\ngate: {control: {size: 5%}}\n",
			`policy: line 4, column 24: wave name "control" is taken by an earlier wave: give each a name of its own`},
		{head + "waves: 3\n", "policy: line 3, column 8: want a list ([...]), not a single value"},
		{head + "waves: [3]\n", "policy: line 3, column 9: want fields (key: value), not a single value"},
		{head + "gate: [3]\n", "policy: line 3, column 7: want fields (key: value), not a list ([...])"},
		{head + "name: z\n", "policy: line 3, column 1: name is given twice"},
		{head + "waves: [{size: 100%}]\nunavailable: 0\n", `policy: line 4, column 14: unavailable "0" would bound nothing: give a number or share of hosts, such as 1 or 5%, or leave it out`},
		{"name: x\ntarget: {kernel: y}\nwaves: [{size: 100%}]\nunavailable: 0%\n", `policy: line 4, column 14: unavailable "0%" would bound nothing: give a number or share of hosts, such as 1 or 5%, or leave it out`},
		{head + "waves: [{size: 100%}]\nbudgets: [{name: a, unavailable: 1, warm: 5m}, {name: b, domains: 1, groupBy: rack, warm: 5m}]\n",
			"policy: line 4, column 91: budget b: warm bounds nothing by itself: add unavailable or headroom, which count cold hosts as out"},
		{"name: x\ntarget: {live: y\n", "policy: line 2, column 9: cannot be read as YAML: could not find flow mapping end token '}'"},
	} {
		if _, err := Parse([]byte(tt.text)); err == nil || err.Error() != tt.want {
			t.Errorf("%q: got %v, want %s", tt.text, err, tt.want)
		}
	}
}

// What an earlier version accepted is in logs that must still be read.
func TestReread(t *testing.T) {
	const head = "name: x\ntarget: {live: y}\n"
	for text, waves := range map[string]int{
		head: 1, head + "waves: []\n": 1, head + "waves: [{name: a, size: 10%}, {name: a, size: 100%}]\n": 2, head + "select: 'a=='\n": 1, demo: 4,
		head + "unavailable: 0\n": 1, head + "budgets: [{starts: 1 per 1h, warm: 5m}]\n": 1,
	} {
		if p, err := Reread([]byte(text)); err != nil || len(p.Waves) != waves {
			t.Errorf("%q: got %+v, %v; want %d waves", text, p, err, waves)
		}
	}
	if _, err := Reread([]byte("name: x\n")); err == nil {
		t.Error("a policy without a target can be reread")
	}
}

func TestEmergencyAndControl(t *testing.T) {
	const text = "name: x\ntarget: {live: y}\nurgency: emergency\nreason: under attack\n" +
		"waves: [{size: 10%, soak: 1h}, {size: 100%, soak: 4h}]\ngate: {control: {size: 5%, by: 48h}}\n" +
		"budgets: [{name: a, unavailable: 20%}, {name: q, groupBy: c, unavailable: quorum-1}," +
		"{name: p, groupBy: pair, unavailable: 1, starts: 2 per 1h}, {name: s, groupBy: pair, unavailable: 50%}, {name: o, unavailable: 1, order: role}, {name: d, groupBy: rack, domains: 1, unavailable: 3}]\nunavailable: 3\n"
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if w := p.Waves; len(w) != 3 || w[0].Soak != 15*time.Minute || w[1].Size.Share != 0.95 || !w[2].Control || w[2].Size.Share != 1 {
		t.Errorf("waves are %+v", w)
	}
	if p.Budgets[0].Unavailable.Share != 0.4 || p.Budgets[1].Unavailable != (Amount{Quorum: true, N: 1}) || p.Down.N != 6 {
		t.Errorf("budgets are %+v, %v at most", p.Budgets, p.Down)
	}
	for i, want := range []Amount{{N: 1}, {Share: 0.5}, {N: 1}, {N: 3}} {
		if b := p.Budgets[2+i]; b.Unavailable != want || b.Guards() == (b.Name == "s") || i == 0 && b.Starts.N != 4 {
			t.Errorf("budget %s of a group is %+v, want %v out", b.Name, b, want)
		}
	}
	if _, err := Parse([]byte(strings.Replace(text, "reason: under attack\n", "", 1))); err == nil || !strings.Contains(err.Error(), "needs a reason") {
		t.Errorf("an emergency without a reason: %v", err)
	}
}

func TestAmount(t *testing.T) {
	for _, tt := range []struct {
		a        Amount
		total    int
		down, up int
	}{
		{Amount{N: 3}, 10, 3, 3},
		{Amount{N: 3}, 2, 2, 2},
		{Amount{Share: 0.2}, 300, 60, 60},
		{Amount{Share: 0.01}, 3, 1, 1},
		{Amount{Share: 0.1}, 15, 1, 2},
		{Amount{Share: 1}, 3, 3, 3},
		{Amount{Quorum: true}, 3, 1, 1},
		{Amount{Quorum: true, N: 1}, 5, 1, 1},
		{Amount{Quorum: true}, 5, 2, 2},
		{Amount{Quorum: true, N: 1}, 3, 0, 0},
	} {
		if got := tt.a.Of(tt.total); got != tt.down {
			t.Errorf("%s of %d = %d, want %d", tt.a, tt.total, got, tt.down)
		}
		if got := tt.a.Up(tt.total); got != tt.up {
			t.Errorf("%s of %d rounded up = %d, want %d", tt.a, tt.total, got, tt.up)
		}
	}
}

func TestWindowsFollowDaylightSaving(t *testing.T) {
	p, err := Parse([]byte("name: x\ntarget: {live: y}\nwaves: [{size: 100%}]\nwindows: ['Mon-Fri 09:00-17:00 Europe/Paris', 'Sat 23:00-02:00']\nfreezes: [2026-12-20..2027-01-03 Europe/Paris]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		at    string
		open  bool
		until string
	}{
		{"2026-03-27T08:30:00Z", true, "2026-03-27T16:00:00Z"},  // Friday, UTC+1
		{"2026-03-30T07:30:00Z", true, "2026-03-30T15:00:00Z"},  // Monday after the change, UTC+2
		{"2026-03-27T16:30:00Z", false, "2026-03-28T23:00:00Z"}, // Saturday's comes first
		{"2026-03-29T01:00:00Z", true, "2026-03-29T02:00:00Z"},  // over midnight
		{"2026-12-25T12:00:00Z", false, "2027-01-03T23:00:00Z"}, // frozen, until the end of the day in Paris
	} {
		at, _ := time.Parse(time.RFC3339, tt.at)
		open, _, until := p.Open(at)
		if got := until.UTC().Format(time.RFC3339); open != tt.open || got != tt.until {
			t.Errorf("at %s: open %v until %s, want %v until %s", tt.at, open, got, tt.open, tt.until)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(demo))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err == nil && (p.Name == "" || len(p.Waves) == 0) {
			t.Errorf("%q reads as %+v", data, p)
		}
	})
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		30 * time.Minute: "30m", 24 * time.Hour: "24h", 7 * 24 * time.Hour: "7d", 90 * time.Second: "1m30s", 90 * time.Minute: "1h30m", time.Second: "1s", 10 * time.Second: "10s", 0: "0s",
	} {
		if got := Span(d); got != want {
			t.Errorf("Span(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestParseRate(t *testing.T) {
	if r, err := ParseRate("500 per minute"); err != nil || r != (Rate{N: 500, Per: time.Minute}) || r.String() != "500 per 1m" {
		t.Errorf("got %v, %v", r, err)
	}
	for _, bad := range []string{"", "500", "0 per 1m", "-1 per 1m", "5 per 0s", "5 per x"} {
		if r, err := ParseRate(bad); err == nil {
			t.Errorf("ParseRate(%q) = %v", bad, r)
		}
	}
}
