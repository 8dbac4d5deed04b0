// Package agentcmd is the command line of afloat-agent: thin layers over
// package agent. Hints for people live here.
package agentcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"afloat/internal/agent"
	"afloat/internal/converge"
	"afloat/internal/flags"
	"afloat/internal/wire"

	"github.com/spf13/cobra"
)

// Host gives the commands a kernel and a machine. Only what a command needs is opened.
type Host func() (agent.Kernel, agent.Machine, agent.CrashSource, error)

// Main runs afloat-agent and returns its exit code.
func Main(host Host, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := New(host)
	root.SetArgs(args)
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "afloat-agent: %v\n", flags.Explain(err))
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", hint)
	} else if !started || strings.HasPrefix(err.Error(), "required flag(s)") {
		fmt.Fprintf(os.Stderr, "hint: usage: %s; more with --help\n", cmd.UseLine())
	}
	return 1
}

// logLevel is the value of --log: a wrong one is refused before anything is done.
type logLevel slog.Level

func (l *logLevel) String() string { return strings.ToLower(slog.Level(*l).String()) }
func (l *logLevel) Type() string   { return "string" }

func (l *logLevel) Set(value string) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(value)); err != nil {
		return fmt.Errorf("cannot log at %q: want debug, info, warn or error", value)
	}
	*l = logLevel(level)
	return nil
}

func hintFor(err error) string {
	switch {
	case errors.Is(err, agent.ErrNotJoined):
		return "join first: afloat-agent join --server https://HOST:PORT --token TOKEN --publisher-key FILE"
	case errors.Is(err, agent.ErrJournal):
		return "the journal cannot be trusted, so the agent holds still; with the file moved away it starts anew, and takes what is loaded for foreign until the next boot"
	case errors.Is(err, os.ErrPermission):
		return "run it as root"
	}
	return ""
}

// New returns the whole command tree.
func New(host Host) *cobra.Command {
	c := &commands{host: host}
	root := &cobra.Command{
		Use:           "afloat-agent",
		Short:         "Keep this host at what its afloat server asks, as far as its owner allows",
		Version:       agent.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := root.PersistentFlags()
	f.StringVar(&c.folder.State, "state", agent.DefaultState, "folder of journal, identity and bundles")
	f.StringVar(&c.folder.Config, "config", agent.DefaultConfig, "folder of settings, publishers.d and the stop file")
	f.Var(&c.logLevel, "log", "least level of log lines on standard error: debug, info, warn, error")
	limits := converge.DefaultLimits()
	f.DurationVar(&c.limits.Proven, "proven-after", limits.Proven, "how long a live patch must be up to count as proven")
	f.DurationVar(&c.limits.Stall, "stall-after", limits.Stall, "how long a transition may take before it is reversed")
	root.AddCommand(c.join(), c.run(), c.status(), c.apply(), c.revert(), c.mark(), c.version())
	return root
}

// commands is what all subcommands share.
type commands struct {
	host     Host
	folder   agent.Folder
	limits   converge.Limits
	logLevel logLevel
}

func (c *commands) options(cmd *cobra.Command) (agent.Options, error) {
	if c.limits.Proven <= 0 || c.limits.Stall <= 0 {
		return agent.Options{}, errors.New("cannot use a time of 0 for --proven-after or --stall-after")
	}
	k, m, log, err := c.host()
	if err != nil {
		return agent.Options{}, err
	}
	return agent.Options{
		Folder: c.folder, Kernel: k, Machine: m, Crash: log, Version: agent.Version, Limits: c.limits,
		Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.Level(c.logLevel)})),
	}, nil
}

func (c *commands) run() *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "Run the agent until it is told to stop", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := c.options(cmd)
			if err != nil {
				return err
			}
			a, err := agent.New(o)
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
}

func (c *commands) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "afloat-agent %s (wire %d)\n", agent.Version, wire.Version)
			return err
		},
	}
}

func (c *commands) mark() *cobra.Command {
	return &cobra.Command{
		Use:   "shutdown-mark",
		Short: "Journal that this boot is about to end in order",
		Long: "Journal that this boot is about to end in order, so that the next one is not taken for a crash.\n" +
			"To be called by the init system on its way down; starting the agent again in this boot takes it back.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := c.local(cmd)
			if err != nil {
				return err
			}
			return l.MarkShutdown(cmd.Context())
		},
	}
}

func (c *commands) local(cmd *cobra.Command) (*agent.Local, error) {
	o, err := c.options(cmd)
	if err != nil {
		return nil, err
	}
	return agent.NewLocal(o), nil
}

// progress prints each action that does something.
func progress(w io.Writer) func(converge.Action) {
	return func(a converge.Action) {
		if a.Kind != converge.Wait && a.Kind != converge.Watch {
			fmt.Fprintf(w, "%s: %s\n", a.Kind, a.Reason)
		}
	}
}
