package cli

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/api"
)

func newDebt() *cobra.Command {
	cmd := &cobra.Command{
		Use: "debt", Short: "List the hosts that owe a reboot", GroupID: "fleet", Args: cobra.NoArgs,
		Long: "A host that runs live patches owes a reboot into a fixed kernel: since its first live patch of this boot.\nDUE is by the policy's debt, OVERDUE that it has passed, LATE that the host will not have booted by then, by a forecast from now; below\nthe table it says what is in the way. PROVEN says that its kernel has booted by order on its class of hardware.",
	}
	socket := serverFlag(cmd)
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		debts := []api.Debt{}
		if err := dial(*socket).get(cmd.Context(), api.PathDebts, nil, &debts); err != nil {
			return err
		}
		t := table{head: []string{"ID", "NAME", "KERNEL", "HARDWARE", "SINCE", "PATCHES", "DUE", "PROVEN"}}
		for _, d := range debts {
			t.add(string(d.ID), d.Name, d.Kernel, d.Hardware, d.Since.Format(time.RFC3339), fmt.Sprint(d.Patches), due(d, time.Now()), fmt.Sprint(d.Proven))
		}
		if err := write(cmd.OutOrStdout(), *format, debts, t); err != nil || *format != "table" {
			return err
		}
		for _, line := range outlooks(debts) {
			fmt.Fprintln(cmd.OutOrStdout(), line)
		}
		return nil
	}
	return cmd
}

// outlooks are why hosts will miss their deadline, a line for each rollout.
func outlooks(debts []api.Debt) (out []string) {
	for _, d := range debts {
		if d.Outlook == "" {
			continue
		}
		if line := fmt.Sprintf("rollout %s: %s", d.Rollout, d.Outlook); !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return out
}

func due(d api.Debt, now time.Time) string {
	switch {
	case d.Due.IsZero():
		return "-"
	case now.After(d.Due):
		return d.Due.Format(time.RFC3339) + " OVERDUE"
	case d.Late:
		return d.Due.Format(time.RFC3339) + " LATE"
	}
	return d.Due.Format(time.RFC3339)
}
