package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afloat/internal/api"
	"afloat/internal/bundle"
	"afloat/internal/converge"
	"afloat/internal/kit/kittest"
	"afloat/internal/lab"
	"afloat/internal/wire"
)

const (
	amd64 = "debian:6.1.0-55-amd64"
	cloud = "debian:6.1.0-55-cloud-amd64"
	// provenAfter is short, so that a test can wait for it.
	provenAfter = 12 * time.Second
)

var bin string // folder of the programs under test; only TestMain writes it

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "afloat-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "afloat/cmd/afloat", "afloat/cmd/afloat-agent")
	guest := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "lab-guest"), "afloat/internal/lab/guest")
	for _, cmd := range []*exec.Cmd{build, guest} {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build programs: %v: %s", err, out)
			return 1
		}
	}
	return m.Run()
}

// world is a lab with its server, driven by the commands that operators type.
type world struct {
	*testing.T
	dir string
	lab *lab.Lab
	env []string
}

// newWorld makes the publisher's key and checks that the lab can run here.
func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("boots guests")
	}
	for _, program := range []string{"qemu-system-x86_64", "haproxy", "mke2fs", "apt-get"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is missing: scripts/setup installs it", program)
		}
	}
	kittest.Open(t, amd64)
	w := &world{T: t, dir: t.TempDir(), env: os.Environ()}
	w.afloat("keygen", "-o", w.file("publisher"))
	return w
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

// up boots the lab and waits until every agent has reported.
func (w *world) up(hosts int, flags ...string) {
	w.Helper()
	dir := w.file("lab")
	w.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if w.Failed() {
			w.lastWords(ctx)
		}
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "afloat"), "lab", "down", "--dir", dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			w.Errorf("lab down: %v: %s", err, out)
		}
	})
	w.afloat(append([]string{"lab", "up", "--dir", dir, "--hosts", fmt.Sprint(hosts), "--kernel", amd64,
		"--publisher-key", w.file("publisher.pub"), "--agent-flag=--proven-after=" + provenAfter.String()}, flags...)...)
	l, err := lab.Open(dir)
	if err != nil {
		w.Fatal(err)
	}
	w.lab = l
	w.env = append(w.env, "AFLOAT_SOCKET="+l.ServerSocket())
	w.until("agents to report", time.Minute, func() bool {
		n := 0
		for _, h := range w.hosts() {
			if h.Report != nil {
				n++
			}
		}
		return n == hosts
	})
}

func (w *world) lastWords(ctx context.Context) {
	if w.lab == nil {
		return
	}
	for _, h := range w.lab.Hosts() {
		log, _ := h.ConsoleLog()
		w.Logf("console of %s: ...%s", h.Name, log[max(0, len(log)-1500):])
		if text, err := h.AgentLog(ctx); err == nil {
			w.Logf("agent of %s: ...%s", h.Name, text[max(0, len(text)-1500):])
		}
	}
	if log, err := os.ReadFile(w.lab.ServerLog()); err == nil {
		w.Logf("server: ...%s", log[max(0, len(log)-2500):])
	}
}

