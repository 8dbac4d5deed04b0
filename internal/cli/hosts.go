package cli

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/api"
	"afloat/internal/fleet"
	"afloat/internal/wire"
)

func newHosts() *cobra.Command {
	cmd := &cobra.Command{Use: "hosts", Short: "The fleet's hosts", GroupID: "fleet", Args: cobra.NoArgs}
	socket := serverFlag(cmd)
	listing := newHostsList(socket)
	cmd.AddCommand(listing, newHostsMode(socket), newHostsRevoke(socket), newHostsRelease(socket))
	// "afloat hosts" alone lists.
	sel := cmd.Flags().String("select", "", "only hosts whose labels match, for example env=prod,service!=db")
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return listHosts(cmd, *socket, *sel, *format) }
	return cmd
}

func newHostsList(socket *string) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List hosts with what they last said", Args: cobra.NoArgs}
	sel := cmd.Flags().String("select", "", "only hosts whose labels match, for example env=prod,service!=db")
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return listHosts(cmd, *socket, *sel, *format) }
	return cmd
}

func listHosts(cmd *cobra.Command, socket, sel, format string) error {
	hosts := []api.Host{}
	if err := dial(socket).get(cmd.Context(), api.PathHosts, url.Values{"select": {sel}}, &hosts); err != nil {
		return err
	}
	t := table{head: []string{"ID", "NAME", "KERNEL", "LIVE PATCHES", "MODE", "PHASE", "GEN", "SEEN", "LABELS", "REASON"}}
	for _, h := range hosts {
		t.add(hostRow(h, time.Now())...)
	}
	return write(cmd.OutOrStdout(), format, hosts, t)
}

func hostRow(h api.Host, now time.Time) []string {
	kernel, live, mode, phase, gen, reason := "-", "-", string(h.Mode), "-", "-", ""
	if r := h.Report; r != nil {
		kernel, live, phase, gen, reason = r.Kernel.Release, livePatches(r.Live), string(r.Phase), fmt.Sprint(r.Generation), r.Reason
		if r.Mode != h.Mode {
			mode = fmt.Sprintf("%s (told %s)", r.Mode, h.Mode)
		}
		if r.Stopped {
			mode += " stopped"
		}
	}
	seen := "never"
	if !h.Seen.IsZero() {
		seen = max(0, now.Sub(h.Seen)).Round(time.Second).String() + " ago"
	}
	if h.Silent && !h.Seen.IsZero() {
		seen += " SILENT"
	}
	labels := fleet.Labels{}
	for k, v := range h.Labels {
		if k != "host" && k != "name" { // shown already
			labels[k] = v
		}
	}
	return []string{string(h.ID), h.Name, kernel, live, mode, phase, gen, seen, labels.String(), reason}
}

// livePatches names what is loaded: foreign ones are marked, for afloat leaves them alone.
func livePatches(all []wire.LivePatch) string {
	var parts []string
	for _, p := range all {
		s := p.Name
		switch {
		case p.Transition:
			s += " (in transition)"
		case !p.Enabled:
			s += " (disabled)"
		case p.Proven:
			s += " (proven)"
		}
		if p.Bundle == "" {
			s += " (foreign)"
		}
		parts = append(parts, s)
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func newHostsMode(socket *string) *cobra.Command {
	var sel string
	var all bool
	cmd := &cobra.Command{
		Use: "mode observe|act", Short: "Set how far the selected hosts may go", Args: cobra.ExactArgs(1),
		ValidArgs: []string{string(fleet.ModeObserve), string(fleet.ModeAct)},
		Example:   "  afloat hosts mode act --select tier=rc",
	}
	cmd.Flags().StringVar(&sel, "select", "", "which hosts, for example env=prod")
	cmd.Flags().BoolVar(&all, "all", false, "every host")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all == (strings.TrimSpace(sel) != "") {
			return withHint(errors.New("cannot tell which hosts are meant"), "give --select env=prod or the like, or --all for every host")
		}
		var changed api.Changed
		req := api.HostMode{Select: sel, Mode: fleet.Mode(args[0])}
		if err := dial(*socket).post(cmd.Context(), api.PathHostMode, req, &changed); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s set to %s\n", counted(len(changed.Hosts), "host"), args[0])
		return err
	}
	return cmd
}

func newHostsRevoke(socket *string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "revoke HOST", Short: "Take a host's identity away and drop its connection", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := dial(*socket).post(cmd.Context(), api.PathHostRevoke, api.Named{ID: args[0], Reason: reason}, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "host %s is revoked\n", args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	return cmd
}

func newHostsRelease(socket *string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "release HOST", Short: "Let a quarantined host take part in rollouts again", Args: cobra.ExactArgs(1),
		Long: "A host that failed three times in a row, over all rollouts, is quarantined: it is admitted to nothing until it is released.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := dial(*socket).post(cmd.Context(), api.PathHostRelease, api.Named{ID: args[0], Reason: reason}, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "host %s may take part again\n", args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	return cmd
}
