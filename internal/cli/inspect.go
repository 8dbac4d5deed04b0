package cli

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/bundle"
	"afloat/internal/risk"
)

// inspection is what inspect prints as json or yaml.
type inspection struct {
	Digest bundle.Digest `json:"digest"`
	Bytes  int           `json:"bytes"`
	// Publisher is the id of the given key that signed the bundle; "" if none was given.
	Publisher string `json:"publisher,omitempty"`
	// Support is how long the kernel's vendor repairs it; nil where that is not known.
	Support *risk.Support `json:"support,omitempty"`
	// Risks are those of the manifest, and what is known only now.
	Risks []bundle.Risk `json:"risks"`
	// Passage is from the bundle given with --from; nil without.
	Passage  *passage        `json:"passage,omitempty"`
	Manifest bundle.Manifest `json:"manifest"`
}

func newInspect() *cobra.Command {
	var keys []string
	var extract, profile, from string
	var diffs bool
	cmd := &cobra.Command{
		Use:   "inspect FILE.afloat",
		Short: "Show everything about a bundle",
		Long: `Show everything about a bundle: its kernel, the functions it replaces, the diffs
in it and the evidence of its build. With --publisher-key its signature is
verified as well; without, only that it is whole.

The risks are what may go wrong although the live patch is right: functions that
tasks sleep in, so that its transition takes long or cannot end; callers that
cannot be traced; a kernel that its vendor no longer repairs; and, with
--profile, functions that are hot on a host.`,
		Example: "  afloat inspect ext4.afloat\n" +
			"  perf report --stdio >profile; afloat inspect ext4.afloat --profile profile",
		GroupID: "build",
		Args:    cobra.ExactArgs(1),
	}
	format := outputFlag(cmd)
	cmd.Flags().StringArrayVar(&keys, "publisher-key", nil, "public key that must have signed the bundle; may be repeated")
	cmd.Flags().StringVar(&extract, "extract-module", "", "write the kernel module to this file")
	cmd.Flags().StringVar(&profile, "profile", "", "what perf report --stdio or perf script printed, or folded stacks: says which functions are hot there")
	cmd.Flags().StringVar(&from, "from", "", "another bundle for the kernel: says how hosts get from that to this one, and back")
	cmd.Flags().BoolVar(&diffs, "diffs", false, "print the diffs as well")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		file, err := os.ReadFile(args[0])
		if err != nil {
			return fmt.Errorf("read bundle: %w", err)
		}
		b, err := bundle.Decode(file)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		i := inspection{Digest: bundle.DigestOf(file), Bytes: len(file), Manifest: b.Manifest}
		if err := i.weigh(profile, time.Now()); err != nil {
			return err
		}
		if i.Publisher, err = verify(b, keys); err != nil {
			return err
		}
		if from != "" {
			if i.Passage, err = readPassage(from, &b.Manifest); err != nil {
				return err
			}
		}
		if extract != "" {
			if err := writeFile(extract, b.Payload, 0o644); err != nil {
				return err
			}
		}
		if *format != "table" {
			return write(cmd.OutOrStdout(), *format, i, table{})
		}
		return i.print(cmd.OutOrStdout(), diffs)
	}
	return cmd
}

// weigh adds what the manifest cannot know: the vendor's support at this time,
// and a profile of a host.
func (i *inspection) weigh(profile string, now time.Time) error {
	i.Risks = slices.Concat([]bundle.Risk{}, i.Manifest.Evidence.Risks)
	if s, known := risk.SupportOf(i.Manifest.Kernel, now); known {
		i.Support = &s
		if s.State == "ended" {
			i.Risks = append(i.Risks, bundle.Risk{Kind: bundle.RiskSupport, Why: s.String()})
		}
	}
	if profile == "" {
		return nil
	}
	f, err := os.Open(profile)
	if err != nil {
		return fmt.Errorf("read profile: %w", err)
	}
	defer f.Close()
	p, err := risk.ReadProfile(f)
	if err != nil {
		return withHint(fmt.Errorf("%s: %w", profile, err), "perf record -ag, then perf report --stdio >%s", profile)
	}
	i.Risks = append(i.Risks, p.Hot(i.Manifest.Functions)...)
	return nil
}

// verify returns the id of the key that signed the bundle, or "" where no key was given.
func verify(b *bundle.Bundle, paths []string) (string, error) {
	if len(paths) == 0 {
		return "", nil
	}
	keys, err := publicKeys(paths)
	if err != nil {
		return "", err
	}
	key, err := b.Verify(keys)
	if err != nil {
		return "", err
	}
	return bundle.KeyID(key), nil
}

