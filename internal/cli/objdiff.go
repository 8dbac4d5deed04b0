package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"afloat/internal/elfdiff"
)

// Exit codes of objdiff and build.
const (
	exitRefused = 2
	exitNothing = 3
)

type objdiffFlags struct {
	json    bool
	entries []string
	options elfdiff.Options
}

func newObjdiff() *cobra.Command {
	var f objdiffFlags
	cmd := &cobra.Command{
		Use:     "objdiff ORIG.o PATCHED.o",
		Short:   "Say what a live patch from one object to the other would carry",
		GroupID: "build",
		Long: `Compare two objects, compiled by gcc or clang from the original and from the patched
source with -ffunction-sections -fdata-sections, and say what a live patch would carry,
or why there can be none. Types are compared where both objects have debug information.

The exit code is 0 if it would carry something, 3 if nothing changed, 2 if the
change cannot be live patched, and 1 for any other error.`,
		Example: "  afloat objdiff before/tcp.o after/tcp.o\n  afloat objdiff --json --entry-size .altinstructions=14 before/tcp.o after/tcp.o",
		Args:    cobra.ExactArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return runObjdiff(cmd, args, f) },
	}
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	cmd.Flags().BoolVar(&f.options.BuiltIn, "built-in", false, "the objects are part of vmlinux, so their init code has run and is gone")
	cmd.Flags().StringArrayVar(&f.entries, "entry-size", nil,
		"SECTION=BYTES, what the kernel's entries of a special section have; else it is inferred; may be repeated")
	return cmd
}

func runObjdiff(cmd *cobra.Command, args []string, f objdiffFlags) error {
	for _, e := range f.entries {
		section, size, _ := strings.Cut(e, "=")
		n, err := strconv.Atoi(size)
		if err == nil {
			err = elfdiff.SetEntrySize(&f.options.Sizes, section, n)
		}
		if err != nil {
			return withHint(fmt.Errorf("cannot read --entry-size %s: %w", e, err), "write it as .altinstructions=14")
		}
	}
	diff, err := objdiff(args[0], args[1], f.options)
	if err != nil {
		return err
	}
	if f.json {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		err = enc.Encode(diff)
	} else {
		err = writeDiff(cmd.OutOrStdout(), diff)
	}
	if err != nil {
		return err
	}
	return diffResult(diff)
}

func objdiff(origPath, patchedPath string, o elfdiff.Options) (*elfdiff.Diff, error) {
	var files [2][]byte
	var objects [2]*elfdiff.Object
	for i, path := range []string{origPath, patchedPath} {
		var err error
		if files[i], err = os.ReadFile(path); err == nil {
			objects[i], err = elfdiff.Read(bytes.NewReader(files[i]))
		}
		if err != nil {
			return nil, withHint(fmt.Errorf("cannot compare %s: %w", path, err), "give two .o files for x86-64, as gcc -c or clang -c writes them")
		}
	}
	diff, err := elfdiff.Compare(objects[0], objects[1], o)
	if err != nil {
		return nil, withHint(fmt.Errorf("cannot compare %s with %s: %w", origPath, patchedPath, err), "compile both with one compiler and the same flags")
	}
	if len(diff.Changed)+len(diff.New) > 0 {
		err = diff.AddTypes(bytes.NewReader(files[0]), bytes.NewReader(files[1]))
	}
	if errors.Is(err, elfdiff.ErrNoDebug) {
		diff.Notes, err = append(diff.Notes, "the types were not compared: "+err.Error()), nil
	}
	return diff, err
}

func diffResult(d *elfdiff.Diff) error {
	switch {
	case len(d.Refusals) > 0:
		return &exitError{exitRefused, fmt.Errorf("cannot live patch this change, for %s", countOf(len(d.Refusals), "reason"))}
	case d.Empty():
		return &exitError{exitNothing, errors.New("nothing changed in what the objects do")}
	}
	return nil
}

func countOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// writeDiff prints a diff for people.
func writeDiff(w io.Writer, d *elfdiff.Diff) error {
	t := table{head: []string{"WHAT", "NAME", "SIZE", "WHERE"}}
	for _, f := range d.Changed {
		t.add("changed", f.Name, fmt.Sprint(f.Size), f.Source)
	}
	for _, f := range d.New {
		t.add("new", f.Name, fmt.Sprint(f.Size), f.Source)
	}
	for _, v := range d.Data {
		what := "new data"
		if v.Copy {
			what = "copied data"
		}
		t.add(what, v.Name, fmt.Sprint(v.Size), v.Section)
	}
	for _, f := range d.NextBoot {
		t.add("next boot", f.Name, fmt.Sprint(f.Size), f.Source)
	}
	addStatements(&t, d)
	if len(t.rows) > 0 {
		if err := t.write(w); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, diffText(d))
	return err
}

// diffText is what does not fit the table.
func diffText(d *elfdiff.Diff) string {
	var b strings.Builder
	line := func(what string, list []string) {
		if len(list) > 0 {
			fmt.Fprintf(&b, "%s: %s\n", what, strings.Join(list, " "))
		}
	}
	var special, names []string
	for section, n := range d.Special {
		special = append(special, fmt.Sprintf("%s=%d", section, n))
	}
	slices.Sort(special)
	for _, e := range d.Externals {
		names = append(names, e.Name)
	}
	line("special entries", special)
	line("refers to", names)
	for _, note := range d.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	for _, r := range d.Refusals {
		fmt.Fprintf(&b, "refused, %s: %s\n", r.Class, place(r))
		fmt.Fprintf(&b, "  why: %s\n  way out: %s\n", r.Why, r.Hint)
	}
	return b.String()
}

// place says where a refusal is from: symbol, section and source line, as far as they are known.
func place(r elfdiff.Refusal) string {
	var parts []string
	if r.Symbol != "" {
		parts = append(parts, r.Symbol)
	}
	if r.Section != "" {
		parts = append(parts, "in "+r.Section)
	}
	if r.Source != "" {
		parts = append(parts, "at "+r.Source)
	}
	return strings.Join(parts, " ")
}

// addStatements lists what the patch's author says in the words of afloat-patch.h.
func addStatements(t *table, d *elfdiff.Diff) {
	for _, set := range d.Callbacks {
		for kind, f := range set.Functions {
			if f.Name != "" {
				t.add(elfdiff.CallbackKind(kind).String(), f.Name, "", fmt.Sprintf("line %d", set.Line))
			}
		}
	}
	for _, s := range d.States {
		t.add("state", fmt.Sprintf("%#x, version %d", s.ID, s.Version), "", fmt.Sprintf("line %d", s.Line))
	}
	for _, w := range d.Waivers {
		t.add(string(w.Kind), w.Of, "", fmt.Sprintf("line %d: %s", w.Line, w.Reason))
	}
}
