package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/bundle"
	"afloat/internal/fleet"
)

const host = fleet.HostID("01arz3ndektsv4rrffq69g5fav")

func serverKey() (ed25519.PrivateKey, ed25519.PublicKey) {
	k := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	return k, k.Public().(ed25519.PublicKey)
}

func desired() Desired {
	return Desired{Version: Version, Host: host, Epoch: 3, Generation: 9, Rollout: "r1",
		Live: bundle.DigestOf([]byte("x")), Mode: fleet.ModeAct}
}

// reboot is desired with an order to boot into another kernel.
func reboot() Desired {
	d := desired()
	d.Action, d.Kernel, d.Nonce, d.Out = ActionReboot, "6.1.0-56-amd64", "r1-7", true
	return d
}

func TestDesiredRoundTrip(t *testing.T) {
	key, pub := serverKey()
	for _, want := range []Desired{desired(), reboot()} {
		s, err := Sign(key, ContextDesired, want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := OpenDesired(pub, s, host)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("desired (-want +got):\n%s", diff)
		}
	}
}

func TestZeroActionFieldsDoNotTravel(t *testing.T) {
	data, err := json.Marshal(desired())
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"action", "nonce", "kernel", "module", "replace", "restart", "out"} {
		if bytes.Contains(data, []byte(`"`+field+`"`)) {
			t.Errorf("%s is in %s: an older agent would refuse it", field, data)
		}
	}
}

func TestObjectAndAbilities(t *testing.T) {
	d := Desired{Kernel: "k", Module: "m", Replace: "i", Restart: "u"}
	for action, want := range map[Action]string{ActionLive: "", ActionReboot: "k", ActionModule: "m", ActionReplace: "i", ActionRestart: "u"} {
		if d.Action = action; d.Object() != want {
			t.Errorf("%s is about %q, want %q", action, d.Object(), want)
		}
		if got := (Report{}).Can(action); got != (action == ActionLive) {
			t.Errorf("an agent without abilities can %s: %v", action, got)
		}
		if !(Report{Abilities: Actions()}).Can(action) {
			t.Errorf("an agent with all abilities cannot %s", action)
		}
	}
}

