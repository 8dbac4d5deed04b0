package cli

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/build"
	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kbuild"
	"afloat/internal/lab"
	"afloat/internal/patch"
)

// exitSource: the patch does not apply, or the patched source does not compile.
const exitSource = 4

type buildFlags struct {
	key, name, out, debs, on  string
	reboot                    string
	check, patchSet           string
	signKey, signCert         string
	kernels, cves, publishers []string
	jobs                      int
	noCache, quiet, bootTest  bool
}

func newBuild() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build --kernel debian:RELEASE --key KEY --name NAME -o OUT.afloat FIX.patch...",
		Short: "Build a signed live patch for a kernel from source diffs",
		Long: `Build a signed live patch for a kernel from source diffs.

The diffs apply in order to the kernel's own source. Only the objects they touch
are compiled, before and after; the originals are proven to be the code that the
shipped kernel runs; the difference is linked into a livepatch module that
replaces every earlier one, and sealed with the publisher's key.

A live patch is cumulative: it must hold the earlier ones as well. --on takes the
diffs and CVEs of the last bundle for this kernel and puts the new diffs after
them. The bundle must be signed with the key in use, or with a --publisher-key.

--reboot promptly says that memory may be damaged before the live patch is on:
hosts that get it boot within 72 hours. --reboot required says that it is not
enough by itself: their kernel takes no later live patches, hosts boot another
one. A bundle that is built on another keeps what that one says. The server goes
by the stricter of this and the policy.

With several --kernel, one bundle is made for each, side by side within the
machine's cores; %k in the paths of -o and --on stands for the kernel's release.
A kernel that fails does not stop the others, and the exit code is the worst of
all, in the order 1, 4, 2, 3, 0. --patch-set names a YAML file that says all this
once (name, cves, reboot, kernels, patches, output, on, check, bootTest); its paths start
at its own folder, and what the command line gives as well goes before it.

Exit codes: 0 built, 1 error, 2 the change cannot be live patched, 3 the diffs
change nothing in the kernel's objects, 4 a diff does not apply or the patched
source does not compile.`,
		Example: "  afloat build --kernel debian:6.1.0-55-amd64 --key publisher --name 2026-11-ext4 -o ext4.afloat ext4.patch\n" +
			"  afloat build --kernel debian:6.1.0-55-amd64 --key publisher --name 2026-12-net -o net.afloat --on ext4.afloat net.patch\n" +
			"  afloat build --patch-set ext4.yaml --key publisher",
		GroupID: "build",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := f.fill(args)
			if err != nil {
				return err
			}
			return runBuild(cmd, f, files)
		},
	}
	cmd.Flags().StringArrayVar(&f.kernels, "kernel", nil, "kernel to build for, debian:RELEASE (required); may be repeated")
	cmd.Flags().StringVar(&f.patchSet, "patch-set", "", "YAML file that lists kernels and diffs")
	cmd.Flags().StringVar(&f.key, "key", "", "publisher's private key, as keygen wrote it (required)")
	cmd.Flags().StringVar(&f.name, "name", "", "name of the patch set, the same for every kernel (required)")
	cmd.Flags().StringVarP(&f.out, "output", "o", "", "file to write the bundle to (required); %k stands for the kernel's release")
	cmd.Flags().StringArrayVar(&f.cves, "cve", nil, "CVE that the patch fixes; may be repeated")
	cmd.Flags().StringVar(&f.reboot, "reboot", "", "how soon a reboot must follow: promptly or required; default when it suits")
	cmd.Flags().StringVar(&f.on, "on", "", "bundle to build on: its diffs come first; %k stands for the kernel's release")
	cmd.Flags().StringArrayVar(&f.publishers, "publisher-key", nil, "public key that may have signed the bundle of --on, besides --key's own; may be repeated")
	cmd.Flags().StringVar(&f.signKey, "sign-key", "", "key that signs the module for kernels that want it (Secure Boot): a PEM file or a pkcs11: URI")
	cmd.Flags().StringVar(&f.signCert, "sign-cert", "", "certificate of --sign-key, PEM or DER, that the hosts' kernels trust")
	cmd.Flags().BoolVar(&f.bootTest, "boot-test", false, "try the live patch on its own kernel in QEMU before it is signed")
	cmd.Flags().StringVar(&f.check, "check", "", "script to run in the boot test while the live patch is in effect; implies --boot-test")
	cmd.Flags().IntVarP(&f.jobs, "jobs", "j", 0, "compilations at once; 0 means one per CPU")
	cmd.Flags().BoolVar(&f.noCache, "no-cache", false, "compile every object anew")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "say nothing unless it goes wrong")
	cmd.Flags().StringVar(&f.debs, "debs", os.Getenv("AFLOAT_DEB_DIR"), "folder of .deb files to take before asking the archive")
	return cmd
}

