package cli

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/api"
)

func newExplain() *cobra.Command {
	cmd := &cobra.Command{Use: "explain", Short: "Say why something is as it is", GroupID: "fleet"}
	socket := serverFlag(cmd)
	host := &cobra.Command{Use: "host ID", Short: "Say what a host is, should be, and waits for", Args: cobra.ExactArgs(1)}
	format := outputFlag(host)
	host.RunE = func(cmd *cobra.Command, args []string) error {
		var e api.Explanation
		if err := dial(*socket).get(cmd.Context(), api.PathExplain, url.Values{"id": {args[0]}}, &e); err != nil {
			return err
		}
		if *format != "table" {
			return write(cmd.OutOrStdout(), *format, e, table{})
		}
		_, err := fmt.Fprint(cmd.OutOrStdout(), explanation(e, time.Now()))
		return err
	}
	cmd.AddCommand(host)
	return cmd
}

func explanation(e api.Explanation, now time.Time) string {
	var b strings.Builder
	row := hostRow(e.Host, now)
	fmt.Fprintf(&b, "host %s (%s), labels %s\n", row[0], row[1], row[8])
	fmt.Fprintf(&b, "  is:     kernel %s, live patches %s, mode %s, phase %s, seen %s\n", row[2], row[3], row[4], row[5], row[7])
	fmt.Fprintf(&b, "  should: %s (generation %d)\n", e.Desired, e.Generation)
	if e.Rollout != "" {
		fmt.Fprintf(&b, "  rollout %s: %s\n", e.Rollout, e.Phase)
	}
	for _, r := range e.Reasons {
		fmt.Fprintf(&b, "  because %s\n", r)
	}
	if len(e.Reasons) == 0 {
		fmt.Fprintln(&b, "  nothing holds it")
	}
	return b.String()
}
