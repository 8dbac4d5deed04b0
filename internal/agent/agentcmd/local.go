package agentcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"afloat/internal/agent"

	"github.com/spf13/cobra"
)

func (c *commands) apply() *cobra.Command {
	var path string
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "apply --bundle FILE",
		Short: "Load a bundle by hand, without the server",
		Long: "Load a bundle by hand, without the server. Signature, kernel identity, foreign live patches and the stop\n" +
			"file are checked as for an order of the server. It holds until the server gives a higher generation.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("read bundle: %w", err)
			}
			l, err := c.local(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			a, err := l.Apply(ctx, file, progress(cmd.OutOrStdout()))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", a.Phase, a.Reason)
			return err
		},
	}
	cmd.Flags().StringVar(&path, "bundle", "", "bundle file")
	cmd.Flags().DurationVar(&limit, "timeout", 3*time.Minute, "give up waiting after this time")
	_ = cmd.MarkFlagRequired("bundle")
	return cmd
}

func (c *commands) revert() *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "revert",
		Short: "Take afloat's live patches off this host now, with or without a server",
		Long: "Take off the live patches that afloat loaded, and keep them off until the server gives a higher generation.\n" +
			"It works without server, network and daemon, in observe mode and with the stop file there.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := c.local(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			if _, err := l.Revert(ctx, progress(cmd.OutOrStdout())); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "no live patch of afloat's is loaded")
			return err
		},
	}
	cmd.Flags().DurationVar(&limit, "timeout", 3*time.Minute, "give up waiting after this time")
	return cmd
}

func (c *commands) status() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "status", Short: "Say what this host is, from its journal and kernel alone", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := c.local(cmd)
			if err != nil {
				return err
			}
			s, err := l.Status(c.folder)
			if err != nil {
				return err
			}
			switch format {
			case "json", "yaml": // JSON is YAML too, and a YAML library would make this program a tenth larger
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			case "table":
				return printStatus(cmd.OutOrStdout(), s)
			}
			return fmt.Errorf("cannot print as %q: -o takes table, json or yaml", format)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "output format: table, json or yaml")
	return cmd
}

func printStatus(w io.Writer, s agent.Status) error {
	r := s.Report
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(tw, "%s\t%s\n", name, value)
		}
	}
	row("host", string(r.Host))
	row("name", r.Name)
	row("server", s.Server)
	row("labels", r.Labels.String())
	row("kernel", r.Kernel.String())
	row("mode", string(r.Mode))
	if r.Stopped {
		row("stopped", "by the stop file")
	}
	row("generation", fmt.Sprintf("%d (epoch %d)", r.Generation, r.Epoch))
	row("phase", string(r.Phase))
	row("reason", r.Reason)
	row("problem", s.Problem)
	for _, p := range r.Live {
		row("live patch", describe(p.Name, p.Enabled, p.Transition, p.Bundle.Short(), p.Proven))
	}
	row("foreign", strings.Join(s.Foreign, ", "))
	for _, crash := range r.Crashes {
		row("crash", fmt.Sprintf("%s in boot %s", crash.Kind, crash.Boot))
	}
	return tw.Flush()
}

func describe(name string, enabled, transition bool, bundle string, proven bool) string {
	words := []string{name}
	if bundle != "" {
		words = append(words, "bundle "+bundle)
	}
	for _, w := range []struct {
		on   bool
		word string
	}{{enabled, "enabled"}, {!enabled, "disabled"}, {transition, "in transition"}, {proven, "proven"}} {
		if w.on {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, ", ")
}