func runBuild(cmd *cobra.Command, f buildFlags, files []string) error {
	start := time.Now()
	key, err := privateKey(f.key)
	if err != nil {
		return err
	}
	inputs, err := readDiffs(files)
	if err != nil {
		return err
	}
	reboot, err := bundle.ParseReboot(f.reboot)
	if err != nil {
		return withHint(fmt.Errorf("cannot build: %w", err), "leave --reboot out if hosts may boot when it suits")
	}
	targets, err := f.targets()
	if err != nil {
		return err
	}
	var check []byte
	if f.check != "" {
		f.bootTest = true
		if check, err = os.ReadFile(f.check); err != nil {
			return fmt.Errorf("read check script: %w", err)
		}
	}
	signer, err := f.moduleKey()
	if err != nil {
		return err
	}
	j := buildJob{signer: signer, reboot: reboot, check: check, flags: f, key: key, inputs: inputs, start: start}
	if len(targets) > 1 {
		return j.runMany(cmd, targets)
	}
	o := j.build(cmd, targets[0], "")
	if o.err != nil {
		return o.err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s for %s, %s, %d bytes, %s\n",
		o.out, o.manifest.Name, o.manifest.Kernel, counted(len(o.manifest.Functions), "function"), len(o.file), bundle.DigestOf(o.file))
	return nil
}

// moduleKey is the key that the module is signed with; nil for none.
func (f buildFlags) moduleKey() (*kbuild.ModuleKey, error) {
	if (f.signKey == "") != (f.signCert == "") {
		return nil, withHint(errors.New("cannot sign the module: --sign-key and --sign-cert go together"),
			"`openssl req -new -x509 -newkey rsa:2048 -nodes -keyout KEY -out CERT -subj /CN=NAME` makes both")
	}
	if f.signKey == "" {
		return nil, nil
	}
	signer := &kbuild.ModuleKey{Key: f.signKey, Cert: f.signCert}
	_, err := signer.Check()
	return signer, err
}

// privateKey reads the key that bundles are signed with.
func privateKey(path string) (ed25519.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, withHint(fmt.Errorf("read key: %w", err), "`afloat keygen -o %s` makes one", path)
	}
	key, err := bundle.ParsePrivateKey(data)
	if err != nil {
		return nil, withHint(fmt.Errorf("cannot sign with %s: %w", path, err), "give the private key that `afloat keygen -o PATH` wrote to PATH, not PATH.pub")
	}
	return key, nil
}

// buildJob is what the builds for all kernels share.
type buildJob struct {
	flags  buildFlags
	key    ed25519.PrivateKey
	inputs []build.Input
	check  []byte // the author's check script; nil for none
	signer *kbuild.ModuleKey
	reboot bundle.Reboot
	start  time.Time
}

// build builds for one kernel and writes the bundle; prefix begins each line of progress.
func (j buildJob) build(cmd *cobra.Command, t kernelTarget, prefix string) outcome {
	began := time.Now()
	out, err := j.try(cmd, t, prefix)
	o := outcome{kernelTarget: t, took: time.Since(began), err: err}
	if err == nil {
		o.file, o.manifest = out.File, out.Manifest
	}
	return o
}

