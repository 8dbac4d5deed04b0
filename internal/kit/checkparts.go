package kit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"afloat/internal/kernel"
)

// MismatchError says that the parts of a kernel do not belong together, or
// that the kernel cannot be live patched.
type MismatchError struct {
	Place string // the file
	Why   string
	Hint  string // what the person can do
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("cannot make a kit: %s: %s", e.Place, e.Why)
}

// checked is what checking the parts found out.
type checked struct {
	id      kernel.ID
	vmlinux []byte // the unpacked image
}

// checkParts makes sure that the parts are those of one kernel. Errors are a
// *MismatchError where they are not.
func checkParts(ctx context.Context, p Parts) (*checked, error) {
	c := &checked{}
	if err := c.readImage(p.Image); err != nil {
		return nil, err
	}
	config, err := c.checkConfig(p)
	if err != nil {
		return nil, err
	}
	if err := c.checkSource(p); err != nil {
		return nil, err
	}
	exports, err := c.checkSymvers(p)
	if err != nil {
		return nil, err
	}
	return c, c.checkModules(ctx, p, config, exports)
}

func (c *checked) readImage(path string) error {
	image, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	bad := func(err error) error {
		return &MismatchError{Place: path, Why: err.Error(),
			Hint: "the image must be the one that boots (vmlinuz or bzImage of x86-64), built with CONFIG_BUILD_ID or a linker that writes build ids"}
	}
	c.vmlinux = image
	if !bytes.HasPrefix(image, []byte("\x7fELF")) {
		if c.vmlinux, err = kernel.ExtractVmlinux(image); err != nil {
			return bad(err)
		}
	}
	if c.id, err = kernel.ReadID(bytes.NewReader(c.vmlinux)); err != nil {
		return bad(err)
	}
	if !localPattern.MatchString(c.id.Release) {
		return bad(fmt.Errorf("release %q cannot name a kit", c.id.Release))
	}
	return nil
}

// needed is what a live patch cannot do without, and why.
var needed = []struct{ option, why string }{
	{"CONFIG_X86_64", "only x86-64 kernels can be built for"},
	{"CONFIG_LIVEPATCH", "the kernel cannot be live patched"},
	{"CONFIG_MODULES", "the kernel loads no modules"},
	{"CONFIG_KALLSYMS_ALL", "the kernel does not keep the names of its symbols"},
	{"CONFIG_DEBUG_INFO_BTF", "the kernel carries no type information"},
}

var configHead = regexp.MustCompile(`(?m)^# Linux/x86(?:_64)? (\S+) Kernel Configuration$`)

