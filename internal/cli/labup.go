package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/api"
	"afloat/internal/bundle"
	"afloat/internal/fleet"
	"afloat/internal/lab"
)

type labUpOptions struct {
	hosts      int
	kernels    []string
	publishers []string
	labels     []string
	modules    []string
	mode       string
	server     string
	token      string
	agent      string
	agentFlags []string
	memory     int
}

func newLabUp(dir *string) *cobra.Command {
	var o labUpOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Boot the lab's hosts, and return when they take traffic",
		Long: `Boots the hosts h1, h2 ... and a load balancer in front of them, starts an afloat
server for them unless --server names one, and lets their agents join it. A
publisher's key is needed for that: it is pinned on every host.

Run again it starts what does not run, on the same disks.`,
		Example: `  afloat keygen -o publisher
  afloat lab up --hosts 3 --kernel debian:6.1.0-55-amd64 --publisher-key publisher.pub
  afloat lab up --kernel debian:6.1.0-55-amd64 --kernel h3=debian:6.1.0-55-cloud-amd64 --label h1:tier=canary`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return labHint(labUp(cmd, *dir, o)) },
	}
	f := cmd.Flags()
	f.IntVar(&o.hosts, "hosts", 3, "number of hosts")
	f.StringArrayVar(&o.kernels, "kernel", nil, "kernel of all hosts, or HOST=KERNEL for one; may be given again")
	f.StringArrayVar(&o.publishers, "publisher-key", nil, "publisher's public key to pin on the hosts; may be given again")
	f.StringArrayVar(&o.labels, "label", nil, "[HOST:]KEY=VALUE that hosts carry; may be given again")
	f.StringArrayVar(&o.modules, "module", nil, "kernel module that hosts load at boot; may be given again")
	f.StringVar(&o.mode, "mode", string(fleet.ModeAct), "mode the agents join in: observe or act")
	f.StringVar(&o.server, "server", "", "URL of a running server to join, as hosts reach it (this machine is 10.0.2.2); needs --token")
	f.StringVar(&o.token, "token", "", "join token of --server, good for all hosts")
	f.StringVar(&o.agent, "agent", "", "the static afloat-agent (default: the one beside this program)")
	f.StringArrayVar(&o.agentFlags, "agent-flag", nil, "flag of afloat-agent run, such as --proven-after=10s; may be given again")
	f.IntVar(&o.memory, "memory", 0, "MB of memory of each host (default 224)")
	return cmd
}

func labUp(cmd *cobra.Command, dir string, o labUpOptions) error {
	ctx, out := cmd.Context(), cmd.ErrOrStderr()
	l, err := lab.Open(dir)
	if errors.Is(err, lab.ErrNoLab) {
		l, err = makeLab(cmd, dir, o)
	}
	if err != nil {
		return err
	}
	l.Notify(func(line string) { fmt.Fprintln(out, line) })
	if err := o.copyPublishers(l); err != nil {
		return err
	}
	if o.server == "" {
		if err := startLabServer(ctx, l); err != nil {
			return err
		}
	}
	if err := l.Up(ctx); err != nil {
		return err
	}
	if err := o.join(ctx, l); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "service: %s\nexport AFLOAT_LAB=%s AFLOAT_SOCKET=%s\n", l.Proxy().URL(), l.Dir(), l.ServerSocket())
	return nil
}

func makeLab(cmd *cobra.Command, dir string, o labUpOptions) (*lab.Lab, error) {
	if o.hosts < 1 || o.hosts > 16 {
		return nil, withHint(fmt.Errorf("cannot run %d hosts", o.hosts), "--hosts takes 1 to 16")
	}
	guest, err := beside("lab-guest")
	if err != nil {
		return nil, err
	}
	if o.agent == "" {
		if o.agent, err = beside("afloat-agent"); err != nil {
			return nil, err
		}
	}
	cfg := lab.Config{Hosts: lab.Hosts(o.hosts, lab.Kernel{}), Guest: guest, Agent: o.agent, Modules: o.modules, MemoryMB: o.memory}
	if err := o.setKernels(cmd, cfg.Hosts); err != nil {
		return nil, err
	}
	l, err := lab.New(dir, cfg)
	if errors.Is(err, lab.ErrNoModule) {
		return nil, withHint(err, "--module takes names as /proc/modules shows them")
	}
	return l, err
}

// beside finds a program that is built together with this one.
func beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own program: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", withHint(fmt.Errorf("cannot find %s beside %s", name, self), "make build")
	}
	return path, nil
}

// setKernels fetches each kernel once and gives it to its hosts.
func (o labUpOptions) setKernels(cmd *cobra.Command, hosts []lab.HostConfig) error {
	all, own := "", map[string]string{}
	for _, k := range o.kernels {
		if host, ref, ok := strings.Cut(k, "="); ok && !strings.Contains(host, ":") {
			own[host] = ref
		} else {
			all = k
		}
	}
	have := map[string]lab.Kernel{}
	for i := range hosts {
		ref := all
		if r, ok := own[hosts[i].Name]; ok {
			ref = r
			delete(own, hosts[i].Name)
		}
		if ref == "" {
			return withHint(fmt.Errorf("cannot tell which kernel %s runs", hosts[i].Name), "--kernel debian:6.1.0-55-amd64; `afloat kernel list --archive` lists what there is")
		}
		if _, ok := have[ref]; !ok {
			k, err := labKernel(cmd, ref)
			if err != nil {
				return err
			}
			have[ref] = k
		}
		hosts[i].Kernel = have[ref]
	}
	for host := range own {
		return withHint(fmt.Errorf("cannot set the kernel of %s: the lab has no such host", host), "hosts are h1 to h%d", len(hosts))
	}
	return nil
}

