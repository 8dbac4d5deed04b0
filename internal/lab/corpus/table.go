package corpus

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Figures are what a corpus run comes down to.
type Figures struct {
	Files, Alone, Unchanged, Hookless int
	// Built live patches, those that were loaded without an error, and those
	// among them whose functions really were redirected in the guest.
	Built, Loaded, Patching int
	// NextBoot: built, and part of the change is boot code, which has run.
	NextBoot int
	// Refused changes, those of them that are only data initialisers or code of
	// boot, load and unload, and those that have such a part, or another layout
	// of a type, beside code.
	Refused, BootOnly, Mixed int
	Errors                   int
}

// Figures counts the results.
func (r *Report) Figures() Figures {
	f := Figures{Files: len(r.Results)}
	for _, x := range r.Results {
		switch x.Outcome {
		case Alone:
			f.Alone++
		case Unchanged:
			f.Unchanged++
		case Hookless:
			f.Hookless++
		case Built:
			f.Built++
			if len(x.NextBoot) > 0 {
				f.NextBoot++
			}
		case Refused:
			f.Refused++
		}
		if x.BootOnly() {
			f.BootOnly++
		}
		if x.Mixed() {
			f.Mixed++
		}
		if x.Load != nil && x.Load.OK {
			f.Loaded++
			if x.Load.Patching {
				f.Patching++
			}
		}
		if x.Error() != "" {
			f.Errors++
		}
	}
	return f
}

// Compiled files, with or without a difference.
func (f Figures) Compiled() int { return f.Files - f.Alone - f.Hookless }

// Patchable are the compiled files whose objects differ in what runs after boot.
func (f Figures) Patchable() int { return f.Compiled() - f.Unchanged - f.BootOnly }

// BuiltPct is the share of the patchable ones that a live patch was built for, in percent.
func (f Figures) BuiltPct() float64 { return percent(f.Built, f.Patchable()) }

// AllPct is BuiltPct with the files that the kernel builds without entry hooks
// counted as if they had been compiled, in percent.
func (f Figures) AllPct() float64 { return percent(f.Built, f.Patchable()+f.Hookless) }

// CodePct is the share of those whose change is only to code that runs after boot, in percent.
func (f Figures) CodePct() float64 { return percent(f.Built, f.Patchable()-f.Mixed) }

