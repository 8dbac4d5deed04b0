package kit

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ConfigDriftError says that the tree here would be configured otherwise than
// the kernel was, so that its objects would not be the kernel's.
type ConfigDriftError struct {
	Changes []string // CONFIG_X: was -> is
}

func (e *ConfigDriftError) Error() string {
	return "configuration differs from the kernel's in " + strings.Join(e.Changes, ", ")
}

// parseConfig reads a .config: option to value; what is not set is left out.
func parseConfig(r io.Reader) (map[string]string, error) {
	out := map[string]string{}
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if name, value, ok := strings.Cut(scan.Text(), "="); ok && strings.HasPrefix(name, "CONFIG_") {
			out[name] = value
		}
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("parse config: %w", err)
	}
	return out, nil
}

// harmless options name the builder, the signing keys, and tools that no object
// here is built with; Debian leaves some of them out of the file it ships.
func harmless(option string) bool {
	switch option {
	case "CONFIG_CC_VERSION_TEXT", "CONFIG_BUILD_SALT", "CONFIG_MODULE_SIG_ALL", "CONFIG_MODULE_SIG_KEY",
		"CONFIG_SYSTEM_TRUSTED_KEYS", "CONFIG_TOOLS_SUPPORT_RELR", "CONFIG_HAVE_RUST", "CONFIG_RUST_IS_AVAILABLE":
		return true
	}
	return strings.HasPrefix(option, "CONFIG_MODULE_SIG_KEY_TYPE") || strings.HasPrefix(option, "CONFIG_CC_CAN_LINK") ||
		strings.HasPrefix(option, "CONFIG_RUSTC_") || strings.HasPrefix(option, "CONFIG_BINDGEN_")
}

// compareConfig returns a *ConfigDriftError if the options differ in what can change code or structures.
func compareConfig(was, is map[string]string) error {
	var changes []string
	report := func(option string) {
		a, b := was[option], is[option]
		if a == b || harmless(option) {
			return
		}
		changes = append(changes, fmt.Sprintf("%s: %s -> %s", option, orUnset(a), orUnset(b)))
	}
	for option := range was {
		report(option)
	}
	for option := range is {
		if _, both := was[option]; !both {
			report(option)
		}
	}
	if len(changes) == 0 {
		return nil
	}
	slices.Sort(changes)
	return &ConfigDriftError{Changes: changes}
}

func orUnset(value string) string {
	if value == "" {
		return "not set"
	}
	return value
}
