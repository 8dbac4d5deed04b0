package sim

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"afloat/internal/rollout"
)

const byHour = `
groups: [{name: db, hosts: 10, labels: {service: db, rack: "r{n/2}"}}]
services: {db: {load: [.2,.2,.2,.2,.2,.2,.2,.2,.2,.8,.8,.8,.8,.8,.8,.8,.8,.8,.8,.8,.8,.8,.2,.2]}}
`

// Runs begin at nine, when ten hosts carry 80 % each: at a headroom of 80 %
// none may go. At 22 hours they carry 20 %.
func TestLoadByHour(t *testing.T) {
	f, err := ParseFleet([]byte(byHour))
	if err != nil {
		t.Fatal(err)
	}
	res := mustRun(t, Options{Fleet: f, Seed: 1, Check: true, Policy: "name: x\ntarget: {kernel: 6.1.0-56-amd64}\nwaves: [{size: 100%}]\n" +
		"budgets: [{name: peak, groupBy: service, headroom: 80%, load: load}]\n"})
	if at := res.Took.Hours(); res.Phase != rollout.PhaseComplete || at < 13 || at > 14 {
		t.Errorf("%s after %s, want complete soon after 13h", res.Phase, res.Took)
	}
	if len(res.Budgets) != 1 || res.Budgets[0].Most != 7 || res.Budgets[0].Limit != 7 || res.Budgets[0].At.Hours() < 13 {
		t.Errorf("budgets %+v, want 7 of 7 out at night", res.Budgets)
	}
	if len(res.Services) != 1 || res.Services[0].Least != 3 || res.Services[0].Load < .79 || res.Services[0].Load > .81 {
		t.Errorf("services %+v, want 3 of 10 that carry up to 80 %%", res.Services)
	}
}

func TestServicesThatCannotBe(t *testing.T) {
	for text, want := range map[string]string{
		"load: [1]": "load of 1 hours, want 24",
		"load: [2,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]": "load 2 at hour 0",
	} {
		_, err := ParseFleet([]byte("groups: [{name: a, hosts: 1}]\nservices: {a: {" + text + "}}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestSVG: the picture is well formed, whatever the words in it.
func TestSVG(t *testing.T) {
	res := mustRun(t, Options{Policy: threeWaves, Fleet: Generated(300), Seed: 2, Faults: []Fault{fault(t, "crash-on-apply:20%")}})
	res.Reason += " <&\""
	var b strings.Builder
	if err := res.SVG(&b); err != nil {
		t.Fatal(err)
	}
	lines := 0
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			lines++
		}
	}
	if lines != 4 || !strings.Contains(b.String(), "reverts at 133") || !strings.Contains(b.String(), "reverted after") {
		t.Errorf("%d curves in\n%s", lines, b.String())
	}
}

// TestReplay: the command that plays a run again is one that can be typed.
func TestReplay(t *testing.T) {
	o := Options{Seed: 7, Faults: []Fault{fault(t, "lost:20%")}}
	if got, want := Replay("p.yaml", "--hosts 20", o), `afloat sim p.yaml --hosts 20 --seed 7 --fault "lost:20%"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
