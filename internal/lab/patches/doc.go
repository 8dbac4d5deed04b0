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
package patches
