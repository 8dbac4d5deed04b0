package policy

import (
	"strings"
	"testing"
	"time"
)

func TestDebt(t *testing.T) {
	const live = "name: x\ntarget: {live: fix}\nwaves: [{size: 100%}]\n"
	p, err := Parse([]byte(live + "unavailable: 5%\ndebt: {reboot: within 30d, bootSample: 2% within 12h, kernel: 6.1.192-2}"))
	if err != nil {
		t.Fatal(err)
	}
	d := p.Debt
	if d.Reboot != 30*24*time.Hour || d.BootSample != (Amount{Share: 0.02}) || d.SampleBy != 12*time.Hour || d.Kernel != "6.1.192-2" {
		t.Errorf("debt is %+v", d)
	}
	pay := p.Payoff()
	if pay.Target.String() != "kernel 6.1.192-2" || len(pay.Waves) != 2 || pay.Waves[0].Select == nil || !pay.Waves[0].Failures.Zero() || pay.Down != p.Down || pay.Debt.Reboot != 0 {
		t.Errorf("payoff is %+v", pay)
	}
	hurried, err := Parse([]byte(live + "unavailable: 5%\nbudgets: [{unavailable: 2}]\nurgency: emergency\nreason: KEV\ndebt: {reboot: within 30d}"))
	if err != nil {
		t.Fatal(err)
	}
	if pay := hurried.Payoff(); hurried.Down.Share != 0.1 || pay.Down.Share != 0.05 || pay.Budgets[0].Unavailable.N != 2 || pay.Urgency != Normal {
		t.Errorf("payoff of an emergency is %+v", pay)
	}
	prompt, err := Parse([]byte(live + "unavailable: 5%\nreboot: promptly"))
	if err != nil || prompt.Debt.Reboot != DefaultPromptly {
		t.Errorf("promptly: %+v, %v", prompt, err)
	}
	for tail, want := range map[string]string{
		"debt: {reboot: within 30d}":                                "needs budgets",
		"unavailable: 1\ndebt: {reboot: 30d}":                       "want within TIME",
		"unavailable: 1\ndebt: {bootSample: 1% within 24h}":         "want reboot",
		"unavailable: 1\ndebt: {reboot: within 3d, bootSample: 1%}": "want SHARE within TIME",
		"unavailable: 1\nreboot: required":                          "kernel targets",
		"unavailable: 1\nreboot: soon":                              "not one of",
		"fallback: reboot":                                          "needs budgets",
		"unavailable: 1\nfallbackKernel: 6.1":                       "needs fallback",
	} {
		if _, err := Parse([]byte(live + tail)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", tail, err, want)
		}
	}
}

func TestTargets(t *testing.T) {
	const rest = "\nname: x\nwaves: [{size: 100%}]\n"
	p, err := Parse([]byte("target: {replace: img-2, from: img-1}" + rest))
	if err != nil || p.Target.From != "img-1" || !p.Down.Zero() {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = Parse([]byte("target: {kernel: 6.1.192-2}" + rest)); err != nil || p.Down.Share != DefaultDown {
		t.Errorf("a reboot that nothing bounds: %+v, %v", p, err)
	}
	for target, want := range map[string]string{
		"{kernel: 6.1, from: 6.0}": "from is for", "{kernel: 'a b'}": "no blanks", "{module: m, from: 'a b'}": "no blanks",
	} {
		if _, err := Parse([]byte("target: " + target + rest)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", target, err, want)
		}
	}
}