func (j buildJob) try(cmd *cobra.Command, t kernelTarget, prefix string) (*build.Output, error) {
	f := j.flags
	earlier, err := readEarlier(t.on, j.key, f.publishers)
	if err != nil {
		return nil, err
	}
	progress := cmd.ErrOrStderr()
	if f.quiet {
		progress = io.Discard
	}
	tell := func(step string) {
		fmt.Fprintf(progress, "%5.1f s  %s%s\n", time.Since(j.start).Seconds(), prefix, step)
	}
	cache, err := kitCache(progress, f.debs)
	if err != nil {
		return nil, err
	}
	k, err := fetchKit(cmd, cache, t.kernel)
	if err != nil {
		return nil, err
	}
	draft, err := build.Make(cmd.Context(), build.Options{
		Kit: k, Name: f.name, CVEs: f.cves, Reboot: j.reboot, On: earlier, Patches: j.inputs, Parallel: f.jobs, NoCache: f.noCache,
		Now: time.Now(), Progress: tell, Signer: j.signer,
	})
	if err != nil {
		return nil, explainBuild(err, k.Ref.String())
	}
	if f.bootTest {
		tell("trying it on " + k.Release() + " in QEMU")
		if err := bootTest(cmd.Context(), k, draft, j.check); err != nil {
			return nil, explainBuild(err, k.Ref.String())
		}
	}
	out, err := draft.Seal(j.key)
	if err != nil {
		return nil, err
	}
	if err := writeFile(t.out, out.File, 0o644); err != nil {
		return nil, err
	}
	stuck, others := sortRisks(out.Manifest.Evidence.Risks)
	for _, r := range stuck { // also with --quiet: no host would ever be done with it
		fmt.Fprintf(cmd.ErrOrStderr(), "%srisk: %s: %s\n", prefix, r.Function, r.Why)
	}
	if others > 0 {
		tell(counted(others, "risk") + " to weigh: afloat inspect " + t.out)
	}
	tell("done")
	return out, nil
}

// sortRisks picks the risks that keep a transition from ending, and counts the others.
func sortRisks(risks []bundle.Risk) (stuck []bundle.Risk, others int) {
	for _, r := range risks {
		if r.Kind == bundle.RiskStuck {
			stuck = append(stuck, r)
		} else {
			others++
		}
	}
	return stuck, others
}

// readEarlier reads the bundle to build on; nil for none.
func readEarlier(path string, key ed25519.PrivateKey, publishers []string) (*build.Earlier, error) {
	if path == "" {
		return nil, nil
	}
	keys, err := publicKeys(publishers)
	if err != nil {
		return nil, err
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	earlier, err := build.ReadEarlier(file, append(keys, key.Public().(ed25519.PublicKey))...)
	if errors.Is(err, bundle.ErrUnknownPublisher) {
		return nil, withHint(fmt.Errorf("cannot build on %s: it is not signed with the key in use", path),
			"if you trust its diffs, name the key that signed it with --publisher-key")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot build on %s: %w", path, err)
	}
	return earlier, nil
}

func readDiffs(files []string) ([]build.Input, error) {
	var inputs []build.Input
	for _, name := range files {
		st, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("read patch: %w", err)
		}
		if st.Size() > patch.MaxSize {
			return nil, fmt.Errorf("read patch %s: larger than %d bytes", name, patch.MaxSize)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read patch: %w", err)
		}
		if _, err := patch.Parse(filepath.Base(name), text); err != nil { // before kits are fetched for it
			return nil, &exitError{exitSource, fmt.Errorf("cannot read %s: %w", name, err)}
		}
		inputs = append(inputs, build.Input{Name: filepath.Base(name), Text: text})
	}
	return inputs, nil
}

// explainBuild gives a build's error its exit code and its hint.
func explainBuild(err error, kernel string) error {
	if errors.Is(err, build.ErrUnchanged) {
		return &exitError{exitNothing, err}
	}
	if r, ok := errors.AsType[*elfdiff.RefusedError](err); ok {
		return &exitError{exitRefused, withHint(r, "%s", refusalHints(r.Refusals))}
	}
	if _, ok := errors.AsType[*lab.BootTestError](err); ok {
		return &exitError{exitRefused, err}
	}
	if other, ok := errors.AsType[*build.OtherKernelError](err); ok {
		return withHint(err, "give --on the bundle that was built for %s", other.Want.Release)
	}
	if clash, ok := errors.AsType[*build.ClashError](err); ok {
		return &exitError{exitSource, withHint(err, "make the diff against the source of %s with %s applied", kernel, clash.With)}
	}
	if _, ok := errors.AsType[*patch.ConflictError](err); ok {
		return &exitError{exitSource, withHint(err, "the diff must be made against the source of %s", kernel)}
	}
	if c, ok := errors.AsType[*kbuild.CompileError](err); ok && c.Patched {
		return &exitError{exitSource, err}
	}
	return err
}

// refusalHints lists each different way out once.
func refusalHints(refusals []elfdiff.Refusal) string {
	var hints []string
	seen := map[string]bool{"": true}
	for _, r := range refusals {
		if !seen[r.Hint] {
			seen[r.Hint] = true
			hints = append(hints, r.Hint)
		}
	}
	return strings.Join(hints, "\nhint: ")
}

// writeFile writes a file whole or not at all.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".afloat-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
