package policy

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestPoliciesOfTheDocs: what the how-to shows is a policy.
func TestPoliciesOfTheDocs(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "how-to", "reboot-replace-restart.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1)
	if len(shown) < 2 {
		t.Fatalf("%d policies on the page", len(shown))
	}
	for _, m := range shown {
		if _, err := Parse(m[1]); err != nil {
			t.Errorf("%v:\n%s", err, m[1])
		}
	}
}
