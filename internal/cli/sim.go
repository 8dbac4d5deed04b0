package cli

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/plan"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/sim"
)

type simOptions struct {
	fleet   string
	hosts   int
	seed    uint64
	faults  []string
	horizon time.Duration
	json    bool
	svg     string
	takes   time.Duration

	forecast bool
}

func newSim() *cobra.Command {
	var o simOptions
	cmd := &cobra.Command{
		Use: "sim POLICY.yaml", Short: "Play a rollout on a virtual fleet, with faults", GroupID: "fleet", Args: cobra.ExactArgs(1),
		Long: "Plays a rollout in virtual time: the server's own decisions, the agent's own brain, faults by seed.\n\nFaults are NAME[:SHARE][@TIME][+DURATION][?SELECTOR]:\n" + faultHelp(),
		Example: `  afloat sim ext4.yaml --hosts 1000 --seed 7 --fault crash-on-apply:1/1000
  afloat sim ext4.yaml --fleet fleet.yaml --fault down@40m+30m?rack=r1 --svg run.svg`,
		RunE: func(cmd *cobra.Command, args []string) error { return runSim(cmd, args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.fleet, "fleet", "", "YAML file with the virtual fleet")
	f.IntVar(&o.hosts, "hosts", 1000, "size of a generated fleet, without --fleet")
	f.Uint64Var(&o.seed, "seed", 1, "the same seed gives the same run")
	f.StringArrayVar(&o.faults, "fault", nil, "something that goes wrong; may be repeated")
	f.DurationVar(&o.horizon, "horizon", 30*24*time.Hour, "longest virtual time")
	f.BoolVar(&o.json, "json", false, "print the whole result as JSON")
	f.StringVar(&o.svg, "svg", "", "draw the run into this file")
	f.BoolVar(&o.forecast, "forecast", false, "only forecast, as afloat plan does: no faults, every host on time")
	f.DurationVar(&o.takes, "takes", 0, "how long a host is out in the forecast, default as the fleet says")
	return cmd
}

func faultHelp() string {
	var lines []string
	for name, what := range sim.Faults() {
		lines = append(lines, fmt.Sprintf("  %-16s %s", name, what))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (o simOptions) virtualFleet() (sim.Fleet, error) {
	if o.fleet == "" {
		if o.hosts < 1 || o.hosts > sim.MaxHosts {
			return sim.Fleet{}, fmt.Errorf("cannot simulate %d hosts: want 1 to %d", o.hosts, sim.MaxHosts)
		}
		return sim.Generated(o.hosts), nil
	}
	data, err := os.ReadFile(o.fleet)
	if err != nil {
		return sim.Fleet{}, fmt.Errorf("read fleet: %w", err)
	}
	return sim.ParseFleet(data)
}

func runSim(cmd *cobra.Command, file string, o simOptions) error {
	source, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read policy: %w", err)
	}
	p, err := policy.Parse(source)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if o.takes < 0 || o.horizon < 0 {
		return fmt.Errorf("cannot simulate: --takes and --horizon cannot be below zero")
	}
	fleet, err := o.virtualFleet()
	if err != nil {
		return err
	}
	work := fleet.Work(p.Target, o.takes)
	if o.forecast {
		return printForecast(cmd.OutOrStdout(), p, ahead(p, work, sim.Started()), o.json)
	}
	forecast := plan.Ahead(p, work, sim.Started())
	options := sim.Options{Policy: string(source), Fleet: fleet, Seed: o.seed, Horizon: o.horizon, Check: fleet.Size() <= 2000, Stop: cmd.Context().Done()}
	for _, s := range o.faults {
		f, err := sim.ParseFault(s)
		if err != nil {
			return withHint(err, "afloat help sim lists the faults")
		}
		options.Faults = append(options.Faults, f)
	}
	res, err := sim.Run(options)
	if err != nil {
		return err
	}
	if err := o.draw(res); err != nil {
		return err
	}
	if err := printSim(cmd.OutOrStdout(), res, forecast, o.json); err != nil {
		return err
	}
	if len(res.Broken) > 0 {
		return withHint(fmt.Errorf("an invariant was broken: %s", res.Broken[0]), "%s", sim.Replay(file, o.of(), options))
	}
	return nil
}

// of is the flag that gives the fleet.
func (o simOptions) of() string {
	if o.fleet != "" {
		return "--fleet " + o.fleet
	}
	return fmt.Sprint("--hosts ", o.hosts)
}

func (o simOptions) draw(res sim.Result) error {
	if o.svg == "" {
		return nil
	}
	f, err := os.Create(o.svg)
	if err != nil {
		return fmt.Errorf("draw run: %w", err)
	}
	if err := res.SVG(f); err != nil {
		return fmt.Errorf("draw run: %w", err)
	}
	return f.Close()
}

func printSim(w io.Writer, res sim.Result, f plan.Forecast, asJSON bool) error {
	if asJSON {
		return write(w, "json", struct {
			sim.Result
			Forecast plan.Forecast `json:"forecast"`
		}{res, f}, table{})
	}
	for _, m := range res.Moments {
		fmt.Fprintf(w, "%10s  %s\n", m.At.Round(time.Second), m.Text)
	}
	fmt.Fprintf(w, "\n%s after %s: %d of %d hosts had it, %d run it now\n", res.Phase, res.Took.Round(time.Second), res.Exposed, res.Hosts, res.Running)
	if res.Verdict != "" {
		fmt.Fprintf(w, "verdict: %s\n", res.Verdict)
	}
	if res.Reason != "" {
		fmt.Fprintf(w, "because %s\n", res.Reason)
	}
	if res.Hold != "" {
		fmt.Fprintf(w, "holds: %s\n", res.Hold)
	}
	for _, reason := range slices.Sorted(maps.Keys(res.Waits)) {
		fmt.Fprintf(w, "%d wait: %s\n", res.Waits[reason], reason)
	}
	if res.Peak > 0 {
		fmt.Fprintf(w, "out of service at once: at most %d\n", res.Peak)
	}
	fmt.Fprintf(w, "crashes: %d by the patch, %d of healthy hosts, %d counted against the rollout\n", res.Crashes, res.Background, res.Counted)
	curves(w, res)
	capacity(w, res.Budgets, res.Services)
	if res.Phase == rollout.PhaseComplete && f.Over > 0 {
		fmt.Fprintf(w, "it took %s, the forecast was %s\n", res.Took.Round(time.Second), f.Over.Round(time.Second))
	}
	return forecastLines(w, f)
}

func printForecast(w io.Writer, p *policy.Policy, f foreseen, asJSON bool) error {
	if asJSON {
		return write(w, "json", f, table{})
	}
	fmt.Fprintf(w, "%s of %d hosts\n", p.Target, f.Hosts)
	for _, wave := range f.Waves {
		fmt.Fprintf(w, "  wave %-12s %7d hosts  opens %8s  over %8s  gate: %s\n", wave.Name, wave.Hosts, wave.Opens.Round(time.Second), wave.Ends.Round(time.Second), said(wave))
	}
	used, served := usesOf(f)
	capacity(w, used, served)
	return forecastLines(w, f.Forecast)
}

// said is what the gate can say at the end of a wave in which nothing crashes.
func said(w plan.WavePlan) string {
	if w.Lacks == "" {
		return string(w.Verdict)
	}
	return fmt.Sprintf("%s, %s; %s", w.Verdict, w.Lacks, w.Sight)
}

func forecastLines(w io.Writer, f plan.Forecast) error {
	if f.Stuck != "" {
		fmt.Fprintf(w, "%d hosts can never start: %s\n", f.Left, f.Stuck)
	}
	fmt.Fprintf(w, "forecast: last start after %s, done after %s, soaked after %s, at most %d hosts out at once\n",
		f.Started.Round(time.Second), f.Done.Round(time.Second), f.Over.Round(time.Second), f.Peak)
	if len(f.Bounds) > 0 {
		b := f.Bounds[0]
		_, err := fmt.Fprintf(w, "no schedule beats %s (%s: %s); the forecast is %.1f %% above\n", b.Least.Round(time.Second), b.Name, b.Why, f.Above*100)
		return err
	}
	return nil
}
