package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/rollout"
)

func TestHostThatKeepsFailingIsQuarantined(t *testing.T) {
	l := newLab(t, 3)
	l.hosts["h2"].fails = true
	for i := range 5 {
		name := fmt.Sprintf("set%d", i)
		l.v.Bundle(digest(byte('0'+i)), bundle.Manifest{Name: name, Kernel: kernelA}, false)
		l.start(name, "waves: [{size: 100%, failures: 1, soak: 1m}]")
		l.tick(10 * time.Minute)
		e := Explain(l.s, l.v, "h2", l.now)
		if i < strikes && e.Phase != rollout.Failed {
			t.Errorf("rollout %d: %+v, want another try", i, e)
		}
		if i >= strikes && (e.Kind != KindQuarantine || !strings.Contains(e.Reason, "failed 3 times in a row, last in rollout r3: transition stalled")) {
			t.Errorf("rollout %d: %+v, want quarantine", i, e)
		}
	}
	if _, err := l.do(Command{Verb: Release, By: "op", Host: "h1"}); err == nil || !strings.Contains(err.Error(), "cannot release host") {
		t.Errorf("release of a host in good standing: %v", err)
	}
	l.hosts["h2"].fails = false
	if _, err := l.do(Command{Verb: Release, By: "op", Host: "h2"}); err != nil {
		t.Fatal(err)
	}
	l.tick(10 * time.Minute)
	if got := l.running(digest('4')); len(got) != 3 {
		t.Errorf("%v run the last set after the release, want all", got)
	}
	l.checkReplay()
}
