package agent_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afloat/internal/agent"
	"afloat/internal/agent/agenttest"
	"afloat/internal/bundle"
	"afloat/internal/converge"
	"afloat/internal/wire"
)

// alone is a host without a server: it has not even joined.
func alone(t *testing.T) *testHost {
	t.Helper()
	dir := t.TempDir()
	h := &testHost{
		t: t, pub: newPublisher(t), folder: agent.Folder{State: filepath.Join(dir, "state"), Config: filepath.Join(dir, "etc")},
		limits: converge.Limits{Stall: time.Second, Proven: time.Hour},
	}
	var err error
	h.kernel, err = agenttest.NewKernel(filepath.Join(dir, "kernel"))
	must(t, err)
	publishers := filepath.Join(h.folder.Config, "publishers.d")
	must(t, os.MkdirAll(publishers, 0o755))
	key, err := os.ReadFile(h.pub.path)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(publishers, "site.pub"), key, 0o644))
	return h
}

func (h *testHost) run(args ...string) (string, error) {
	args = append([]string{"--state", h.folder.State, "--config", h.folder.Config}, args...)
	out, err := agenttest.Command(h.t.Context(), h.kernel.Dir(), args...).CombinedOutput()
	return string(out), err
}

func (h *testHost) file(m agenttest.Module, change ...func(*bundle.Manifest)) string {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), m.Name+".afloat")
	must(h.t, os.WriteFile(path, h.bundle(m, change...), 0o644))
	return path
}

func TestByHandWithoutAServer(t *testing.T) {
	h := alone(t)
	if out, err := h.run("apply", "--bundle", h.file(agenttest.Module{Name: "one", Transition: 50 * time.Millisecond})); err != nil || !strings.Contains(out, "applied") {
		t.Fatalf("apply: %v\n%s", err, out)
	}
	out, err := h.run("status")
	if err != nil || !strings.Contains(out, "one, bundle") || !strings.Contains(out, "by the owner's decision") {
		t.Errorf("status: %v\n%s", err, out)
	}
	// The stop file and a missing folder of bundles stop no revert.
	must(t, os.WriteFile(filepath.Join(h.folder.Config, "stop"), nil, 0o644))
	must(t, os.RemoveAll(filepath.Join(h.folder.State, "bundles")))
	if out, err := h.run("revert"); err != nil || !strings.Contains(out, "no live patch of afloat's is loaded") {
		t.Fatalf("revert: %v\n%s", err, out)
	}
	patches, err := h.kernel.Patches()
	if err != nil || len(patches) != 0 {
		t.Errorf("patches are %v, %v", patches, err)
	}
	if out, err := h.run("revert"); err != nil {
		t.Errorf("second revert: %v\n%s", err, out)
	}
}

func TestApplyByHandIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name  string
		offer func(h *testHost) string
		want  string
	}{
		{"other kernel", func(h *testHost) string {
			return h.file(agenttest.Module{Name: "one"}, func(m *bundle.Manifest) { m.Kernel.Release = "6.1.0-55-cloud-amd64" })
		}, "cannot apply one: built for another kernel: release"},
		{"same release, other build", func(h *testHost) string {
			return h.file(agenttest.Module{Name: "one"}, func(m *bundle.Manifest) { m.Kernel.BuildID = "ff" })
		}, "cannot apply one: built for another kernel: build id"},
		{"unknown signer", func(h *testHost) string {
			h.pub = newPublisher(h.t)
			return h.file(agenttest.Module{Name: "one"})
		}, "signed by no publisher this host trusts"},
		{"flipped bit", func(h *testHost) string {
			path := h.file(agenttest.Module{Name: "one"})
			data, err := os.ReadFile(path)
			must(h.t, err)
			data[len(data)/2] ^= 1
			must(h.t, os.WriteFile(path, data, 0o644))
			return path
		}, "cannot apply bundle"},
		{"foreign live patch", func(h *testHost) string {
			must(h.t, h.kernel.AddForeign("kpatch_site"))
			return h.file(agenttest.Module{Name: "one"})
		}, "live patch kpatch_site"},
		{"stop file", func(h *testHost) string {
			must(h.t, os.WriteFile(filepath.Join(h.folder.Config, "stop"), nil, 0o644))
			return h.file(agenttest.Module{Name: "one"})
		}, "stop file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := alone(t)
			out, err := h.run("apply", "--bundle", tc.offer(h))
			if err == nil || !strings.Contains(out, tc.want) {
				t.Errorf("got %v\n%s", err, out)
			}
			if loads, err := h.kernel.Loads(); err != nil || len(loads) != 0 {
				t.Errorf("loads %v, %v", loads, err)
			}
		})
	}
}