func percent(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// Text is the figures as benchmark lines.
func (f Figures) Text() string {
	return fmt.Sprintf("bench corpus_files %d count\nbench corpus_compiled %d count\nbench corpus_loaded %d count\n"+
		"bench corpus_built_code_pct %.1f %%\nbench corpus_built_with_hookless_pct %.1f %%\nbench corpus_built_pct %.1f %%\nbench corpus_errors %d count\n", f.Files, f.Compiled(), f.Loaded, f.CodePct(), f.AllPct(), f.BuiltPct(), f.Errors)
}

// Markdown is the report as a page.
func (r *Report) Markdown(now time.Time) string {
	f := r.Figures()
	var b strings.Builder
	fmt.Fprintf(&b, "# The corpus\n\nWhat Debian changed from linux-source %s to %s, file by file, as live patches for `%s`.\n\n", r.Before, r.After, r.Kernel)
	fmt.Fprintf(&b, "%d C files of the kernel's configuration differ between the two versions; this run, on %s, took %d of them (seed %d).\n",
		r.Differing, now.UTC().Format(time.DateOnly), f.Files, r.Seed)
	b.WriteString("For each file, the difference of that file alone is the patch. Each built module was loaded into the kernel in QEMU,\n" +
		"made its transition, was disabled and unloaded; a warning of the kernel would count as an error. `make corpus` repeats it.\n\n")
	fmt.Fprintf(&b, "| what became of the file | files |\n|---|---:|\n")
	fmt.Fprintf(&b, "| does not compile, or is never called, without the other files of its version | %d |\n", f.Alone)
	fmt.Fprintf(&b, "| refused before it is compiled: the kernel builds it without entry hooks (lib/, kernel/trace), so nothing in it can be redirected | %d |\n", f.Hookless)
	fmt.Fprintf(&b, "| compiles, and no object changes | %d |\n", f.Unchanged)
	fmt.Fprintf(&b, "| refused: only data initialisers, or code of boot, load or unload | %d |\n", f.BootOnly)
	fmt.Fprintf(&b, "| refused: code, but with such initialisers, such code or another layout of a type | %d |\n", f.Mixed)
	fmt.Fprintf(&b, "| refused for another reason | %d |\n", f.Refused-f.BootOnly-f.Mixed)
	fmt.Fprintf(&b, "| built | %d |\n", f.Built)
	fmt.Fprintf(&b, "| ... of these with a change of boot code beside, which takes effect with the next boot | %d |\n", f.NextBoot)
	fmt.Fprintf(&b, "| ... of these loaded and unloaded in QEMU | %d |\n", f.Loaded)
	fmt.Fprintf(&b, "| ... of these whose target ran in the guest, with every function redirected | %d |\n", f.Patching)
	fmt.Fprintf(&b, "| errors | %d |\n\n", f.Errors)
	fmt.Fprintf(&b, "Built: %d of the %d files whose change reaches code that runs after boot, %.1f %%;\n"+
		"%.1f %% with those counted in that have no entry hooks, %.1f %% of those that change nothing but such code. What was refused in between is listed below: patching the code alone\n"+
		"would leave the running kernel with half of the change, so its author has to say what should happen to the rest.\n",
		f.Built, f.Patchable(), f.BuiltPct(), f.AllPct(), f.CodePct())
	fmt.Fprintf(&b, "Wall time to build one, whatever else the machine did, in seconds: %s.\n", r.times())
	r.writeClasses(&b)
	r.writeFiles(&b)
	return b.String()
}

// times are percentiles of the time to build.
func (r *Report) times() string {
	var ms []int64
	for _, x := range r.Results {
		if x.Outcome == Built {
			ms = append(ms, x.BuildMS)
		}
	}
	if len(ms) == 0 {
		return "none was built"
	}
	slices.Sort(ms)
	at := func(q int) float64 { return float64(ms[(len(ms)-1)*q/100]) / 1000 }
	return fmt.Sprintf("median %.1f, 90th percentile %.1f, longest %.1f", at(50), at(90), at(100))
}

// writeClasses counts the refusals by what they were for.
func (r *Report) writeClasses(b *strings.Builder) {
	count := map[string]int{}
	for _, x := range r.Results {
		if x.Outcome == Refused {
			count[strings.Join(x.classes(), ", ")]++
		}
	}
	if len(count) == 0 {
		return
	}
	b.WriteString("\n## Refusals by class\n\n| classes | files |\n|---|---:|\n")
	var names []string
	for name := range count {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int {
		if count[x] != count[y] {
			return count[y] - count[x]
		}
		return strings.Compare(x, y)
	})
	for _, name := range names {
		fmt.Fprintf(b, "| %s | %d |\n", name, count[name])
	}
}

// writeFiles lists what was not simply built and loaded.
func (r *Report) writeFiles(b *strings.Builder) {
	b.WriteString("\n## Every file that was refused or failed\n\n| file | outcome | why |\n|---|---|---|\n")
	results := slices.Clone(r.Results)
	slices.SortFunc(results, func(x, y Result) int { return strings.Compare(x.File, y.File) })
	for _, x := range results {
		what, why := string(x.Outcome), ""
		switch {
		case x.Error() != "":
			what, why = "error", firstLine(x.Error())
		case x.Outcome == Hookless:
			what, why = "refused, no entry hooks", firstLine(x.Detail)
		case x.Outcome == Refused:
			var lines []string
			for _, f := range x.Refusals {
				lines = append(lines, fmt.Sprintf("%s: `%s` %s", f.Class, subject(f.Symbol, f.Section), f.Why))
			}
			if len(lines) > 3 {
				lines = append(lines[:3], fmt.Sprintf("and %d more", len(lines)-3))
			}
			why = strings.Join(lines, "; ")
			if x.BootOnly() {
				what = "refused, boot only"
			}
		default:
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", x.File, what, strings.ReplaceAll(why, "|", "\\|"))
	}
	writeNextBoot(b, results)
	writeThreads(b, results)
	writeIdle(b, results)
}

// writeNextBoot lists what was built without a part that only boot could bring.
func writeNextBoot(b *strings.Builder, results []Result) {
	if !slices.ContainsFunc(results, func(x Result) bool { return len(x.NextBoot) > 0 }) {
		return
	}
	b.WriteString("\n## Built without its boot code\n\nThese functions of the kernel itself ran at boot and are gone. The object shows that the rest of the change uses\n" +
		"nothing that they set up; the bundle names them, and they take effect with the next boot of a patched kernel.\n\n| file | functions |\n|---|---|\n")
	for _, x := range results {
		if len(x.NextBoot) > 0 {
			fmt.Fprintf(b, "| %s | `%s` |\n", x.File, strings.Join(x.NextBoot, "`, `"))
		}
	}
}

// writeThreads lists what was loaded before its target, for the sake of a thread.
func writeThreads(b *strings.Builder, results []Result) {
	if !slices.ContainsFunc(results, func(x Result) bool { return len(x.Threads) > 0 }) {
		return
	}
	b.WriteString("\n## Loaded before its target\n\nA kernel thread of the module never leaves one of these functions, so that the transition cannot end once it runs;\n" +
		"the bundle says so (`stuck`). The live patch was loaded first, then its target, which was unloaded again before it.\n\n| file | functions |\n|---|---|\n")
	for _, x := range results {
		if len(x.Threads) > 0 {
			fmt.Fprintf(b, "| %s | `%s` |\n", x.File, strings.Join(x.Threads, "`, `"))
		}
	}
}

// writeIdle lists what was loaded with no code to redirect in the guest.
func writeIdle(b *strings.Builder, results []Result) {
	b.WriteString("\n## Loaded without its target\n\nThe guest cannot load these modules, so their live patches waited for them.\n\n| file | why |\n|---|---|\n")
	for _, x := range results {
		if x.Load != nil && x.Load.OK && !x.Load.Patching {
			fmt.Fprintf(b, "| %s | %s |\n", x.File, firstLine(x.Load.Detail))
		}
	}
}

func subject(symbol, section string) string {
	if symbol == "" {
		return section
	}
	return symbol
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
