// Package corpus builds a live patch from each file that differs between two
// versions of a kernel's source, loads what was built into that kernel in QEMU,
// and counts. It measures how much of what really changes in a kernel can be
// live patched, and finds what the builder gets wrong.
package corpus
