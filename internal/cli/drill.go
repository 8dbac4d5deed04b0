package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/sim"
)

func newDrill() *cobra.Command {
	var names []string
	for _, d := range sim.Drills() {
		names = append(names, d.Name)
	}
	cmd := &cobra.Command{
		Use: "drill [NAME...]", Short: "Rehearse failures on a virtual fleet, with a score", GroupID: "fleet",
		Long:      "Plays each rehearsal (all without a name): " + strings.Join(names, ", ") + ".\nIt fails when one of them does not end as it must.",
		ValidArgs: names,
	}
	hosts := cmd.Flags().Int("hosts", 2000, "size of the virtual fleet")
	runs := cmd.Flags().Int("runs", 5, "runs of each rehearsal, each with another seed")
	seed := cmd.Flags().Uint64("seed", 1, "first seed")
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		results, err := playDrills(args, *hosts, *runs, *seed)
		if err != nil {
			return err
		}
		passed, all := 0, 0
		t := table{head: []string{"DRILL", "PASSED", "ENDS", "EXPOSED", "CRASHES", "TOOK", "WRONG"}}
		for _, r := range results {
			passed, all = passed+r.Passed, all+r.Runs
			t.add(r.Drill, fmt.Sprintf("%d/%d", r.Passed, r.Runs), ends(r), fmt.Sprint(r.Exposed), fmt.Sprint(r.Crashes), r.Took.Round(time.Minute).String(), strings.Join(r.Failures, "; "))
		}
		if err := write(cmd.OutOrStdout(), *format, results, t); err != nil {
			return err
		}
		if passed < all {
			return fmt.Errorf("%d of %d rehearsals failed", all-passed, all)
		}
		return nil
	}
	return cmd
}

// ends is how the runs of a drill must end, and how many held instead.
func ends(r sim.DrillResult) string {
	if r.Held == 0 {
		return string(r.Ends)
	}
	return fmt.Sprintf("%s (%d held on one crash)", r.Ends, r.Held)
}

func playDrills(names []string, hosts, runs int, seed uint64) ([]sim.DrillResult, error) {
	known := map[string]sim.Drill{}
	var order []string
	for _, d := range sim.Drills() {
		known[d.Name], order = d, append(order, d.Name)
	}
	if len(names) == 0 {
		names = order
	}
	out := []sim.DrillResult{}
	for _, n := range names {
		d, ok := known[n]
		if !ok {
			return nil, withHint(fmt.Errorf("cannot play drill %q: there is none of that name", n), "afloat help drill lists them")
		}
		r, err := d.Play(hosts, runs, seed)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}
