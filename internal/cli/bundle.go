package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"afloat/internal/api"
)

func newBundle() *cobra.Command {
	cmd := &cobra.Command{Use: "bundle", Short: "The server's catalog of bundles", GroupID: "fleet"}
	socket := serverFlag(cmd)
	cmd.AddCommand(newBundleAdd(socket), newBundleList(socket), newBundleWithdraw(socket))
	return cmd
}

func newBundleAdd(socket *string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "add FILE...", Short: "Put signed bundles into the catalog", Args: cobra.MinimumNArgs(1),
		Example: "  afloat bundle add out.afloat",
	}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		added := []api.Bundle{}
		for _, name := range args {
			file, err := os.ReadFile(name)
			if err != nil {
				return fmt.Errorf("read bundle: %w", err)
			}
			var b api.Bundle
			if err := dial(*socket).do(cmd.Context(), http.MethodPost, api.PathBundles, nil, bytes.NewReader(file), &b); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			added = append(added, b)
		}
		return write(cmd.OutOrStdout(), *format, added, bundleTable(added))
	}
	return cmd
}

func bundleTable(bundles []api.Bundle) table {
	t := table{head: []string{"DIGEST", "NAME", "KERNEL", "STATE", "FUNCTIONS", "SIZE", "CVES", "REBOOT", "ADDED"}}
	for _, b := range bundles {
		t.add(b.Digest.Short(), b.Manifest.Name, b.Manifest.Kernel.String(), b.State, fmt.Sprint(len(b.Manifest.Functions)),
			fmt.Sprint(b.Size), strings.Join(b.Manifest.CVEs, ","), string(b.Manifest.Reboot), when(b.Added))
	}
	return t
}

func newBundleList(socket *string) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the catalog", Args: cobra.NoArgs}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		bundles := []api.Bundle{}
		if err := dial(*socket).get(cmd.Context(), api.PathBundles, nil, &bundles); err != nil {
			return err
		}
		return write(cmd.OutOrStdout(), *format, bundles, bundleTable(bundles))
	}
	return cmd
}

func newBundleWithdraw(socket *string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "withdraw DIGEST", Short: "Make every host refuse a bundle, for ever", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var b api.Bundle
			if err := dial(*socket).post(cmd.Context(), api.PathWithdraw, api.Named{ID: args[0], Reason: reason}, &b); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "bundle %s (%s) is withdrawn\n", b.Digest.Short(), b.Manifest.Name)
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	return cmd
}
