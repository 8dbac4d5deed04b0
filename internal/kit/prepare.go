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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"afloat/internal/kernel"
)

// maker makes one kit. Each step leaves a marker in steps/, so that a fetch
// that was interrupted goes on where it stopped.
type maker struct {
	cache *Cache
	kit   *Kit
	pkg   packages
	debs  []string
	// series is the path of the source package's debian.tar; "" for flavours without a series.
	series string
	from   string // where the image is from, for errors
	arch   kernelBanner
}

type kernelBanner struct {
	text kernel.Banner
	id   kernel.ID
}

// prepare makes the kit in dir; on success its marker is there.
func (c *Cache) prepare(ctx context.Context, ref Ref, dir string) error {
	if err := checkTools(ctx, toolsOf(ref)...); err != nil {
		return err
	}
	m := &maker{cache: c, kit: &Kit{Dir: dir, Ref: ref}}
	var err error
	if m.pkg, err = c.resolve(ctx, ref); err != nil {
		return err
	}
	m.from = m.pkg.image()
	return m.run(ctx, m.pkg.version, []step{{"download", m.download}, {"unpack kernel", m.unpackKernel}, {"unpack source", m.unpackSource}})
}

// step is one that a kit is made by.
type step struct {
	name string
	do   func(context.Context) error
}

