package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
)

// Banner is the kernel's own description of itself, the string linux_banner.
type Banner struct {
	Release string `json:"release"`
	// Compiler and linker as the kernel's build saw them:
	// gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40
	Compiler string `json:"compiler"`
	Version  string `json:"version"`
}

// ErrNoIdentity says that a file holds no kernel banner or no build id.
var ErrNoIdentity = errors.New("file is no kernel with a banner and a build id")

// bannerPattern: "Linux version %s (%s@%s) (%s) %s\n", init/version.c. The
// release cannot hold a blank, and the version starts at "#" and the build's
// number; the copy from an early link step, without the number, is not the one that runs.
var bannerPattern = regexp.MustCompile(`Linux version ([^ %\n\x00]{1,64}) \([^\n\x00]*?\) \(([^\n\x00]{1,512}?)\) (#[0-9][^\n\x00]{0,128})\n`)

// ReadID returns the identity of an ELF vmlinux, as a host that runs it would tell it.
// Errors wrap ErrNoIdentity.
func ReadID(vmlinux io.ReaderAt) (ID, error) {
	banner, err := ReadBanner(vmlinux)
	if err != nil {
		return ID{}, err
	}
	build, err := readBuildID(vmlinux)
	if err != nil {
		return ID{}, fmt.Errorf("read build id: %w", err)
	}
	return ID{Release: banner.Release, Version: banner.Version, BuildID: build}, nil
}

// ReadBanner finds the banner in an ELF vmlinux. Errors wrap ErrNoIdentity.
func ReadBanner(vmlinux io.ReaderAt) (Banner, error) {
	f, err := openELF(vmlinux)
	if err != nil {
		return Banner{}, fmt.Errorf("read banner: %w", err)
	}
	for _, s := range f.Sections {
		if s.Name != ".rodata" && s.Name != ".init.data" && s.Name != ".data" && s.Name != ".init.rodata" {
			continue
		}
		data, err := sectionData(s)
		if err != nil {
			continue
		}
		if b, ok := findBanner(data); ok {
			return b, nil
		}
	}
	return Banner{}, fmt.Errorf("read banner: %w", ErrNoIdentity)
}

func findBanner(data []byte) (Banner, bool) {
	// Finding the fixed head first keeps the regular expression off 5 MB of other data.
	for head := []byte("Linux version "); ; {
		at := bytes.Index(data, head)
		if at < 0 {
			return Banner{}, false
		}
		line := data[at:min(len(data), at+1024)]
		if loc := bannerPattern.FindSubmatchIndex(line); loc != nil && loc[0] == 0 {
			return Banner{
				Release:  string(line[loc[2]:loc[3]]),
				Compiler: string(line[loc[4]:loc[5]]),
				Version:  string(line[loc[6]:loc[7]]),
			}, true
		}
		data = data[at+len(head):]
	}
}

// readBuildID returns the GNU build id note (type 3) of .notes or .note.gnu.build-id in hex.
func readBuildID(file io.ReaderAt) (string, error) {
	f, err := openELF(file)
	if err != nil {
		return "", err
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOTE {
			continue
		}
		notes, err := sectionData(s)
		if err != nil {
			return "", err
		}
		if id, ok := ParseBuildID(notes); ok {
			return id, nil
		}
	}
	return "", ErrNoIdentity
}

// ReadBuildIDNote returns the GNU build id in a vmlinux as it lies in the running
// kernel's memory, and the link address of its first byte. Errors wrap ErrNoIdentity.
func ReadBuildIDNote(vmlinux io.ReaderAt) (id []byte, addr uint64, err error) {
	f, err := openELF(vmlinux)
	if err != nil {
		return nil, 0, fmt.Errorf("read build id: %w: %w", ErrNoIdentity, err)
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOTE || s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		notes, err := sectionData(s)
		if err != nil {
			return nil, 0, fmt.Errorf("read build id: %w", err)
		}
		text, ok := ParseBuildID(notes)
		if !ok {
			continue
		}
		if id, err = hex.DecodeString(text); err != nil {
			return nil, 0, fmt.Errorf("read build id: %w", err)
		}
		return id, s.Addr + uint64(bytes.Index(notes, append([]byte("GNU\x00"), id...))) + 4, nil
	}
	return nil, 0, fmt.Errorf("read build id: %w", ErrNoIdentity)
}

// ParseBuildID finds the GNU build id among ELF notes, the content of .notes
// or of /sys/kernel/notes, and returns it in lower-case hex.
func ParseBuildID(notes []byte) (string, bool) {
	const typeBuildID, align = 3, 4
	for len(notes) >= 12 {
		nameLen, descLen, kind := le32(notes), le32(notes[4:]), le32(notes[8:])
		name := uint64(12)
		desc := name + (uint64(nameLen)+align-1)&^(align-1)
		end := desc + uint64(descLen)
		if end > uint64(len(notes)) {
			return "", false
		}
		if kind == typeBuildID && string(notes[name:name+uint64(nameLen)]) == "GNU\x00" && descLen > 0 {
			return hex.EncodeToString(notes[desc:end]), true
		}
		notes = notes[min(uint64(len(notes)), (end+align-1)&^(align-1)):]
	}
	return "", false
}