func TestOpenDesiredRefuses(t *testing.T) {
	key, pub := serverKey()
	good := func() Signed {
		s, err := Sign(key, ContextDesired, desired())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	signed := func(d Desired) Signed {
		s, err := Sign(key, ContextDesired, d)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	flipped := good()
	flipped.Payload[3] ^= 1
	permit, err := Sign(key, ContextPermit, desired())
	if err != nil {
		t.Fatal(err)
	}
	relabelled := permit
	relabelled.Context = ContextDesired
	badDigest := desired()
	badDigest.Live = "sha256:../../etc/passwd"
	other := desired()
	other.Host = "01brz3ndektsv4rrffq69g5fav"
	old := desired()
	old.Version = 0
	noNonce, noUnit, unknown, long := reboot(), reboot(), reboot(), reboot()
	noNonce.Nonce = ""
	noUnit.Action = ActionRestart
	unknown.Action = "explode"
	long.Kernel = strings.Repeat("6", maxName+1)
	onlyNonce, blank := desired(), reboot()
	onlyNonce.Nonce = "n1"
	blank.Kernel = "6.1.0-56 init=/bin/sh"

	for name, tc := range map[string]struct {
		key    ed25519.PublicKey
		signed Signed
		sig    bool // must be a signature error
	}{
		"flipped bit":           {pub, flipped, true},
		"no signature":          {pub, Signed{Context: ContextDesired, Payload: good().Payload}, true},
		"another context":       {pub, permit, true},
		"context swapped":       {pub, relabelled, true},
		"no server key":         {nil, good(), true},
		"for another host":      {pub, signed(other), false},
		"another wire version":  {pub, signed(old), false},
		"digest that is a path": {pub, signed(badDigest), false},
		"action without nonce":  {pub, signed(noNonce), false},
		"nonce without action":  {pub, signed(onlyNonce), false},
		"restart of nothing":    {pub, signed(noUnit), false},
		"unknown action":        {pub, signed(unknown), false},
		"kernel too long":       {pub, signed(long), false},
		"kernel with a blank":   {pub, signed(blank), false},
	} {
		_, err := OpenDesired(tc.key, tc.signed, host)
		if err == nil || errors.Is(err, ErrSignature) != tc.sig {
			t.Errorf("%s: OpenDesired = %v, signature error wanted: %v", name, err, tc.sig)
		}
	}
}

func TestOpenPermit(t *testing.T) {
	key, pub := serverKey()
	want := Permit{Version: Version, Rollout: "r1", Epoch: 1, Seq: 4, TTL: time.Minute}
	s, err := Sign(key, ContextPermit, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenPermit(pub, s)
	if err != nil || got != want {
		t.Errorf("OpenPermit = %+v, %v", got, err)
	}
	for _, bad := range []Permit{{}, {Version: Version, Rollout: "r1"}, {Version: Version, TTL: 1}} {
		s, err := Sign(key, ContextPermit, bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenPermit(pub, s); err == nil {
			t.Errorf("permit %+v is taken", bad)
		}
	}
}

func TestDecodeIsStrict(t *testing.T) {
	for name, in := range map[string]string{
		"unknown field": `{"v":1,"host":"h1","boot":"b","colour":"red"}`,
		"trailing data": `{"v":1,"host":"h1","boot":"b"} {}`,
		"no boot id":    `{"v":1,"host":"h1"}`,
		"bad host":      `{"v":1,"host":"*","boot":"b"}`,
		"old version":   `{"v":0,"host":"h1","boot":"b"}`,
		"blank nonce":   `{"v":1,"host":"h1","boot":"b","nonce":"a b"}`,
		"long nonce":    `{"v":1,"host":"h1","boot":"b","nonce":"` + strings.Repeat("n", maxNonce+1) + `"}`,
		"abilities":     `{"v":1,"host":"h1","boot":"b","abilities":[` + strings.Repeat(`"x",`, maxAbilities) + `"x"]}`,
		"bad ability":   `{"v":1,"host":"h1","boot":"b","abilities":["\u0000"]}`,
		"not json":      `hello`,
		"empty":         ``,
		"too long":      `{"v":1,"host":"h1","boot":"b"}` + strings.Repeat(" ", MaxMessage),
	} {
		if _, err := DecodeReport([]byte(in)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, in := range []string{
		`{"v":1,"host":"h1","boot":"b"}`,
		`{"v":1,"host":"h1","boot":"b","phase":"warming","nonce":"r1-7","out":true,"abilities":["reboot","newer"]}`,
	} {
		if _, err := DecodeReport([]byte(in)); err != nil {
			t.Error(err)
		}
	}
}

func TestSubjects(t *testing.T) {
	for _, subject := range []string{ReportSubject(host), BeatSubject(host), OrdersSubject(host)} {
		got, err := SubjectHost(subject)
		if err != nil || got != host {
			t.Errorf("SubjectHost(%q) = %q, %v", subject, got, err)
		}
	}
	for _, bad := range []string{"", "afloat.up.", "afloat.up.*.report", "afloat.up.>.x", "afloat.down.h1.nudge", "afloat.up.h1"} {
		if _, err := SubjectHost(bad); err == nil {
			t.Errorf("SubjectHost(%q) is taken", bad)
		}
	}
}

func TestTokenRoundTrip(t *testing.T) {
	want := Token{ID: "t1", Secret: strings.Repeat("A", 43), CAHash: strings.Repeat("ab", 32)}
	got, err := ParseToken(" " + want.String() + "\n")
	if err != nil || got != want {
		t.Errorf("ParseToken = %+v, %v", got, err)
	}
	for _, bad := range []string{"", "afloat1.a.b.c", strings.Replace(want.String(), "afloat1", "afloat2", 1), want.String() + ".x",
		strings.Replace(want.String(), ".t1.", ".*.", 1)} {
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("ParseToken(%q) is taken", bad)
		}
	}
}

func FuzzDecodeReport(f *testing.F) {
	whole, err := json.Marshal(Report{Version: Version, Host: host, Boot: "b", Live: []LivePatch{{Name: "x"}}, Crashes: []Crash{{ID: "c"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"v":1,"host":"h1","boot":"b","phase":"rebooting","nonce":"r1-7","out":true,"abilities":["reboot","module"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeReport(data)
		if err != nil {
			return
		}
		if _, err := fleet.ParseHostID(string(r.Host)); err != nil {
			t.Errorf("decoded a report of host %q", r.Host)
		}
	})
}

func FuzzOpenDesired(f *testing.F) {
	key, pub := serverKey()
	s, err := Sign(key, ContextDesired, desired())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Payload, s.Sig)
	if s, err = Sign(key, ContextDesired, reboot()); err != nil {
		f.Fatal(err)
	}
	f.Add(s.Payload, s.Sig)
	f.Fuzz(func(t *testing.T, payload, sig []byte) {
		d, err := OpenDesired(pub, Signed{Context: ContextDesired, Payload: payload, Sig: sig}, host)
		if err == nil && d.Host != host {
			t.Errorf("opened a desired for %q", d.Host)
		}
		// Signed garbage must be refused, not believed or crash.
		_, _ = OpenDesired(pub, Signed{Context: ContextDesired, Payload: payload,
			Sig: ed25519.Sign(key, signedBytes(ContextDesired, payload))}, host)
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add(Token{ID: "t1", Secret: strings.Repeat("A", 43), CAHash: strings.Repeat("ab", 32)}.String())
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			return
		}
		if again, err := ParseToken(tok.String()); err != nil || again != tok {
			t.Errorf("token does not round-trip: %v", err)
		}
	})
}
