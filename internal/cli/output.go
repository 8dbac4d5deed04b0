package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// outputFlag adds -o table|json|yaml to a listing.
func outputFlag(cmd *cobra.Command) *string {
	format := outputFormat("table")
	cmd.Flags().VarP(&format, "output", "o", "output format: table, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(
		[]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	return (*string)(&format)
}

// outputFormat is the value of -o: a wrong one is refused before anything is done.
type outputFormat string

func (f *outputFormat) String() string { return string(*f) }
func (f *outputFormat) Type() string   { return "string" }

func (f *outputFormat) Set(value string) error {
	if value != "table" && value != "json" && value != "yaml" {
		return withHint(fmt.Errorf("cannot print as %q", value), "-o takes table, json or yaml")
	}
	*f = outputFormat(value)
	return nil
}

// counted prints 1 host, 2 hosts.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// table is what a listing looks like for people.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write prints value as json or yaml, or the table.
func write(w io.Writer, format string, value any, t table) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(value)
	case "yaml":
		out, err := yaml.MarshalWithOptions(value, yaml.UseJSONMarshaler())
		if err != nil {
			return fmt.Errorf("encode yaml: %w", err)
		}
		_, err = w.Write(out)
		return err
	case "table":
		return t.write(w)
	}
	return withHint(fmt.Errorf("cannot print as %q", format), "-o takes table, json or yaml")
}

func (t table) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	if len(t.head) > 0 {
		fmt.Fprintln(tw, strings.Join(t.head, "\t"))
	}
	for _, row := range t.rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}
