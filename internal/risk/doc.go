// Package risk says what may go wrong with a live patch that is right: a
// transition that does not end because tasks sleep in what it replaces, code
// that is too hot or cannot be redirected everywhere, a kernel that nobody
// repairs any more. It knows the shipped kernel by its code, and a host's load by a
// profile that somebody took there. It refuses nothing: people read it.
package risk