// run does the steps that bring a kernel's parts into the kit, and then those
// that every kit is made ready by. stamp tells kernels apart that would go into one folder.
func (m *maker) run(ctx context.Context, stamp string, bring []step) error {
	if err := m.sameVersion(stamp); err != nil {
		return err
	}
	for _, s := range append(bring, step{"configure", m.configure}, step{"prepare source", m.prepareSource}, step{"finish", m.finish}) {
		if err := m.step(ctx, s.name, s.do); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// sameVersion starts over where an unfinished kit is of another package version, or build.
func (m *maker) sameVersion(stamp string) error {
	mark := filepath.Join(m.kit.Dir, "version")
	was, err := os.ReadFile(mark)
	if err == nil && string(was) == stamp {
		return nil
	}
	if err := os.RemoveAll(m.kit.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(m.kit.Dir, "steps"), 0o755); err != nil {
		return err
	}
	return writeAtomic(mark, []byte(stamp))
}

func (m *maker) step(ctx context.Context, name string, do func(context.Context) error) error {
	mark := filepath.Join(m.kit.Dir, "steps", strings.ReplaceAll(name, " ", "-"))
	if _, err := os.Stat(mark); err == nil && !m.always(name) {
		return nil
	}
	report := m.cache.Progress
	if report == nil {
		report = func(Step) {}
	}
	start := time.Now()
	report(Step{Ref: m.kit.Ref, Name: name})
	if err := do(ctx); err != nil {
		return err
	}
	report(Step{Ref: m.kit.Ref, Name: name, Done: true, Took: time.Since(start)})
	return writeAtomic(mark, nil)
}

// always names the steps whose result later steps need in memory; they are cheap the second time.
func (m *maker) always(name string) bool { return name == "download" || name == "finish" }

func (m *maker) path(name string) string { return filepath.Join(m.kit.Dir, name) }

func (m *maker) download(ctx context.Context) error {
	if m.done("unpack-source") && m.done("unpack-kernel") {
		return nil
	}
	if err := os.MkdirAll(m.path("debs"), 0o755); err != nil {
		return err
	}
	var err error
	if m.kit.Ref.Flavour() == realTime { // first: it is small, and older sources vanish before their packages
		if m.series, err = m.cache.downloadSeries(ctx, m.kit.Ref, m.pkg, m.path("debs")); err != nil {
			return err
		}
	}
	m.debs, err = m.cache.download(ctx, m.pkg, m.path("debs"))
	return err
}

func (m *maker) done(step string) bool {
	_, err := os.Stat(filepath.Join(m.kit.Dir, "steps", step))
	return err == nil
}

// unpackKernel unpacks image and headers and keeps what later steps need.
func (m *maker) unpackKernel(ctx context.Context) error {
	root, release := m.path("root"), m.kit.Ref.Release
	if err := errors.Join(os.RemoveAll(root), os.RemoveAll(m.path("modules"))); err != nil {
		return err
	}
	for _, deb := range m.debs[:2] {
		if _, err := run(ctx, "", "dpkg", "-x", deb, root); err != nil {
			return err
		}
	}
	if err := m.checkImage(root); err != nil {
		return err
	}
	for from, to := range map[string]string{
		"boot/config-" + release:                               "config",
		"boot/vmlinuz-" + release:                              "vmlinuz",
		"usr/src/linux-headers-" + release + "/Module.symvers": "Module.symvers",
		modulesIn(root, release):                               "modules",
	} {
		if err := os.Rename(filepath.Join(root, from), m.path(to)); err != nil {
			return fmt.Errorf("unpack packages: %w", err)
		}
	}
	image, err := os.ReadFile(m.path("vmlinuz"))
	if err != nil {
		return err
	}
	elf, err := kernel.ExtractVmlinux(image)
	if err != nil {
		return err
	}
	return errors.Join(writeAtomic(m.path("vmlinux"), elf), os.RemoveAll(root))
}

// checkImage returns a *MismatchError where the image package holds no kernel.
func (m *maker) checkImage(root string) error {
	_, err := os.Stat(filepath.Join(root, "boot/vmlinuz-"+m.kit.Ref.Release))
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return &MismatchError{Place: m.pkg.image() + "=" + m.pkg.version,
		Why:  "it holds no kernel: from 6.19 on Debian spreads one over linux-binary, linux-base and linux-modules, and none of these series was tried",
		Hint: "take a kernel up to 6.18; or unpack these packages, the headers and the source with dpkg -x and tar, and give their folder to afloat kernel add --from"}
}

// modulesIn is where an unpacked image has its modules: below /usr since Debian 13.
func modulesIn(root, release string) string {
	merged := "usr/lib/modules/" + release + "/kernel"
	if _, err := os.Stat(filepath.Join(root, merged)); err == nil {
		return merged
	}
	return strings.TrimPrefix(merged, "usr/")
}

// unpackSource unpacks the tree that linux-source carries as a tarball, and
// brings it to what the flavour was built from.
func (m *maker) unpackSource(ctx context.Context) error {
	root, src := m.path("source-root"), m.kit.Source()
	if err := errors.Join(os.RemoveAll(root), os.RemoveAll(src), os.MkdirAll(src, 0o755)); err != nil {
		return err
	}
	if _, err := run(ctx, "", "dpkg", "-x", m.debs[2], root); err != nil {
		return err
	}
	tarball := filepath.Join(root, "usr/src", m.pkg.source()+".tar.xz")
	_, err := run(ctx, src, "tar", "--extract", "--use-compress-program=xz -T0", "--strip-components=1", "--file="+tarball)
	if err != nil {
		return err
	}
	if m.series != "" {
		if err := m.applySeries(ctx); err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(root), os.RemoveAll(m.path("debs")))
}

// configure gives the tree the kernel's own configuration and checks that kconfig keeps it.
func (m *maker) configure(ctx context.Context) error {
	config, err := os.ReadFile(m.kit.Config())
	if err != nil {
		return err
	}
	was, err := parseConfig(bytes.NewReader(config))
	if err != nil {
		return err
	}
	if err := errors.Join(writeStandIns(m.path(standIns), was),
		os.WriteFile(filepath.Join(m.kit.Source(), ".config"), config, 0o644)); err != nil {
		return err
	}
	if err := m.make(ctx, "olddefconfig"); err != nil {
		return err
	}
	now, err := os.ReadFile(filepath.Join(m.kit.Source(), ".config"))
	if err != nil {
		return err
	}
	is, err := parseConfig(bytes.NewReader(now))
	if err != nil {
		return err
	}
	if err := compareConfig(was, is); err != nil {
		return m.explainDrift(ctx, err)
	}
	return nil
}

// explainDrift names the likely reason of a drift: another compiler.
func (m *maker) explainDrift(ctx context.Context, drift error) error {
	banner, err := m.banner()
	if err != nil {
		return errors.Join(drift, err)
	}
	_, text, err := compilerFor(ctx, banner.text.Compiler)
	if err != nil {
		return errors.Join(drift, err)
	}
	if note := compilerNote(banner.text.Compiler, text); note != "" {
		return fmt.Errorf("%w; %s", drift, note)
	}
	return drift
}

// prepareSource builds the tree's own tools and generated headers.
func (m *maker) prepareSource(ctx context.Context) error {
	symvers, err := os.ReadFile(m.kit.Symvers())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.kit.Source(), "Module.symvers"), symvers, 0o644); err != nil {
		return err
	}
	return m.make(ctx, "-j"+strconv.Itoa(runtime.NumCPU()), "modules_prepare")
}

