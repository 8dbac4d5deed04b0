package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/api"
	"afloat/internal/fleet"
)

func newToken() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "One-time tokens that let hosts join", GroupID: "fleet"}
	socket := serverFlag(cmd)
	cmd.AddCommand(newTokenCreate(socket), newTokenList(socket), newTokenRevoke(socket))
	return cmd
}

func newTokenCreate(socket *string) *cobra.Command {
	var ttl time.Duration
	var mode string
	var labels []string
	req := api.NewToken{}
	cmd := &cobra.Command{
		Use: "create", Short: "Make a join token and print the join command", Args: cobra.NoArgs,
		Example: "  afloat token create --label tier=rc --mode act --uses 3",
	}
	format := outputFlag(cmd)
	f := cmd.Flags()
	f.DurationVar(&ttl, "ttl", time.Hour, "how long it may be redeemed")
	f.IntVar(&req.Uses, "uses", 1, "how many hosts may redeem it")
	f.StringVar(&mode, "mode", string(fleet.ModeObserve), "mode the hosts join in: observe or act")
	f.StringSliceVar(&labels, "label", nil, "KEY=VALUE that the hosts carry, whatever they say themselves; may be given again")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if req.Labels, err = parseLabels(labels); err != nil {
			return err
		}
		req.TTLSeconds, req.Mode = int64(ttl/time.Second), fleet.Mode(mode)
		if ttl < time.Second {
			return withHint(fmt.Errorf("cannot make a token that lives %s", ttl), "give --ttl 1s or more")
		}
		var made api.TokenMade
		if err := dial(*socket).post(cmd.Context(), api.PathTokens, req, &made); err != nil {
			return err
		}
		if *format == "table" {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), made.Join)
			return err
		}
		return write(cmd.OutOrStdout(), *format, made, table{})
	}
	return cmd
}

func parseLabels(pairs []string) (fleet.Labels, error) {
	labels := fleet.Labels{}
	for _, pair := range pairs {
		k, v, ok := strings.Cut(pair, "=")
		if !ok || k == "" {
			return nil, withHint(fmt.Errorf("cannot read label %q", pair), "want KEY=VALUE")
		}
		labels[k] = v
	}
	return labels, nil
}

func newTokenList(socket *string) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List join tokens, without their secrets", Args: cobra.NoArgs}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		tokens := []api.Token{}
		if err := dial(*socket).get(cmd.Context(), api.PathTokens, nil, &tokens); err != nil {
			return err
		}
		t := table{head: []string{"ID", "STATE", "USED", "MODE", "LABELS", "EXPIRES", "BY"}}
		for _, k := range tokens {
			t.add(k.ID, k.State, fmt.Sprintf("%d/%d", len(k.Hosts), k.Uses), string(k.Mode), k.Labels.String(), when(k.Expires), k.By)
		}
		return write(cmd.OutOrStdout(), *format, tokens, t)
	}
	return cmd
}

func newTokenRevoke(socket *string) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Make a token worthless; hosts that joined with it stay", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := dial(*socket).post(cmd.Context(), api.PathTokenRevoke, api.Named{ID: args[0]}, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "token %s is revoked\n", args[0])
			return err
		},
	}
}

// when prints a time for people, in their zone.
func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}