// try runs the real binary and returns what it said.
func (w *world) try(args ...string) (string, error) {
	cmd := exec.CommandContext(w.Context(), filepath.Join(bin, "afloat"), args...)
	cmd.Env = w.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// afloat runs a command that must work.
func (w *world) afloat(args ...string) string {
	w.Helper()
	out, err := w.try(args...)
	if err != nil {
		w.Fatalf("afloat %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// ask decodes the JSON of a listing; false when the server did not answer.
func (w *world) ask(into any, args ...string) bool {
	cmd := exec.CommandContext(w.Context(), filepath.Join(bin, "afloat"), append(args, "-o", "json")...)
	cmd.Env = w.env
	out, err := cmd.Output()
	if err != nil {
		return false
	}
	if err := json.Unmarshal(out, into); err != nil {
		w.Fatalf("afloat %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return true
}

func (w *world) hosts() []api.Host {
	var hosts []api.Host
	w.ask(&hosts, "hosts")
	return hosts
}

func (w *world) report(name string) (wire.Report, api.Host) {
	for _, h := range w.hosts() {
		if h.Name == name && h.Report != nil {
			return *h.Report, h
		}
	}
	return wire.Report{}, api.Host{}
}

func (w *world) until(what string, limit time.Duration, done func() bool) {
	w.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			w.Fatalf("waited %v for %s in vain", limit, what)
		case <-w.Context().Done():
			w.Fatal(w.Context().Err())
		case <-tick.C:
		}
	}
}

func (w *world) host(name string) *lab.Host {
	w.Helper()
	h, err := w.lab.Host(name)
	if err != nil {
		w.Fatal(err)
	}
	return h
}

func (w *world) guest(name string, argv ...string) string {
	w.Helper()
	out, err := w.host(name).Run(w.Context(), argv...)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// built is a bundle that was built and added to the catalog.
type built struct {
	file   string
	digest bundle.Digest
	module string
}

func (w *world) build(kernel, name string, diffs ...string) built {
	w.Helper()
	b := built{file: w.file(name + "-" + strings.ReplaceAll(strings.TrimPrefix(kernel, "debian:"), "/", "-") + ".afloat")}
	w.afloat(append([]string{"build", "--kernel", kernel, "--key", w.file("publisher"), "--name", name, "-o", b.file}, diffs...)...)
	data, err := os.ReadFile(b.file)
	if err != nil {
		w.Fatal(err)
	}
	opened, err := bundle.Decode(data)
	if err != nil {
		w.Fatal(err)
	}
	b.digest, b.module = bundle.DigestOf(data), opened.Manifest.Module
	return b
}

// start begins a rollout of the patch set on the selected hosts, all at once.
func (w *world) start(rollout, live, selector string) string {
	w.Helper()
	text := fmt.Sprintf("name: %s\ntarget: {live: %s}\nselect: %q\nwaves: [{name: all, size: 100%%, soak: 2s}]\n"+
		"gate: {crashes: {cap: {excess: 1/1000, within: 24h}}}\n", rollout, live, selector)
	file := w.file(rollout + ".yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		w.Fatal(err)
	}
	w.afloat("rollout", "start", file)
	var all []api.Rollout
	if !w.ask(&all, "rollout", "list") {
		w.Fatal("rollout list does not answer")
	}
	for _, r := range all {
		if r.Name == rollout {
			return r.ID
		}
	}
	w.Fatalf("rollout %s is not in the list", rollout)
	return ""
}

// rollout is a rollout as the server sees it; the zero value while it does not answer.
func (w *world) rollout(id string) api.RolloutDetail {
	var d api.RolloutDetail
	w.ask(&d, "rollout", "status", id)
	return d
}

// runs says whether the guest's own kernel has the module enabled and its transition over.
func (w *world) runs(host, module string) bool {
	r, err := w.host(host).Exec(w.Context(), "cat", "/sys/kernel/livepatch/"+module+"/enabled",
		"/sys/kernel/livepatch/"+module+"/transition")
	return err == nil && r.Code == 0 && strings.Join(strings.Fields(r.Stdout), " ") == "1 0"
}

// clean fails the test if a kernel complained.
func (w *world) clean(hosts ...string) {
	w.Helper()
	for _, h := range hosts {
		for line := range strings.Lines(w.guest(h, "dmesg")) {
			for _, bad := range []string{"WARNING:", "BUG:", "Oops:", "EXT4-fs error"} {
				if strings.Contains(line, bad) {
					w.Errorf("%s's kernel says: %s", h, line)
				}
			}
		}
	}
}

// loads counts the successful loads in a host's journal by boot and order; law
// 4 allows one each.
func (w *world) loads(host string) map[converge.Key]int {
	w.Helper()
	counts := map[converge.Key]int{}
	for line := range strings.Lines(w.guest(host, "cat", "/var/lib/afloat/journal")) {
		var entry struct {
			Record *converge.Record `json:"record"`
		}
		if len(line) < 10 {
			continue
		}
		if err := json.Unmarshal([]byte(line[9:]), &entry); err != nil {
			w.Fatalf("journal of %s: %v: %s", host, err, line)
		}
		if r := entry.Record; r != nil && r.Kind == converge.RecordLoaded {
			counts[converge.Key{Boot: r.Boot, Order: r.Order}]++
		}
	}
	return counts
}

// untilClosed is a context that ends when end is closed.
func untilClosed(parent context.Context, end <-chan struct{}) context.Context {
	ctx, cancel := context.WithCancel(parent)
	go func() {
		defer cancel()
		select {
		case <-end:
		case <-ctx.Done():
		}
	}()
	return ctx
}
