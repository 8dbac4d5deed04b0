package cli

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"afloat/internal/agent"
	"afloat/internal/agent/agenttest"
	"afloat/internal/api"
	"afloat/internal/audit"
	"afloat/internal/bundle"
	"afloat/internal/converge"
	"afloat/internal/fleet"
)

const killHosts = 4

// TestKilledServerEndsRolloutsRight kills the server with SIGKILL at random
// points of good and bad rollouts, with real agents over real TLS: each
// rollout must end as it would have undisturbed, and no host may load twice
// for one boot and generation.
func TestKilledServerEndsRolloutsRight(t *testing.T) {
	rounds := 15
	if testing.Short() {
		rounds = 3
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	b := newKillBench(t, rand.New(rand.NewPCG(seed, 0)))
	for round := range rounds {
		b.round(t, round, round%3 == 2)
	}
	for _, h := range b.hosts {
		h.checkLoads(t)
	}
	records, err := auditTrail(t.Context(), b.client)
	check(t, err)
	if _, err := audit.Verify(records); err != nil {
		t.Error(err)
	}
}

type killBench struct {
	random *rand.Rand
	dir    string
	args   []string
	server *exec.Cmd
	client *client
	key    ed25519.PrivateKey
	hosts  []*killHost
	runs   string // module that every host runs between rounds
}

type killHost struct {
	name   string
	folder agent.Folder
	kernel *agenttest.Kernel
}

func newKillBench(t *testing.T, random *rand.Rand) *killBench {
	t.Helper()
	dir := t.TempDir()
	b := &killBench{random: random, dir: dir, client: dial(filepath.Join(dir, "s"))}
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	b.key = key
	_, pem, err := bundle.EncodeKeys(key)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "pub"), pem, 0o600))
	b.args = []string{"server", "--state", filepath.Join(dir, "st"), "--socket", filepath.Join(dir, "s"), "--advertise", "127.0.0.1"}
	for _, flag := range []string{"--listen", "--listen-nats"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		b.args = append(b.args, flag, l.Addr().String())
		check(t, l.Close())
	}
	b.start(t)
	t.Cleanup(func() { b.kill(t) })
	for i := range killHosts {
		b.hosts = append(b.hosts, b.join(t, fmt.Sprintf("web%d", i+1)))
	}
	b.until(t, "hosts to report", func() bool { return len(b.reported(t)) == killHosts })
	return b
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start starts the server and waits until it answers.
func (b *killBench) start(t *testing.T) {
	t.Helper()
	program, err := exec.LookPath("afloat")
	check(t, err)
	b.server = exec.Command(program, b.args...)
	b.server.Stderr = t.Output()
	check(t, b.server.Start())
	b.until(t, "the server to answer", func() bool {
		var s api.Status
		return b.client.get(t.Context(), api.PathStatus, nil, &s) == nil
	})
}

func (b *killBench) kill(t *testing.T) {
	t.Helper()
	check(t, b.server.Process.Kill())
	_ = b.server.Wait() // it was killed: its status says nothing
}

func (b *killBench) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s in vain", what)
		}
		<-tick.C
	}
}

func (b *killBench) join(t *testing.T, name string) *killHost {
	t.Helper()
	var made api.TokenMade
	check(t, b.client.post(t.Context(), api.PathTokens, api.NewToken{Mode: fleet.ModeAct}, &made))
	dir := filepath.Join(b.dir, name)
	h := &killHost{name: name, folder: agent.Folder{State: filepath.Join(dir, "state"), Config: filepath.Join(dir, "etc")}}
	var err error
	h.kernel, err = agenttest.NewKernel(filepath.Join(dir, "kernel"))
	check(t, err)
	_, err = agent.Join(t.Context(), agent.JoinOptions{Folder: h.folder, Server: made.Server, Token: made.Token,
		PublisherKey: filepath.Join(b.dir, "pub"), Settings: agent.Settings{Name: name, Ceiling: fleet.ModeAct}})
	check(t, err)
	a, err := agent.New(agent.Options{Folder: h.folder, Kernel: h.kernel, Machine: h.kernel, Crash: h.kernel,
		Log:    slog.New(slog.DiscardHandler),
		Limits: converge.Limits{Stall: 10 * time.Second, Proven: 500 * time.Millisecond},
		Timing: agent.Timing{Orders: time.Second, Beat: 500 * time.Millisecond, Look: 50 * time.Millisecond, Ack: time.Second}})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); run.Wait() })
	return h
}

func (b *killBench) reported(t *testing.T) []api.Host {
	t.Helper()
	var all, out []api.Host
	if b.client.get(t.Context(), api.PathHosts, nil, &all) != nil {
		return nil
	}
	for _, h := range all {
		if h.Report != nil && h.Report.Mode == fleet.ModeAct {
			out = append(out, h)
		}
	}
	return out
}

