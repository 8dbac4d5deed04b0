package elfdiff

import (
	"io"
	"sync"
)

// lineSource finds source lines in an object's DWARF, which is read only when
// somebody asks: most objects are never asked.
type lineSource struct {
	file io.ReaderAt
	once *sync.Once
}
