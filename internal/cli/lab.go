package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/lab"
)

func newLab() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "lab",
		Short:   "Run a small fleet of real kernels on this machine, under traffic",
		GroupID: "run",
		Long: `A lab is a few guests in QEMU that run real kernels with the real agent and a
small HTTP workload, a real HAProxy in front of them with retries off, and an
afloat server. It lives in a folder and outlives the command that started it.
No KVM and no root is needed.`,
	}
	dir := cmd.PersistentFlags().String("dir", defaultLab(), "the lab's folder")
	cmd.AddCommand(newLabUp(dir), newLabStatus(dir), newLabExec(dir), newLabFault(dir),
		newLabLoad(dir), newLabConsole(dir), newLabDown(dir), newLabDemo(), newLabCorpus(), newLabBench())
	return cmd
}

func defaultLab() string {
	if dir := os.Getenv("AFLOAT_LAB"); dir != "" {
		return dir
	}
	return filepath.Join(defaultState(), "lab")
}

// openLab opens the lab, and says how to make one where there is none.
func openLab(dir string) (*lab.Lab, error) {
	l, err := lab.Open(dir)
	if errors.Is(err, lab.ErrNoLab) {
		return nil, withHint(err, "afloat lab up --dir %s makes one", dir)
	}
	return l, err
}

// labHint adds to an error how the missing program is installed.
func labHint(err error) error {
	if m, ok := errors.AsType[*lab.MissingError](err); ok {
		return withHint(err, "apt-get install -y --no-install-recommends %s", m.Package)
	}
	return err
}

// labRow is one host in `lab status`.
type labRow struct {
	Host     string  `json:"host"`
	State    string  `json:"state"` // up, cut, silent or off
	Kernel   string  `json:"kernel"`
	Release  string  `json:"release,omitempty"`
	BootID   string  `json:"boot_id,omitempty"`
	Uptime   float64 `json:"uptime_s,omitempty"`
	Balancer string  `json:"balancer,omitempty"` // as HAProxy sees it
	Workload string  `json:"workload"`
	PID      int     `json:"pid,omitempty"`
}

type labStatus struct {
	Dir     string   `json:"dir"`
	Service string   `json:"service"` // URL at the load balancer
	Proxy   bool     `json:"proxy"`
	Server  bool     `json:"server"`
	Socket  string   `json:"socket"`
	Stats   string   `json:"haproxy_socket"`
	Hosts   []labRow `json:"hosts"`
}

func newLabStatus(dir *string) *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show the lab's hosts, load balancer and server", Args: cobra.NoArgs}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := openLab(*dir)
		if err != nil {
			return err
		}
		s := readLab(cmd.Context(), l)
		if *format == "table" {
			fmt.Fprintf(cmd.OutOrStdout(), "service %s (%s)\nserver  %s (%s)\n\n",
				s.Service, runs(s.Proxy), s.Socket, runs(s.Server))
		}
		t := table{head: []string{"HOST", "STATE", "KERNEL", "UP", "BALANCER", "WORKLOAD", "BOOT ID"}}
		for _, h := range s.Hosts {
			t.add(h.Host, h.State, h.Kernel, (time.Duration(h.Uptime) * time.Second).String(), h.Balancer, h.Workload, h.BootID)
		}
		return write(cmd.OutOrStdout(), *format, s, t)
	}
	return cmd
}

func runs(yes bool) string {
	if yes {
		return "runs"
	}
	return "does not run"
}

func readLab(ctx context.Context, l *lab.Lab) labStatus {
	s := labStatus{Dir: l.Dir(), Service: l.Proxy().URL(), Proxy: l.Proxy().Running(),
		Server: l.ServerRunning(), Socket: l.ServerSocket(), Stats: l.Proxy().Socket(), Hosts: []labRow{}}
	balancer := map[string]string{}
	if backends, err := l.Proxy().Backends(ctx); err == nil { // else it is not running, which Proxy says
		for _, b := range backends {
			balancer[b.Host] = b.Status
		}
	}
	for _, h := range l.Hosts() {
		row := readLabHost(ctx, h)
		row.Balancer = balancer[h.Name]
		s.Hosts = append(s.Hosts, row)
	}
	return s
}

func readLabHost(ctx context.Context, h *lab.Host) labRow {
	row := labRow{Host: h.Name, Kernel: h.Kernel.Name, PID: h.PID(), Workload: fmt.Sprintf("127.0.0.1:%d", h.WorkloadPort())}
	if row.PID == 0 {
		row.State = "off"
		return row
	}
	status, err := h.Status(ctx)
	if err != nil {
		row.State = "silent" // boots, or hangs
		return row
	}
	row.State, row.Release, row.BootID, row.Uptime = "up", status.Release, status.BootID, status.Uptime
	if h.IsCut() {
		row.State = "cut"
	}
	return row
}