func TestForeignLivePatchSurvivesARevert(t *testing.T) {
	h := alone(t)
	must(t, h.kernel.AddForeign("kpatch_site"))
	if out, err := h.run("revert"); err != nil {
		t.Fatalf("revert: %v\n%s", err, out)
	}
	patches, err := h.kernel.Patches()
	if err != nil || len(patches) != 1 || !patches[0].Enabled {
		t.Errorf("patches are %v, %v", patches, err)
	}
	if out, err := h.run("status"); err != nil || !strings.Contains(out, "kpatch_site") {
		t.Errorf("status: %v\n%s", err, out)
	}
}

func TestRevertByHandHoldsUntilAHigherGeneration(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.start()
	h.allow("r1")
	one := h.server.publish(h.bundle(agenttest.Module{Name: "one"}))
	h.server.order(h.desired(1, one))
	h.wait(wire.PhaseApplied, 1, "")
	if out, err := h.run("revert"); err != nil { // with the daemon running
		t.Fatalf("revert: %v\n%s", err, out)
	}
	h.wait(wire.PhaseReverted, 1, "by the owner's decision")
	h.server.order(h.desired(1, one)) // the same order again changes nothing
	h.stop()
	h.start()
	h.wait(wire.PhaseReverted, 1, "by the owner's decision")
	h.server.order(h.desired(2, one))
	h.wait(wire.PhaseApplied, 2, "")
	if h.loads() != 2 {
		t.Errorf("%d loads", h.loads())
	}
}

func TestDamagedJournalHoldsStill(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.allow("r1")
	must(t, os.WriteFile(filepath.Join(h.folder.State, "journal"), []byte("00000000 {}\nmore\n"), 0o600))
	h.start()
	h.server.order(h.desired(1, h.server.publish(h.bundle(agenttest.Module{Name: "one"}))))
	h.server.wait(h.id, "the damage", func(r wire.Report) bool {
		return r.Phase == wire.PhaseWaiting && strings.Contains(r.Reason, "journal is damaged: line 1")
	})
	if h.loads() != 0 {
		t.Error("it acted")
	}
	if out, err := h.run("status"); err == nil || !strings.Contains(out, "hint: the journal cannot be trusted") {
		t.Errorf("status: %v\n%s", err, out)
	}
}

// TestKilledAgents kills real agent processes at random moments of a rollout
// to and fro, and asks the kernel and the journal whether anything was loaded twice.
func TestKilledAgents(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	h.allow("r1")
	modules := []bundle.Digest{"",
		h.server.publish(h.bundle(agenttest.Module{Name: "one", Transition: 40 * time.Millisecond})),
		h.server.publish(h.bundle(agenttest.Module{Name: "two", Transition: 40 * time.Millisecond})),
	}
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	last := uint64(1)
	for round := 0; round < rounds || h.loads() < 2 && round < 20*rounds; round++ { // on a busy machine an agent is killed before it does anything
		last++
		h.server.order(h.desired(uint64(round+1), modules[(round+1)%3]))
		h.runFor(time.Duration(20+round*23%400) * time.Millisecond)
	}
	h.server.order(h.desired(last, modules[1]))
	h.start()
	h.wait(wire.PhaseApplied, last, "")
	h.stop()
	j, err := agent.ReadJournal(h.folder.State)
	must(t, err)
	seen := map[converge.Key]bool{}
	for _, key := range j.Loads {
		if seen[key] {
			t.Errorf("loaded twice: %+v", key)
		}
		seen[key] = true
	}
	if len(j.Loads) != h.loads() {
		t.Errorf("the journal has %d loads, the kernel %d", len(j.Loads), h.loads())
	}
	if len(j.Loads) < 2 {
		t.Errorf("only %d loads: the rounds were too short to show anything", len(j.Loads))
	}
}