func labKernel(cmd *cobra.Command, ref string) (lab.Kernel, error) {
	cache, err := kitCache(cmd.ErrOrStderr(), os.Getenv("AFLOAT_DEB_DIR"))
	if err != nil {
		return lab.Kernel{}, err
	}
	k, err := fetchKit(cmd, cache, ref)
	if err != nil {
		return lab.Kernel{}, err
	}
	return lab.KernelOf(k), nil
}

// copyPublishers keeps the keys in the lab, for its server and for hosts that join later.
func (o labUpOptions) copyPublishers(l *lab.Lab) error {
	if err := os.MkdirAll(l.PublishersDir(), 0o755); err != nil {
		return fmt.Errorf("keep publisher's key: %w", err)
	}
	for _, path := range o.publishers {
		content, err := os.ReadFile(path)
		if err != nil {
			return withHint(fmt.Errorf("read publisher's key: %w", err), "afloat keygen -o PATH makes PATH.pub")
		}
		if _, err := bundle.ParsePublicKey(content); err != nil {
			return withHint(fmt.Errorf("read publisher's key %s: %w", path, err), "give the .pub file that afloat keygen made")
		}
		name := strings.TrimSuffix(filepath.Base(path), ".pub") + ".pub"
		if err := os.WriteFile(filepath.Join(l.PublishersDir(), name), content, 0o644); err != nil {
			return fmt.Errorf("keep publisher's key: %w", err)
		}
	}
	return nil
}

// startLabServer starts this same program as the lab's server and waits until it answers.
func startLabServer(ctx context.Context, l *lab.Lab) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	if err := l.StartServer(self); err != nil {
		return err
	}
	const limit = time.Minute
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var status api.Status
		err := dial(l.ServerSocket()).get(ctx, api.PathStatus, nil, &status)
		if err == nil {
			return nil
		}
		if !l.ServerRunning() {
			return withHint(errors.New("the lab's server ended"), "see %s", l.ServerLog())
		}
		select {
		case <-ctx.Done():
			return withHint(fmt.Errorf("wait for the lab's server: %w", errors.Join(context.Cause(ctx), err)), "see %s", l.ServerLog())
		case <-tick.C:
		}
	}
}

// join lets every host join that has not, with one token each so that the
// token's labels are that host's own.
func (o labUpOptions) join(ctx context.Context, l *lab.Lab) error {
	labels, err := o.labelsOf(l)
	if err != nil {
		return err
	}
	keys, err := filepath.Glob(filepath.Join(l.PublishersDir(), "*.pub"))
	if err != nil {
		return fmt.Errorf("find publishers' keys: %w", err)
	}
	for _, h := range l.Hosts() {
		joined, err := h.Joined(ctx)
		if err != nil || joined {
			if err != nil {
				return err
			}
			continue
		}
		if len(keys) == 0 {
			return withHint(fmt.Errorf("cannot let %s join: no publisher's key", h.Name), "--publisher-key PATH.pub; afloat keygen -o PATH makes one")
		}
		if err := o.joinHost(ctx, l, h, labels[h.Name], keys); err != nil {
			return err
		}
	}
	return nil
}

func (o labUpOptions) joinHost(ctx context.Context, l *lab.Lab, h *lab.Host, labels fleet.Labels, keys []string) error {
	j := lab.Join{Server: o.server, Token: o.token, RunFlags: o.agentFlags}
	if o.server == "" {
		var made api.TokenMade
		req := api.NewToken{Mode: fleet.Mode(o.mode), Labels: labels}
		if err := dial(l.ServerSocket()).post(ctx, api.PathTokens, req, &made); err != nil {
			return err
		}
		j.Server, j.Token = made.Server, made.Token
	}
	for _, path := range keys {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read publisher's key: %w", err)
		}
		j.Publishers = append(j.Publishers, lab.Publisher{Name: strings.TrimSuffix(filepath.Base(path), ".pub"), Key: content})
	}
	return h.Join(ctx, j)
}

// labelsOf reads --label: without a HOST a label is every host's.
func (o labUpOptions) labelsOf(l *lab.Lab) (map[string]fleet.Labels, error) {
	labels := map[string]fleet.Labels{}
	for _, h := range l.Hosts() {
		labels[h.Name] = fleet.Labels{"name": h.Name}
	}
	for _, given := range o.labels {
		host, pair, one := strings.Cut(given, ":")
		if !one {
			host, pair = "", given
		}
		if one && labels[host] == nil {
			return nil, withHint(fmt.Errorf("cannot label %s: the lab has no such host", host), "hosts: %s", strings.Join(labHostNames(l), " "))
		}
		parsed, err := parseLabels([]string{pair})
		if err != nil {
			return nil, err
		}
		for name := range labels {
			for k, v := range parsed {
				if host == "" || host == name {
					labels[name][k] = v
				}
			}
		}
	}
	return labels, nil
}
