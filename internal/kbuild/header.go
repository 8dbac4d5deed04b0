package kbuild

import (
	"bytes"
	_ "embed" // afloat-patch.h
	"maps"
)

// Header is afloat-patch.h, for the authors of patches.
//
//go:embed afloat-patch.h
var Header []byte

// HeaderName is how patched files include it.
const HeaderName = "afloat-patch.h"

// withHeader adds the header to the patched files if one of them mentions it,
// where every command of the kernel's build searches.
func withHeader(files map[string][]byte) map[string][]byte {
	for _, content := range files {
		if bytes.Contains(content, []byte(HeaderName)) {
			files = maps.Clone(files)
			files["include/"+HeaderName] = Header
			break
		}
	}
	return files
}
