package cli

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write the generated reference anew")

// TestReference keeps docs/reference/cli.md what the commands say of themselves.
func TestReference(t *testing.T) {
	t.Setenv("AFLOAT_DEB_DIR", "") // is a default of some commands
	path := filepath.Join("..", "..", "docs", "reference", "cli.md")
	want := reference(New())
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the commands say; go test ./internal/cli -run TestReference -update writes it anew", path)
	}
}

func reference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("# afloat's commands\n\nGenerated from the commands themselves; the same text as `afloat help COMMAND`.\n")
	describe(&b, root)
	return b.String()
}

// homes are defaults that depend on who runs the command.
var homes = regexp.MustCompile(`\(default "[^"]*/afloat[^"]*"\)`)

func describe(b *strings.Builder, cmd *cobra.Command) {
	if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
		return
	}
	cmd.InitDefaultHelpFlag()
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	usage := homes.ReplaceAllString(cmd.UsageString(), "(default: afloat's own)")
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n```\n%s```\n", cmd.CommandPath(), strings.TrimSpace(text), usage)
	for _, sub := range cmd.Commands() {
		describe(b, sub)
	}
}
