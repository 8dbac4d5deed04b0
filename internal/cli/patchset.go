package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
)

// maxPatchSet is the largest patch set file that is read, in bytes.
const maxPatchSet = 1 << 20

// patchSet is the file of --patch-set. Its paths start at its own folder.
type patchSet struct {
	Name     string   `yaml:"name"`
	CVEs     []string `yaml:"cves"`
	Reboot   string   `yaml:"reboot"`
	Kernels  []string `yaml:"kernels"`
	Patches  []string `yaml:"patches"`
	Output   string   `yaml:"output"`
	On       string   `yaml:"on"`
	Check    string   `yaml:"check"`
	BootTest bool     `yaml:"bootTest"`
}

// fill gives the flags that were not set the patch set file's values, and
// returns the diffs to build: the file's, unless the command line names others.
func (f *buildFlags) fill(files []string) ([]string, error) {
	if f.patchSet == "" {
		return files, f.complete(files)
	}
	set, err := readPatchSet(f.patchSet)
	if err != nil {
		return nil, err
	}
	beneath := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(filepath.Dir(f.patchSet), path)
	}
	f.name = cmp.Or(f.name, set.Name)
	f.reboot = cmp.Or(f.reboot, set.Reboot)
	f.out = cmp.Or(f.out, beneath(set.Output))
	f.on = cmp.Or(f.on, beneath(set.On))
	f.check = cmp.Or(f.check, beneath(set.Check))
	f.bootTest = f.bootTest || set.BootTest
	if len(f.kernels) == 0 {
		f.kernels = set.Kernels
	}
	if len(f.cves) == 0 {
		f.cves = set.CVEs
	}
	if len(files) == 0 {
		for _, p := range set.Patches {
			files = append(files, beneath(p))
		}
	}
	return files, f.complete(files)
}

// complete says what is missing on the command line, and in the patch set if there is one.
func (f *buildFlags) complete(files []string) error {
	var missing []string
	for _, v := range []struct {
		there bool
		flag  string
	}{{len(f.kernels) > 0, "kernel"}, {f.key != "", "key"}, {f.name != "", "name"}, {f.out != "", "output"}} {
		if !v.there {
			missing = append(missing, fmt.Sprintf("%q", v.flag))
		}
	}
	switch {
	case len(missing) > 0 && f.patchSet != "":
		return withHint(fmt.Errorf("cannot build patch set %s: it lacks %s", f.patchSet, strings.Join(missing, ", ")),
			"give it there, or on the command line")
	case len(missing) > 0:
		return fmt.Errorf("required flag(s) %s not set", strings.Join(missing, ", "))
	case len(files) == 0:
		return errors.New("cannot build nothing: name at least one diff")
	}
	return nil
}

// readPatchSet reads a patch set file. Errors name line and column.
func readPatchSet(path string) (set patchSet, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return set, fmt.Errorf("read patch set: %w", err)
	}
	if st.Size() > maxPatchSet {
		return set, fmt.Errorf("read patch set %s: larger than %d bytes", path, maxPatchSet)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return set, fmt.Errorf("read patch set: %w", err)
	}
	err = parsePatchSet(text, &set)
	if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil {
		at := e.GetToken().Position
		return set, fmt.Errorf("read patch set %s: line %d, column %d: %s", path, at.Line, at.Column, e.GetMessage())
	}
	if err != nil {
		return set, fmt.Errorf("read patch set %s: %w", path, err)
	}
	return set, nil
}

func parsePatchSet(text []byte, set *patchSet) (err error) {
	defer func() {
		if r := recover(); r != nil { // the parser's own mistake
			err = errors.New("is not YAML that can be read")
		}
	}()
	return yaml.UnmarshalWithOptions(text, set, yaml.Strict())
}
