// Package cli is the command line of afloat: one file per subcommand, each a
// thin layer over the packages that do the work. Hints for people live here.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"afloat/internal/flags"
)

// Version is what `afloat --version` prints; the Makefile sets it at link time.
var Version = "dev"

// Main runs afloat with the process's arguments and returns its exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, New(), os.Stderr)
}

// New returns the whole command tree.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:           "afloat",
		Short:         "Keep a fleet of Linux hosts patched without taking its services down",
		Version:       Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddGroup(
		&cobra.Group{ID: "build", Title: "From a patch to a bundle:"},
		&cobra.Group{ID: "fleet", Title: "The fleet and its rollouts:"},
		&cobra.Group{ID: "run", Title: "Running afloat:"},
	)
	for _, add := range commands() {
		root.AddCommand(add)
	}
	refuseUnknown(root)
	return root
}

// refuseUnknown makes a command that only holds others refuse a name that none
// of them has: cobra would print its help and call that a success.
func refuseUnknown(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.HasSubCommands() && !c.Runnable() {
			c.Args, c.RunE = cobra.NoArgs, func(c *cobra.Command, _ []string) error { return c.Help() }
		}
		refuseUnknown(c)
	}
}

// commands lists every subcommand; to add one, write its file and name it here.
func commands() []*cobra.Command {
	return []*cobra.Command{
		newServer(),
		newBackup(),
		newRestore(),
		newToken(),
		newHosts(),
		newDebt(),
		newBundle(),
		newAudit(),
		newRollout(),
		newExplain(),
		newPlan(),
		newSim(),
		newDrill(),
		newKernel(),
		newBuild(),
		newInspect(),
		newKeygen(),
		newObjdiff(),
		newLab(),
		newVersion(),
	}
}

// exitError carries an exit code other than 1 to Main.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// hintError adds what the person can do next.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// withHint returns err with a hint that is printed below it.
func withHint(err error, format string, args ...any) error {
	return &hintError{err: err, hint: fmt.Sprintf(format, args...)}
}

func run(ctx context.Context, root *cobra.Command, stderr io.Writer) int {
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	err = flags.Explain(err)
	if _, ok := errors.AsType[*hintError](err); !ok && (!started || strings.HasPrefix(err.Error(), "required flag(s)")) {
		err = misused(cmd, err)
	}
	report(stderr, err)
	return exitCode(err)
}

// report prints an error, and below it what the person can do next.
func report(stderr io.Writer, err error) {
	fmt.Fprintf(stderr, "afloat: %v\n", err)
	if h, ok := errors.AsType[*hintError](err); ok {
		fmt.Fprintf(stderr, "hint: %s\n", h.hint)
	}
}

// exitCode is the exit code that an error asks for.
func exitCode(err error) int {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return 1
}

// misused adds how a command is written to a complaint about its command line.
func misused(cmd *cobra.Command, err error) error {
	if cmd.HasSubCommands() && !cmd.HasParent() {
		return withHint(err, "%s --help lists the commands", cmd.CommandPath())
	}
	return withHint(err, "usage: %s; more with --help", cmd.UseLine())
}
