package corpus

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"afloat/internal/elfdiff"
)

// Outcome is what became of one file.
type Outcome string

// The outcomes.
const (
	// Built: there is a live patch for the change.
	Built Outcome = "built"
	// Unchanged: the kernel's objects are the same before and after.
	Unchanged Outcome = "unchanged"
	// Alone: the file does not compile without the other files of its version, or
	// nothing calls what is new in it.
	Alone Outcome = "alone"
	// Refused: it cannot be live patched, with the reasons.
	Refused Outcome = "refused"
	// Hookless: the kernel builds the file without entry hooks, so that nothing in
	// it can be redirected, whatever the change. Such a file is not compiled.
	Hookless Outcome = "hookless"
	// Failed: neither a live patch nor a reason. There must be none.
	Failed Outcome = "failed"
)

// Result of one file.
type Result struct {
	File    string  `json:"file"`
	Outcome Outcome `json:"outcome"`
	// Refusals of a refused file.
	Refusals []elfdiff.Refusal `json:"refusals,omitempty"`
	// Code: something that runs after boot would have changed as well.
	Code bool `json:"code,omitempty"`
	// Detail of a failure, or the compiler's first words.
	Detail    string   `json:"detail,omitempty"`
	Functions int      `json:"functions,omitempty"`
	NextBoot  []string `json:"next_boot,omitempty"` // changed boot code of a built one, which has run
	// Threads are functions of a module, by the bundle's own risks, that a kernel
	// thread never leaves: the transition cannot end once the thread runs.
	Threads []string `json:"threads,omitempty"`
	Targets []string `json:"targets,omitempty"` // what it patches: vmlinux, or modules
	Module  string   `json:"module,omitempty"`  // name of the built module
	SHA256  string   `json:"sha256,omitempty"`  // of the built module
	BuildMS int64    `json:"build_ms"`
	// Load of a built module in QEMU; nil before.
	Load *Load `json:"load,omitempty"`
}

// Load is what a built module did in the running kernel.
type Load struct {
	// Loaded, made its transition, was disabled, made its transition back and
	// was unloaded, without a warning of the kernel.
	OK bool `json:"ok"`
	// Patching says that the targets ran in the guest, so that the kernel had to
	// redirect every function. Redirected is how many it says it did.
	Patching   bool `json:"patching"`
	Redirected int  `json:"redirected"`
	// Detail is what went wrong, or why the target does not run.
	Detail string `json:"detail,omitempty"`
	MS     int64  `json:"ms"`
}

// BootOnly says that a refused change is only to data initialisers or to code
// that runs at boot, load or unload.
func (r Result) BootOnly() bool {
	return !r.Code && r.refusedFor(elfdiff.ClassInit, elfdiff.ClassData)
}

// Mixed says that a change was refused for what no live patch can bring into a
// running kernel: initialisers, code of boot, load or unload, the layout of a
// type in use, and that it has code beside that.
func (r Result) Mixed() bool {
	return !r.BootOnly() && r.refusedFor(elfdiff.ClassInit, elfdiff.ClassData, elfdiff.ClassType)
}

// refusedFor says that the file was refused for nothing but these classes.
func (r Result) refusedFor(classes ...elfdiff.Class) bool {
	return r.Outcome == Refused && !slices.ContainsFunc(r.Refusals, func(f elfdiff.Refusal) bool {
		return !slices.Contains(classes, f.Class)
	})
}

// Error says what is wrong with the builder in this result, "" if nothing is.
func (r Result) Error() string {
	switch {
	case r.Outcome == Failed:
		return r.Detail
	case r.Load != nil && !r.Load.OK:
		return r.Load.Detail
	case r.Outcome == Refused && len(r.Refusals) == 0:
		return "refused without a reason"
	}
	for _, f := range r.Refusals {
		if f.Why == "" {
			return "refused without a reason that its author could act on"
		}
	}
	return ""
}

// classes of the refusals, sorted, each once.
func (r Result) classes() []string {
	var out []string
	for _, f := range r.Refusals {
		out = append(out, string(f.Class))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// store keeps results and modules in a folder, a file for each source file, so
// that an interrupted run goes on.
type store struct{ dir string }

func (s store) path(file, suffix string) string {
	return filepath.Join(s.dir, strings.ReplaceAll(file, "/", "__")+suffix)
}

// get returns a kept result; false if there is none.
func (s store) get(file string) (Result, bool, error) {
	data, err := os.ReadFile(s.path(file, ".json"))
	if errors.Is(err, os.ErrNotExist) {
		return Result{}, false, nil
	}
	var r Result
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return Result{}, false, fmt.Errorf("read result of %s: %w", file, err)
	}
	return r, true, nil
}

// put keeps a result, and the module if one was just built.
func (s store) put(r Result, module []byte) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err == nil && module != nil {
		err = os.WriteFile(s.path(r.File, ".ko"), module, 0o644)
	}
	if err == nil {
		err = writeAtomic(s.path(r.File, ".json"), data)
	}
	if err != nil {
		return fmt.Errorf("keep result of %s: %w", r.File, err)
	}
	return nil
}

// module returns a built module's file.
func (s store) module(r Result) ([]byte, error) {
	data, err := os.ReadFile(s.path(r.File, ".ko"))
	if err != nil {
		return nil, fmt.Errorf("read module of %s: %w", r.File, err)
	}
	if digest(data) != r.SHA256 {
		return nil, fmt.Errorf("read module of %s: it is not the one that was built", r.File)
	}
	return data, nil
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func writeAtomic(path string, data []byte) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
