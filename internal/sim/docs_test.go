package sim

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestDocumentedFleet reads the fleet of the documentation, which shows every
// field there is.
func TestDocumentedFleet(t *testing.T) {
	doc, err := os.ReadFile("../../docs/simulator.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(doc), "```yaml\n# fleet.yaml\n")
	text, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("there is no fleet in the documentation")
	}
	f, err := ParseFleet([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if f.Size() != 230 {
		t.Errorf("it has %d hosts", f.Size())
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[Fleet](), reflect.TypeFor[Group](), reflect.TypeFor[Times]()} {
		for field := range typ.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if name != "" && !strings.Contains(text, name+":") {
				t.Errorf("field %s is not in it", name)
			}
		}
	}
}
