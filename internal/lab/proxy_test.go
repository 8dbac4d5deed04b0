package lab

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	text := "# pxname,svname,stot,status,\nhosts,h1,12,UP,\nhosts,h2,0,DOWN 1/2,\n\n"
	got, err := parseStat(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []Backend{{Host: "h1", Status: "UP", Sessions: "12"}, {Host: "h2", Status: "DOWN 1/2", Sessions: "0"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "# pxname,svname,status,\nhosts,h1,UP,\n", "# svname,status,stot\nh1,UP\n", "# a,\"b"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("parseStat(%q) = %v, want an error", bad, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("# pxname,svname,stot,status,\nhosts,h1,12,UP,\n")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseStat(text); err == nil && len(got) > strings.Count(text, "\n")+1 {
			t.Errorf("%d hosts from %d lines", len(got), strings.Count(text, "\n")+1)
		}
	})
}

func TestProxyNeverTriesTwice(t *testing.T) {
	p := &Proxy{port: 20001, hosts: []*Host{{Name: "h1", vm: machine{workload: 20002}}}}
	config := p.config()
	for _, want := range []string{"retries 0\n", "no option redispatch\n", "option httpchk GET /healthz\n", "server h1 127.0.0.1:20002\n", "bind 127.0.0.1:20001\n"} {
		if !strings.Contains(config, want) {
			t.Errorf("configuration lacks %q:\n%s", want, config)
		}
	}
	if strings.Contains(config, "retry-on") || strings.Contains(config, "\n    option redispatch") {
		t.Errorf("configuration retries:\n%s", config)
	}
}
