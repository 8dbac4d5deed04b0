// Package elfdiff compares an object file compiled from the original source
// with the one compiled from the patched source, and says what a live patch
// must carry to turn the running code into the patched code: or why it cannot.
//
// Both objects are x86-64 relocatables from the same compiler and flags, with
// -ffunction-sections and -fdata-sections. The steps are:
//
//  1. Read turns each file into an Object: sections, symbols and relocations,
//     checked against each other, so that nothing later needs to distrust them.
//  2. Each function and each datum becomes a node, the range of bytes of one
//     symbol. A relocation is rewritten from "section + number" to "node +
//     offset", or to the content of the string literal it points at. Branches
//     between functions of one shared section, which the assembler resolved,
//     become relocations again.
//  3. Nodes of both objects are paired: by name, by name without the numbers
//     that the compiler appends, static locals by who uses them. Some names
//     (__func__, __already_done ...) never pair: a new copy is always right.
//     The pairing is a bijection, and functions are compared under it. So the
//     running program with all differing functions replaced *is* the patched
//     program, whatever a pair is called.
//  4. Functions that differ in bytes, relocations or special entries are
//     changed. A function and its .cold half are one unit. A difference that is
//     only the line number in an argument is none.
//  5. From the changed functions outwards, everything that is new is taken
//     along: functions, data, literals, and for each function its entries in the
//     special sections. Everything that exists already is referred to.
//  6. What a live patch cannot do is refused, each time with a typed Refusal:
//     code that runs only at boot, initial values of data that exists, functions
//     without an entry hook, sections this package does not know.
//
// The result, a Diff, is linked by package klpmod. The package does no IO
// beyond the io.ReaderAt it is given.
package elfdiff