// round rolls one patch out while the server is killed again and again. A bad
// one oopses on its canary, and everybody must be back on what was before.
func (b *killBench) round(t *testing.T, n int, bad bool) {
	t.Helper()
	module := fmt.Sprintf("fix%d", n)
	b.addBundle(t, module)
	soak := "1s"
	if bad {
		soak = "10m" // only the crash ends it
	}
	var r api.Rollout
	check(t, b.client.post(t.Context(), api.PathRollouts, api.StartRollout{Policy: fmt.Sprintf(
		"name: %[1]s\ntarget: {live: %[1]s}\nwaves:\n  - {name: canary, size: 1, soak: %[2]s}\n  - {name: rest, size: 100%%}\n", module, soak)}, &r))
	var oops sync.Once
	for range 2 + b.random.IntN(3) {
		pause := time.NewTimer(time.Duration(b.random.IntN(700)) * time.Millisecond)
		<-pause.C
		if bad {
			b.oops(t, module, &oops)
		}
		b.kill(t)
		b.start(t)
	}
	want := "complete"
	if bad {
		want = "reverted"
	}
	var d api.RolloutDetail
	b.until(t, "rollout "+r.ID+" to be "+want, func() bool {
		if bad {
			b.oops(t, module, &oops)
		}
		d = api.RolloutDetail{}
		return b.client.get(t.Context(), api.PathRollout, url.Values{"id": {r.ID}}, &d) == nil && d.Ended
	})
	if d.State != want {
		t.Fatalf("round %d: rollout %s is %s (%s), want %s", n, r.ID, d.State, d.Reason, want)
	}
	exposed := 0
	for _, h := range b.hosts {
		if h.loaded(t, module) > 0 {
			exposed++
		}
	}
	if bad && exposed != 1 {
		t.Errorf("round %d: %d hosts got the bad patch", n, exposed)
	}
	if !bad {
		b.runs = module
	}
	b.until(t, "every host to run "+b.runs, func() bool {
		for _, h := range b.hosts {
			if h.runs(t) != b.runs {
				return false
			}
		}
		return true
	})
}

func (b *killBench) addBundle(t *testing.T, module string) {
	t.Helper()
	m := agenttest.Module{Name: module, Transition: 100 * time.Millisecond}
	file, err := bundle.Seal(b.key, bundle.Manifest{Kind: bundle.KindLive, Name: module, Module: module,
		Kernel: agenttest.DefaultID(), Replace: true}, m.Bytes())
	check(t, err)
	check(t, b.client.do(t.Context(), "POST", api.PathBundles, nil, strings.NewReader(string(file)), nil))
}

// oops makes the canary's kernel log an oops, once it runs the module.
func (b *killBench) oops(t *testing.T, module string, once *sync.Once) {
	t.Helper()
	for _, h := range b.hosts {
		if h.runs(t) == module {
			once.Do(func() {
				check(t, h.kernel.Write("BUG: kernel NULL pointer dereference, address: 0000000000000000\n"+
					"RIP: 0010:bad_"+module+"+0x1/0x10 ["+module+"]\n---[ end trace 0000000000000000 ]---"))
			})
		}
	}
}

// runs is the module that the kernel runs now, "" while none or in transition.
func (h *killHost) runs(t *testing.T) string {
	t.Helper()
	patches, err := h.kernel.Patches()
	check(t, err)
	if len(patches) != 1 || !patches[0].Enabled || patches[0].Transition {
		return ""
	}
	return patches[0].Name
}

func (h *killHost) loaded(t *testing.T, module string) (n int) {
	t.Helper()
	loads, err := h.kernel.Loads()
	check(t, err)
	for _, l := range loads {
		if l.Errno == 0 && l.Module == module {
			n++
		}
	}
	return n
}

// checkLoads reads the host's own journal: at most one successful load per
// boot and generation, and as many as the kernel itself counted.
func (h *killHost) checkLoads(t *testing.T) {
	t.Helper()
	f, err := os.Open(filepath.Join(h.folder.State, "journal"))
	check(t, err)
	defer f.Close()
	seen := map[string]int{}
	total := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		_, text, _ := strings.Cut(lines.Text(), " ")
		var e struct {
			Checkpoint json.RawMessage
			Record     converge.Record
		}
		check(t, json.Unmarshal([]byte(text), &e))
		if e.Checkpoint != nil {
			t.Fatalf("%s: the journal was compacted: it no longer tells of every load", h.name)
		}
		if e.Record.Kind != converge.RecordLoaded {
			continue
		}
		total++
		key := fmt.Sprintf("boot %s, order %+v", e.Record.Boot, e.Record.Order)
		if seen[key]++; seen[key] > 1 {
			t.Errorf("%s: %d successful loads for %s", h.name, seen[key], key)
		}
	}
	check(t, lines.Err())
	loads, err := h.kernel.Loads()
	check(t, err)
	for _, l := range loads {
		if l.Errno == 0 {
			total--
		}
	}
	if total != 0 {
		t.Errorf("%s: the journal has %d loads more than the kernel", h.name, total)
	}
}
