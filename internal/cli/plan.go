package cli

import (
	"fmt"
	"iter"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/api"
	"afloat/internal/control"
	"afloat/internal/fleet"
	"afloat/internal/plan"
	"afloat/internal/policy"
)

func newPlan() *cobra.Command {
	cmd := &cobra.Command{
		Use: "plan POLICY.yaml", Short: "Forecast a rollout on the real fleet without touching it", GroupID: "fleet", Args: cobra.ExactArgs(1),
		Long: "Plays a policy ahead on the hosts as the server knows them now, with no surprises: waves, when each opens, how long it takes,\nand what no schedule can beat. Hosts that are silent count as down. Nothing is changed.",
	}
	socket := serverFlag(cmd)
	takes := cmd.Flags().Duration("takes", 0, "how long a host is out; default 1.5s for a live patch, otherwise what nine of ten hosts of its hardware label took before, or 10m")
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
		if err := dial(*socket).get(cmd.Context(), api.PathHosts, url.Values{"select": {concerned(p)}}, &hosts); err != nil {
			return err
		}
		var took []api.Took
		if err := dial(*socket).get(cmd.Context(), api.PathTook, nil, &took); err != nil {
			return err
		}
		parts, rest := apart(p, hosts)
		f := ahead(p, work(p, parts, *takes, took), time.Now())
		unbound := plan.UnboundBy(p, labels(hosts))
		if *asJSON {
			return write(cmd.OutOrStdout(), "json", livePlan{f, rest, unbound}, table{})
		}
		if err := printForecast(cmd.OutOrStdout(), p, f, false); err != nil {
			return err
		}
		for _, u := range unbound {
			fmt.Fprintln(cmd.OutOrStdout(), u)
		}
		for _, r := range rest {
			fmt.Fprintf(cmd.OutOrStdout(), "not counted: %s: %s\n", r.Why, r.names())
		}
		return nil
	}
	return cmd
}

// foreseen is a forecast with what it leaves of the capacity.
type foreseen struct {
	plan.Forecast
	Budgets  []plan.Peak `json:"budgets,omitempty"`
	Services []plan.Low  `json:"services,omitempty"`
}

func ahead(p *policy.Policy, hosts []plan.Work, from time.Time) foreseen {
	f := plan.Ahead(p, hosts, from)
	return foreseen{f, plan.Peaks(p, hosts, f), plan.Lows(p, hosts, f)}
}

// livePlan is the forecast and who has no part in it.
type livePlan struct {
	foreseen
	Rest    []left         `json:"not_counted,omitempty"`
	Unbound []plan.Unbound `json:"unbound,omitempty"`
}

func labels(hosts []api.Host) iter.Seq[fleet.Labels] {
	return func(yield func(fleet.Labels) bool) {
		for _, h := range hosts {
			if !yield(h.Labels) {
				return
			}
		}
	}
}

// left are hosts that no rollout would take as they are now.
type left struct {
	Why   string   `json:"why"`
	Hosts []string `json:"hosts"`
}

func (l left) names() string {
	const most = 3
	if len(l.Hosts) <= most {
		return strings.Join(l.Hosts, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(l.Hosts[:most], ", "), len(l.Hosts)-most)
}

// concerned selects the hosts that the forecast needs: budgets count hosts that
// the policy does not select, too.
func concerned(p *policy.Policy) string {
	if len(p.Budgets) > 0 {
		return ""
	}
	return p.Select.String()
}

// apart are the hosts that a rollout may take or that count in its budgets, and
// the others by the reason.
func apart(p *policy.Policy, hosts []api.Host) (parts []api.Host, rest []left) {
	for _, h := range hosts {
		why := ""
		switch {
		case !p.Select.Matches(h.Labels):
			parts = append(parts, h)
			continue
		case h.Report == nil:
			why = "never heard of"
		case h.Report.Stopped:
			why = "stopped by its owner"
		case h.Mode != fleet.ModeAct:
			why = "kept in observe mode by the server"
		case h.Report.Mode != fleet.ModeAct:
			why = "in observe mode"
		case h.Report.Blind != "":
			why = "its crash evidence cannot be seen"
		default:
			parts = append(parts, h)
			continue
		}
		i := slices.IndexFunc(rest, func(l left) bool { return l.Why == why })
		if i < 0 {
			i, rest = len(rest), append(rest, left{Why: why})
		}
		rest[i].Hosts = append(rest[i].Hosts, h.Name)
	}
	return parts, rest
}

func work(p *policy.Policy, hosts []api.Host, takes time.Duration, took []api.Took) []plan.Work {
	out := make([]plan.Work, len(hosts))
	for i, h := range hosts {
		out[i] = plan.Work{Labels: h.Labels, Takes: takes, Out: h.Silent}
		if takes == 0 {
			out[i].Takes = usual(p, h.Labels["hardware"], took)
		}
	}
	return out
}

// enough is how many hosts a usual time rests on at least.
const enough = 5

// usual is how long hosts of a class of hardware are out for the policy's target.
func usual(p *policy.Policy, hardware string, took []api.Took) time.Duration {
	if !p.Target.Disrupts() {
		return 1500 * time.Millisecond
	}
	for _, t := range took {
		if t.Action == control.Action(p.Target.Action) && t.Hardware == hardware && t.Hosts >= enough {
			return time.Duration(t.P90S * float64(time.Second))
		}
	}
	return 10 * time.Minute
}
