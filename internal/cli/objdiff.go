package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"afloat/internal/elfdiff"
)

// Exit codes of objdiff and build.
const (
	exitRefused = 2
	exitNothing = 3
)

func newObjdiff() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "objdiff ORIG.o PATCHED.o",
		Short:   "Say what a live patch from one object to the other would carry",
		GroupID: "build",
		Long: `Compare two objects, compiled from the original and from the patched source with
-ffunction-sections -fdata-sections, and say what a live patch would carry.

The exit code is 0 if it would carry something, 3 if nothing changed, 2 if the
change cannot be live patched, and 1 for any other error.`,
		Args: cobra.ExactArgs(2),
	}
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		diff, err := objdiff(args[0], args[1])
		if err != nil {
			return err
		}
		if err := writeDiff(cmd.OutOrStdout(), diff, *asJSON); err != nil {
			return err
		}
		return diffResult(diff)
	}
	return cmd
}

func objdiff(origPath, patchedPath string) (*elfdiff.Diff, error) {
	var objects [2]*elfdiff.Object
	for i, path := range []string{origPath, patchedPath} {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if objects[i], err = elfdiff.Read(f); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return elfdiff.Compare(objects[0], objects[1], elfdiff.Options{})
}

func diffResult(d *elfdiff.Diff) error {
	switch {
	case len(d.Refusals) > 0:
		return &exitError{exitRefused, withHint(&elfdiff.RefusedError{Refusals: d.Refusals}, "%s", d.Refusals[0].Hint)}
	case d.Empty():
		return &exitError{exitNothing, errors.New("nothing changed in what the objects do")}
	}
	return nil
}

func writeDiff(w io.Writer, d *elfdiff.Diff, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(d)
	}
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
	if err := t.write(w); err != nil {
		return err
	}
	var names []string
	for _, e := range d.Externals {
		names = append(names, e.Name)
	}
	fmt.Fprintf(w, "refers to: %s\n", strings.Join(names, " "))
	for _, note := range d.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	return nil
}