func publicKeys(paths []string) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		key, err := bundle.ParsePublicKey(data)
		if err != nil {
			return nil, withHint(fmt.Errorf("cannot verify with %s: %w", path, err), "give the PATH.pub that `afloat keygen -o PATH` wrote")
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// klpSymbols says how many symbols the kernel looks up when it loads the
// module, which is what its load time grows with.
func klpSymbols(m bundle.Manifest) string {
	s := fmt.Sprintf("%d looked up when it loads", m.KlpSymbols)
	if ms := m.Evidence.LoadMS; ms > 0 {
		s += fmt.Sprintf(", which took %.2f s in the boot test, without hardware virtualisation", float64(ms)/1000)
	}
	return s
}

// print writes the inspection for people.
func (i inspection) print(w io.Writer, diffs bool) error {
	t := table{}
	i.head(&t)
	i.body(&t)
	if err := t.write(w); err != nil {
		return err
	}
	if diffs {
		for _, s := range i.Manifest.Sources {
			fmt.Fprintf(w, "\n%s:\n%s", s.Name, s.Diff)
		}
	}
	return nil
}

// head adds what there is one of.
func (i inspection) head(t *table) {
	m := i.Manifest
	row := func(name, value string) {
		if value != "" {
			t.add(name, value)
		}
	}
	row("name", m.Name)
	row("cves", strings.Join(m.CVEs, ", "))
	row("reboot", rebootWords(m.Reboot))
	row("digest", string(i.Digest))
	if i.Publisher == "" {
		row("publisher", "not verified: give --publisher-key")
	} else {
		row("publisher", i.Publisher+", verified")
	}
	row("created", m.Created.Format("2006-01-02 15:04:05 MST"))
	row("kernel", m.Kernel.Release)
	row("", m.Kernel.Version)
	row("build id", m.Kernel.BuildID)
	if i.Support != nil {
		row("support", i.Support.String())
	}
	row("live patching", m.Evidence.LivePatching)
	row("module", fmt.Sprintf("%s, %d bytes, sha256 %s", m.Module, m.Size, m.SHA256))
	if m.Replace {
		row("replace", "every earlier live patch, in one step")
	}
	row("built on", string(m.On))
	row("klp symbols", klpSymbols(m))
	row("kit", m.Evidence.Kit)
	row("compiler", m.Evidence.Compiler)
	row("build", fmt.Sprintf("%.1f s", float64(m.Evidence.BuildMS)/1000))
}

// rebootWords say what a manifest wants.
func rebootWords(r bundle.Reboot) string {
	switch r {
	case bundle.RebootPromptly:
		return "promptly: memory may be damaged before the live patch is on"
	case bundle.RebootRequired:
		return "required: this kernel takes no later live patches, boot another"
	}
	return string(r)
}

// body adds the lists, one line for each item.
func (i inspection) body(t *table) {
	m := i.Manifest
	list := func(name string, items []string) {
		for n, item := range items {
			if n > 0 {
				name = ""
			}
			t.add(name, item)
		}
	}
	functions := make([]string, len(m.Functions))
	for n, f := range m.Functions {
		functions[n] = fmt.Sprintf("%s:%s,%d", f.Object, f.Name, f.Sympos)
	}
	list("replaces", functions)
	listAuthor(m, list)
	list("hosts go", i.Passage.lines())
	list("objects", m.Evidence.Objects)
	list("proof", m.Evidence.Proof)
	list("boot test", m.Evidence.BootTest)
	list("from the next boot on", m.Evidence.NextBoot)
	risks := make([]string, len(i.Risks))
	for n, r := range i.Risks {
		risks[n] = strings.TrimPrefix(r.Function+": ", ": ") + r.Why
	}
	list("risks", risks)
	list("notes", m.Evidence.Notes)
	sources := make([]string, len(m.Sources))
	for n, s := range m.Sources {
		sources[n] = fmt.Sprintf("%s, sha256 %.16s, %d lines", s.Name, s.SHA256, strings.Count(s.Diff, "\n"))
	}
	list("sources", sources)
}

// listAuthor lists what the patch's author says in the words of afloat-patch.h.
func listAuthor(m bundle.Manifest, list func(name string, items []string)) {
	callbacks := make([]string, len(m.Callbacks))
	for n, c := range m.Callbacks {
		callbacks[n] = fmt.Sprintf("%s of %s: %s (%s)", c.Kind, c.Object, c.Function, c.Source)
	}
	list("callbacks", callbacks)
	states := make([]string, len(m.States))
	for n, s := range m.States {
		states[n] = fmt.Sprintf("%#x in version %d", s.ID, s.Version)
	}
	list("states", states)
	waivers := make([]string, len(m.Waivers))
	for n, w := range m.Waivers {
		waivers[n] = fmt.Sprintf("%s %s (%s): %s", w.Kind, w.Of, w.Source, w.Reason)
	}
	list("waivers", waivers)
}
