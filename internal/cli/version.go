package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"afloat/internal/wire"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", GroupID: "run", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "afloat %s (wire %d)\n", Version, wire.Version)
			return err
		},
	}
}