func (c *checked) checkConfig(p Parts) (map[string]string, error) {
	text, err := os.ReadFile(p.Config)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	config, err := parseConfig(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	for _, n := range needed {
		if config[n.option] != "y" {
			return nil, &MismatchError{Place: p.Config, Why: n.option + " is not set: " + n.why,
				Hint: "give the configuration of this very kernel; if it is, this kernel can only be replaced by a reboot"}
		}
	}
	if m := configHead.FindSubmatch(text); m != nil {
		version, err := sourceVersion(p.Source)
		if err != nil {
			return nil, err
		}
		if string(m[1]) != version {
			return nil, &MismatchError{Place: p.Config, Why: fmt.Sprintf("it is of Linux %s, but the source in %s is %s", m[1], p.Source, version),
				Hint: "give the configuration and the source of one build"}
		}
	}
	return config, nil
}

var makeVersion = regexp.MustCompile(`(?m)^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) =[ \t]*(\S*)[ \t]*$`)

// sourceVersion reads a tree's version from its Makefile: 6.1.192.
func sourceVersion(tree string) (string, error) {
	place := filepath.Join(tree, "Makefile")
	text, err := os.ReadFile(place)
	if err != nil {
		return "", fmt.Errorf("read source: %w", err)
	}
	v := map[string]string{}
	for _, m := range makeVersion.FindAllSubmatch(text, -1) {
		if _, again := v[string(m[1])]; !again {
			v[string(m[1])] = string(m[2])
		}
	}
	if v["VERSION"] == "" || v["PATCHLEVEL"] == "" {
		return "", &MismatchError{Place: place, Why: "it tells no version of Linux", Hint: "give the top folder of the kernel's source as --source"}
	}
	version := v["VERSION"] + "." + v["PATCHLEVEL"]
	if v["SUBLEVEL"] != "" {
		version += "." + v["SUBLEVEL"]
	}
	return version + v["EXTRAVERSION"], nil
}

// checkSource compares version and patch level only: distributions leave the
// sublevel out of a release. What the source really is, the proof of each build shows.
func (c *checked) checkSource(p Parts) error {
	version, err := sourceVersion(p.Source)
	if err != nil {
		return err
	}
	parts := strings.SplitN(version, ".", 3)
	series := parts[0] + "." + parts[1]
	if rest, ok := strings.CutPrefix(c.id.Release, series); !ok || rest != "" && rest[0] >= '0' && rest[0] <= '9' {
		return &MismatchError{Place: p.Source, Why: fmt.Sprintf("it is Linux %s, but %s is %s", version, p.Image, c.id.Release),
			Hint: "give the source that this kernel was built from"}
	}
	return nil
}

// checkSymvers wants every export of vmlinux among the image's symbols.
func (c *checked) checkSymvers(p Parts) (kernel.Symvers, error) {
	f, err := os.Open(p.Symvers)
	if err != nil {
		return nil, fmt.Errorf("read exports: %w", err)
	}
	defer f.Close()
	exports, err := kernel.ParseSymvers(f)
	if err != nil {
		return nil, &MismatchError{Place: p.Symvers, Why: err.Error(), Hint: "give the Module.symvers that the kernel's build left"}
	}
	symbols, err := kernel.ParseKallsyms(bytes.NewReader(c.vmlinux))
	if err != nil {
		return nil, &MismatchError{Place: p.Image, Why: err.Error(), Hint: "the kernel must be built with CONFIG_KALLSYMS_ALL"}
	}
	var missing []string
	for name, e := range exports {
		if e.Owner == "vmlinux" && len(symbols.Lookup(name)) == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, &MismatchError{Place: p.Symvers, Why: fmt.Sprintf("it lists %s as exported by vmlinux, which %s does not have (%d such symbols)", missing[0], p.Image, len(missing)),
			Hint: "give the Module.symvers of the build that made the image"}
	}
	return exports, nil
}

// checkModules reads every module: all must be of this kernel, and agree with
// its exports' CRCs. Of what is wrong, the first by path is named.
func (c *checked) checkModules(ctx context.Context, p Parts, config map[string]string, exports kernel.Symvers) error {
	paths, err := moduleFiles(p.Modules)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var wrong []*MismatchError
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, path := range paths {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			err := c.checkModule(path, config, exports, p)
			if e, ok := errors.AsType[*MismatchError](err); ok {
				mu.Lock()
				defer mu.Unlock()
				wrong = append(wrong, e)
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil || len(wrong) == 0 {
		return err
	}
	first := slices.MinFunc(wrong, func(a, b *MismatchError) int { return strings.Compare(a.Place, b.Place) })
	if len(wrong) > 1 {
		first.Why += fmt.Sprintf("; %d of %d modules do not fit", len(wrong), len(paths))
	}
	return first
}

// moduleFiles lists the modules below a folder; none is a *PartError.
func moduleFiles(dir string) (paths []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && isModule(d.Name()) {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	if len(paths) == 0 {
		return nil, &PartError{Part: "modules", Folders: []string{dir}}
	}
	return paths, nil
}

// magicFlags of a vermagic that follow from the configuration (include/linux/vermagic.h).
var magicFlags = map[string]string{"SMP": "CONFIG_SMP", "mod_unload": "CONFIG_MODULE_UNLOAD", "modversions": "CONFIG_MODVERSIONS", "preempt_rt": "CONFIG_PREEMPT_RT"}

func (c *checked) checkModule(path string, config map[string]string, exports kernel.Symvers, p Parts) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read module: %w", err)
	}
	defer f.Close()
	m, err := kernel.ParseModule(f)
	if err != nil {
		return &MismatchError{Place: path, Why: err.Error(), Hint: "the file is damaged: take it from the kernel's package again"}
	}
	release, _, _ := strings.Cut(m.Vermagic, " ")
	if release != c.id.Release {
		return &MismatchError{Place: path, Why: fmt.Sprintf("it is a module of %s (vermagic %q), but %s is %s", release, m.Vermagic, p.Image, c.id.Release),
			Hint: "give the modules that were built with the image, such as /lib/modules/" + c.id.Release + "/kernel"}
	}
	for _, flag := range slices.Sorted(maps.Keys(magicFlags)) {
		option := magicFlags[flag]
		if slices.Contains(strings.Fields(m.Vermagic), flag) != (config[option] == "y") {
			return &MismatchError{Place: path, Why: fmt.Sprintf("its vermagic %q does not fit %s, where %s is %s", m.Vermagic, p.Config, option, orUnset(config[option])),
				Hint: "give the configuration that the image and its modules were built with"}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		crc := m.Versions[name]
		e, known := exports[name]
		if known && e.CRC != crc {
			return &MismatchError{Place: path, Why: fmt.Sprintf("it wants %s with CRC 0x%08x, but %s says 0x%08x", name, crc, p.Symvers, e.CRC),
				Hint: "give the Module.symvers of the build that made the modules"}
		}
		if !known && name != "module_layout" {
			return &MismatchError{Place: path, Why: fmt.Sprintf("it uses %s, which %s does not list", name, p.Symvers),
				Hint: "give the Module.symvers of the build that made the modules"}
		}
	}
	return nil
}
