package cli

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"afloat/internal/api"
)

func newRollout() *cobra.Command {
	cmd := &cobra.Command{Use: "rollout", Short: "Bring hosts to a target, wave by wave", GroupID: "fleet"}
	socket := serverFlag(cmd)
	cmd.AddCommand(newRolloutStart(socket), newRolloutList(socket), newRolloutStatus(socket), newRolloutWatch(socket),
		newRolloutDo(socket, api.VerbAbort, "Start nothing more; hosts that have the target keep it"),
		newRolloutDo(socket, api.VerbRevert, "Start nothing more, and restore what each host ran before"),
		newRolloutDo(socket, api.VerbPause, "Start nothing more until it is resumed"),
		newRolloutDo(socket, api.VerbResume, "Go on with a paused rollout"))
	return cmd
}

// maxPolicy keeps what is no policy away from the server, whose requests have a limit of their own.
const maxPolicy = 64 << 10

func newRolloutStart(socket *string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "start POLICY.yaml", Short: "Start a rollout under a policy", Args: cobra.ExactArgs(1),
		Example: "  afloat rollout start ext4.yaml",
	}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return fmt.Errorf("read policy: %w", err)
		}
		if len(text) > maxPolicy {
			return withHint(fmt.Errorf("cannot start rollout: %s has %d bytes, a policy at most %d", args[0], len(text), maxPolicy),
				"give a policy, a YAML file of a few lines")
		}
		var r api.Rollout
		req := api.StartRollout{Policy: string(text), File: filepath.Base(args[0])}
		if err := dial(*socket).post(cmd.Context(), api.PathRollouts, req, &r); err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if *format != "table" {
			return write(cmd.OutOrStdout(), *format, r, table{})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "rollout %s started: %s on %s in %s\nfollow it with: afloat rollout watch %s\n",
			r.ID, r.Target, counted(r.Hosts, "host"), counted(len(r.Waves), "wave"), r.ID)
		return err
	}
	return cmd
}

func newRolloutList(socket *string) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List rollouts, oldest first", Args: cobra.NoArgs}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all := []api.Rollout{}
		if err := dial(*socket).get(cmd.Context(), api.PathRollouts, nil, &all); err != nil {
			return err
		}
		t := table{head: []string{"ID", "NAME", "TARGET", "STATE", "HOSTS", "PHASES", "STARTED", "REASON"}}
		for _, r := range all {
			t.add(r.ID, r.Name, r.Target, r.State, fmt.Sprint(r.Hosts), phases(r.Phases), when(r.Started), r.Reason)
		}
		return write(cmd.OutOrStdout(), *format, all, t)
	}
	return cmd
}

// phases prints counts as "done 3, waiting 7", the most first.
func phases(counts map[string]int) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return strings.Compare(a, b)
	})
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = fmt.Sprintf("%s %d", name, counts[name])
	}
	return strings.Join(parts, ", ")
}

func newRolloutStatus(socket *string) *cobra.Command {
	cmd := &cobra.Command{Use: "status ID", Short: "Show one rollout with its waves and hosts", Args: cobra.ExactArgs(1)}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var d api.RolloutDetail
		if err := dial(*socket).get(cmd.Context(), api.PathRollout, url.Values{"id": {args[0]}}, &d); err != nil {
			return err
		}
		t := table{head: []string{"HOST", "NAME", "WAVE", "PHASE", "REASON"}}
		for _, h := range d.Members {
			t.add(string(h.ID), h.Name, h.Wave, h.Phase, h.Reason)
		}
		if *format == "table" {
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(summary(d.Rollout), "\n")); err != nil {
				return err
			}
		}
		return write(cmd.OutOrStdout(), *format, d, t)
	}
	return cmd
}

func newRolloutDo(socket *string, verb api.RolloutVerb, short string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{Use: string(verb) + " ID", Short: short, Args: cobra.ExactArgs(1)}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var r api.Rollout
		if err := dial(*socket).post(cmd.Context(), api.PathRolloutDo, api.DoRollout{ID: args[0], Verb: verb, Reason: reason}, &r); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "rollout %s: %s\n", r.ID, r.State)
		return err
	}
	return cmd
}
