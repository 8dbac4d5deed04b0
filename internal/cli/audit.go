package cli

import (
	"context"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"afloat/internal/api"
	"afloat/internal/audit"
)

func newAudit() *cobra.Command {
	var verify bool
	cmd := &cobra.Command{
		Use: "audit", Short: "Every act and refusal, in a hash chain", GroupID: "fleet", Args: cobra.NoArgs,
	}
	socket := serverFlag(cmd)
	format := outputFlag(cmd)
	cmd.Flags().BoolVar(&verify, "verify", false, "check the chain instead of printing it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		records, err := auditTrail(cmd.Context(), dial(*socket))
		if err != nil {
			return err
		}
		if verify {
			return verifyAudit(cmd, records)
		}
		t := table{head: []string{"SEQ", "WHEN", "WHO", "WHAT", "TARGET", "OUTCOME", "REASON"}}
		for _, r := range records {
			t.add(fmt.Sprint(r.Seq), when(r.When), r.Who.String(), r.What, r.Target, string(r.Outcome), r.Reason)
		}
		return write(cmd.OutOrStdout(), *format, records, t)
	}
	return cmd
}

// auditTrail reads the whole chain, page by page.
func auditTrail(ctx context.Context, c *client) ([]audit.Record, error) {
	records := []audit.Record{}
	for {
		var after uint64
		if n := len(records); n > 0 {
			after = records[n-1].Seq
		}
		var page api.AuditPage
		if err := c.get(ctx, api.PathAudit, url.Values{"after": {fmt.Sprint(after)}}, &page); err != nil {
			return nil, err
		}
		if len(page.Records) == 0 {
			return records, nil
		}
		records = append(records, page.Records...)
	}
}

func verifyAudit(cmd *cobra.Command, records []audit.Record) error {
	head, err := audit.Verify(records)
	if err != nil {
		return withHint(err, "restore the state directory from a backup, and find out who can write to it")
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "the chain of %s holds; its head is %s\n", counted(int(head.Seq), "record"), head.Hash)
	return err
}
