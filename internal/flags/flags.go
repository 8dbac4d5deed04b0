// Package flags words what is wrong with a command line, for the people who
// typed it: afloat and afloat-agent share it.
package flags

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Explain turns a complaint of the flag library into one that says what was
// wanted. Any other error, and one that a flag's own Set words, stays as it is.
func Explain(err error) error {
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		if want := wanted(e.GetFlag().Value.Type()); want != "" {
			return fmt.Errorf("cannot read --%s %s: want %s", e.GetFlag().Name, e.GetValue(), want)
		}
		if cause := errors.Unwrap(e); cause != nil {
			return fmt.Errorf("--%s: %w", e.GetFlag().Name, cause)
		}
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return fmt.Errorf("--%s needs a value", e.GetFlag().Name)
	}
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		if e.GetSpecifiedShortnames() != "" {
			return fmt.Errorf("there is no flag -%.1s", e.GetSpecifiedName())
		}
		return fmt.Errorf("there is no flag --%s", e.GetSpecifiedName())
	}
	return err
}

// wanted describes the values of the library's own types; "" for others.
func wanted(kind string) string {
	switch {
	case kind == "duration":
		return "a time such as 30s, 10m or 2h"
	case kind == "bool":
		return "true or false"
	case strings.HasPrefix(kind, "uint"):
		return "a whole number from 0 up"
	case strings.HasPrefix(kind, "int"):
		return "a whole number"
	case strings.HasPrefix(kind, "float"):
		return "a number"
	case kind == "stringToString":
		return "KEY=VALUE"
	}
	return ""
}