func newLabExec(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "exec HOST -- COMMAND [ARG...]",
		Short:   "Run a command on a host as root; its exit code becomes this command's",
		Example: "  afloat lab exec h1 -- cat /sys/kernel/livepatch/afloat/enabled",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := labHost(*dir, args[0])
			if err != nil {
				return err
			}
			r, err := h.Exec(cmd.Context(), args[1:]...)
			fmt.Fprint(cmd.OutOrStdout(), r.Stdout)
			fmt.Fprint(cmd.ErrOrStderr(), r.Stderr)
			if err != nil {
				return err
			}
			if r.Code != 0 {
				return &exitError{code: r.Code, err: fmt.Errorf("%s on %s ended with exit code %d", args[1], h.Name, r.Code)}
			}
			return nil
		},
	}
}

func labHost(dir, name string) (*lab.Host, error) {
	l, err := openLab(dir)
	if err != nil {
		return nil, err
	}
	h, err := l.Host(name)
	if err != nil {
		return nil, withHint(err, "hosts: %s", strings.Join(labHostNames(l), " "))
	}
	return h, nil
}

func labHostNames(l *lab.Lab) []string {
	var names []string
	for _, h := range l.Hosts() {
		names = append(names, h.Name)
	}
	return names
}

// labFaults are what can be done to a host. Each waits until it is done; only
// power-on waits for the guest.
var labFaults = map[string]func(context.Context, *lab.Host) error{
	"cut":       func(ctx context.Context, h *lab.Host) error { return h.Cut(ctx) },
	"restore":   func(ctx context.Context, h *lab.Host) error { return h.Restore(ctx) },
	"power-off": func(ctx context.Context, h *lab.Host) error { return h.PowerOff(ctx) },
	"power-on":  func(ctx context.Context, h *lab.Host) error { return errors.Join(h.Start(), h.WaitReady(ctx)) },
	"reset":     func(ctx context.Context, h *lab.Host) error { return h.Reset(ctx) },
	"crash":     func(ctx context.Context, h *lab.Host) error { return h.Crash(ctx) },
}

func newLabFault(dir *string) *cobra.Command {
	kinds := []string{"cut", "restore", "power-off", "power-on", "reset", "crash"}
	return &cobra.Command{
		Use:   "fault HOST " + strings.Join(kinds, "|"),
		Short: "Break a host, or mend it",
		Long: `cut        packets to and from the host vanish; lab exec still works
restore    undo cut
power-off  pull the plug: nothing is flushed
power-on   boot it again, and wait until it answers
reset      press the reset button
crash      panic the kernel; it boots again after 3 s`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := labHost(*dir, args[0])
			if err != nil {
				return err
			}
			do, ok := labFaults[args[1]]
			if !ok {
				return withHint(fmt.Errorf("cannot do %q to a host", args[1]), "one of: %s", strings.Join(kinds, " "))
			}
			if err := do(cmd.Context(), h); err != nil {
				return labHint(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s done\n", h.Name, args[1])
			return nil
		},
	}
}

func newLabConsole(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "console HOST", Short: "Print all that a host's kernel said, over every boot", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := labHost(*dir, args[0])
			if err != nil {
				return err
			}
			log, err := h.ConsoleLog()
			fmt.Fprint(cmd.OutOrStdout(), log)
			return err
		},
	}
}

func newLabDown(dir *string) *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use: "down", Short: "End the lab's guests, load balancer and server, and delete its folder", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := openLab(*dir)
			if err != nil {
				return err
			}
			if keep {
				err = l.Down(cmd.Context())
			} else {
				err = l.Remove(cmd.Context())
			}
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "lab %s is down\n", l.Dir())
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "keep disks, logs and the server's state; lab up goes on with them")
	return cmd
}

func newLabLoad(dir *string) *cobra.Command {
	var rate float64
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Send requests to the service at a constant rate and count what fails",
		Long: `Sends requests through the load balancer at a constant rate, whether or not
earlier ones were answered, each once. A request fails when its answer is not
2xx, its connection breaks, or it takes over 5 s. Exit code 1 when any failed.`,
		Args: cobra.NoArgs,
	}
	format := outputFlag(cmd)
	cmd.Flags().Float64Var(&rate, "rate", 40, "requests per second")
	cmd.Flags().DurationVar(&duration, "duration", 10*time.Second, "how long; 0 until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := openLab(*dir)
		if err != nil {
			return err
		}
		load, err := l.Meter(rate).Run(cmd.Context(), duration)
		if err != nil {
			return err
		}
		t := table{head: []string{"REQUESTS", "FAILED", "P50", "P95", "P99", "MAX", "FAILURES"}}
		t.add(strconv.Itoa(load.Requests), strconv.Itoa(load.Failed), milliseconds(load.P50), milliseconds(load.P95),
			milliseconds(load.P99), milliseconds(load.Max), load.Kinds())
		if err := write(cmd.OutOrStdout(), *format, load, t); err != nil {
			return err
		}
		if load.Failed > 0 {
			return fmt.Errorf("%d of %d requests failed", load.Failed, load.Requests)
		}
		return nil
	}
	return cmd
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1fms", float64(d.Microseconds())/1000)
}
