package cli

import (
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/api"
	"afloat/internal/plan"
	"afloat/internal/policy"
)

func newPlan() *cobra.Command {
	cmd := &cobra.Command{
		Use: "plan POLICY.yaml", Short: "Forecast a rollout on the real fleet without touching it", GroupID: "fleet", Args: cobra.ExactArgs(1),
		Long: "Plays a policy ahead on the hosts as the server knows them now, with no surprises: waves, when each opens, how long it takes,\nand what no schedule can beat. Hosts that are silent count as down. Nothing is changed.",
	}
	socket := serverFlag(cmd)
	takes := cmd.Flags().Duration("takes", 0, "how long a host is out; default 1.5s for a live patch, 10m for anything else")
	asJSON := cmd.Flags().Bool("json", false, "print the whole forecast as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		source, err := os.ReadFile(args[0])
		if err != nil {
			return fmt.Errorf("read policy: %w", err)
		}
		p, err := policy.Parse(source)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		var hosts []api.Host
		if err := dial(*socket).get(cmd.Context(), api.PathHosts, url.Values{"select": {p.Select.String()}}, &hosts); err != nil {
			return err
		}
		return printForecast(cmd.OutOrStdout(), p, plan.Ahead(p, work(p, hosts, *takes), time.Now()), *asJSON)
	}
	return cmd
}

func work(p *policy.Policy, hosts []api.Host, takes time.Duration) []plan.Work {
	switch {
	case takes > 0:
	case p.Target.Disrupts():
		takes = 10 * time.Minute
	default:
		takes = 1500 * time.Millisecond
	}
	out := make([]plan.Work, len(hosts))
	for i, h := range hosts {
		out[i] = plan.Work{Labels: h.Labels, Takes: takes, Out: h.Silent}
	}
	return out
}
