// Package patches tests live patches written by hand: one for each feature of
// kernel code that a patch may meet, and one for each class of refusals. Each
// file in testdata says in its comment what it is about, and holds
//
//	change.patch  the diff, against Debian's source of 6.1.0-55
//	expect        what becomes of it: "built OBJECT:FUNCTION ...",
//	              "refused CLASS", "unchanged", "does not apply", or
//	              "does not compile WORD"
//	risks         the risks that the bundle notes, by kind and function, if given
//	check         a script that the guest runs, true while the patch is in
//	              effect, and not before and after
//	later         a module to load only after the live patch, if any
//	warns         what the one warning that the patch causes mentions, if any
//
// A file in testdata/succession is about live patches that follow one another:
//
//	build         one line for each: "NAME PATCH", or "NAME on EARLIER PATCH"
//	modules       of the kernel, put beside them
//	script        what is done with them in the guest, in the words of succession.sh
//
// The pieces of C in docs/how-to/write-a-patch.md are parts of these diffs.
package patches
