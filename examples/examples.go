// Package examples carries the example patches inside the binary, so that the
// demo runs from anywhere.
package examples

import "embed"

// Patches holds every .patch file of this folder.
//
//go:embed *.patch
var Patches embed.FS