// make runs make in the source tree with the kernel's compiler and release.
func (m *maker) make(ctx context.Context, args ...string) error {
	banner, err := m.banner()
	if err != nil {
		return err
	}
	compiler, _, err := compilerFor(ctx, banner.text.Compiler)
	if err != nil {
		return err
	}
	args = append(MakeArgs(m.kit.Dir, compiler, banner.id), args...)
	_, err = run(ctx, m.kit.Source(), "make", args...)
	return err
}

// banner reads the kernel's identity, once.
func (m *maker) banner() (kernelBanner, error) {
	if m.arch.text.Release != "" {
		return m.arch, nil
	}
	f, err := os.Open(m.path("vmlinux"))
	if err != nil {
		return kernelBanner{}, err
	}
	defer f.Close()
	if m.arch.id, err = kernel.ReadID(f); err != nil {
		return kernelBanner{}, err
	}
	m.arch.text, err = kernel.ReadBanner(f)
	return m.arch, err
}

// finish reads everything once, so that a kit that is there also works, and writes the marker.
func (m *maker) finish(ctx context.Context) error {
	banner, err := m.banner()
	if err != nil {
		return err
	}
	if banner.id.Release != m.kit.Ref.Release || !strings.Contains(banner.id.Version, m.pkg.version) {
		return fmt.Errorf("the kernel in %s says it is %s %s", m.from, banner.id.Release, banner.id.Version)
	}
	compiler, text, err := compilerFor(ctx, banner.text.Compiler)
	if err != nil {
		return err
	}
	m.kit.Info = Info{
		Kernel: m.kit.Ref.String(), ID: banner.id, Package: m.pkg.version, Made: m.now().UTC(),
		KernelCompiler: banner.text.Compiler, Compiler: compiler, CompilerText: text,
	}
	if note := compilerNote(banner.text.Compiler, text); note != "" {
		m.kit.Notes = append(m.kit.Notes, note)
	}
	if err := errors.Join(m.listModules(), m.listFiles(), os.MkdirAll(m.kit.Cache(), 0o755)); err != nil {
		return err
	}
	if _, err := m.kit.Tables(); err != nil {
		return err
	}
	return m.kit.writeMarker()
}

func (m *maker) now() time.Time {
	if m.cache.Now != nil {
		return m.cache.Now()
	}
	return time.Now()
}

// listModules finds the shipped modules and takes the vermagic from one of them.
func (m *maker) listModules() error {
	m.kit.Modules = map[string]string{}
	err := filepath.WalkDir(m.kit.ModuleDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(d.Name(), ".ko") {
			return err
		}
		rel, err := filepath.Rel(m.kit.Dir, path)
		m.kit.Modules[kernel.ModuleName(rel)] = rel
		return err
	})
	if err != nil {
		return fmt.Errorf("list modules: %w", err)
	}
	names := slices.Sorted(maps.Keys(m.kit.Modules))
	if len(names) == 0 {
		return errors.New("list modules: the kernel ships none")
	}
	mod, err := m.kit.ReadModule(names[0])
	if err != nil {
		return err
	}
	m.kit.Vermagic = mod.Vermagic
	return nil
}

func (m *maker) listFiles() error {
	m.kit.Files = map[string]int64{}
	for _, path := range []string{
		"vmlinux", "vmlinuz", "config", "Module.symvers", "bin/pahole", "src/.config", "src/Makefile", "src/Module.symvers",
		"src/include/generated/autoconf.h", "src/include/generated/asm-offsets.h", "src/include/generated/utsrelease.h",
		"src/tools/objtool/objtool", "src/scripts/basic/fixdep", "src/scripts/mod/modpost",
	} {
		st, err := os.Stat(m.path(path))
		if err != nil {
			return fmt.Errorf("check kit: %w", err)
		}
		m.kit.Files[path] = st.Size()
	}
	return nil
}