// runFor runs the agent as a process and kills it.
func (h *testHost) runFor(d time.Duration) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), d)
	defer cancel()
	cmd := agenttest.Command(ctx, h.kernel.Dir(), "--state", h.folder.State, "--config", h.folder.Config, "run")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); ctx.Err() == nil {
		h.t.Fatalf("agent ended by itself: %v\n%s", err, out.Bytes())
	}
}

func TestJoinIsRefused(t *testing.T) {
	s := startServer(t)
	pub := newPublisher(t)
	token := s.token()
	folder := func() agent.Folder {
		dir := t.TempDir()
		return agent.Folder{State: filepath.Join(dir, "state"), Config: filepath.Join(dir, "etc")}
	}
	options := agent.JoinOptions{Folder: folder(), Server: s.url, Token: token, PublisherKey: pub.path, Settings: agent.Settings{Name: "a", Ceiling: "act"}}
	wrongCA := strings.Split(token, ".")
	wrongCA[3] = strings.Repeat("ab", 32)
	for name, tc := range map[string]struct {
		change func(*agent.JoinOptions)
		want   string
	}{
		"another CA":       {func(o *agent.JoinOptions) { o.Token = strings.Join(wrongCA, ".") }, "cannot trust the server"},
		"no publisher key": {func(o *agent.JoinOptions) { o.PublisherKey = "" }, "no publisher's key"},
		"not https":        {func(o *agent.JoinOptions) { o.Server = "http://127.0.0.1:1" }, "is not https"},
		"no token":         {func(o *agent.JoinOptions) { o.Token = "x" }, "parse join token"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options
			o.Folder = folder()
			tc.change(&o)
			if _, err := agent.Join(t.Context(), o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v, want %q", err, tc.want)
			}
			if _, err := agent.LoadIdentity(o.State); !errors.Is(err, agent.ErrNotJoined) {
				t.Errorf("an identity was stored: %v", err)
			}
		})
	}
	if _, err := agent.Join(t.Context(), options); err != nil {
		t.Fatal(err) // none of the refusals above used the token up
	}
	if _, err := agent.Join(t.Context(), options); err == nil || !strings.Contains(err.Error(), "has an identity already") {
		t.Errorf("second join of the same host: %v", err)
	}
	options.Folder = folder()
	if _, err := agent.Join(t.Context(), options); !isRefused(err) {
		t.Errorf("second use of the token: %v", err)
	}
}

func TestRenewsItsIdentity(t *testing.T) {
	h := joined(t, startServer(t), newPublisher(t))
	id, err := agent.LoadIdentity(h.folder.State)
	must(t, err)
	// Two thirds of its life are over.
	id.Issued, id.Expires = time.Now().Add(-2*time.Hour), time.Now().Add(30*time.Minute)
	must(t, id.Store(h.folder.State))
	h.start()
	deadline := time.Now().Add(10 * time.Second)
	for {
		now, err := agent.LoadIdentity(h.folder.State)
		must(t, err)
		if time.Until(now.Expires) > time.Hour { // the JWT itself is the same if both were issued in one second
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not renewed")
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.server.order(h.desired(1, ""))
	h.wait(wire.PhaseIdle, 1, "")
}
