package elfdiff

import "testing"

func TestDecodeSizes(t *testing.T) {
	for name, tt := range map[string]struct {
		code     []byte
		size     int
		imm, len int
	}{
		"call":                      {[]byte{0xe8, 0, 0, 0, 0}, 5, 1, 4},
		"mov imm32 to edi":          {[]byte{0xbf, 1, 2, 3, 4}, 5, 1, 4},
		"movabs":                    {[]byte{0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}, 10, 2, 8},
		"cmpb $0, x(%rip)":          {[]byte{0x80, 0x3d, 0, 0, 0, 0, 0}, 7, 6, 1},
		"movl $5, x(%rip)":          {[]byte{0xc7, 0x05, 0, 0, 0, 0, 5, 0, 0, 0}, 10, 6, 4},
		"movw $5, x(%rip)":          {[]byte{0x66, 0xc7, 0x05, 0, 0, 0, 0, 5, 0}, 9, 7, 2},
		"testb $1, 8(%rax)":         {[]byte{0xf6, 0x40, 8, 1}, 4, 3, 1},
		"not (%rax)":                {[]byte{0xf6, 0x10}, 2, 2, 0},
		"lock cmpxchg %edx, (%rdi)": {[]byte{0xf0, 0x0f, 0xb1, 0x17}, 4, 4, 0},
		"jne rel32":                 {[]byte{0x0f, 0x85, 0, 0, 0, 0}, 6, 2, 4},
		"ud2":                       {[]byte{0x0f, 0x0b}, 2, 2, 0},
		"bt $3, (%rdi)":             {[]byte{0x0f, 0xba, 0x27, 3}, 4, 3, 1},
		"mov %gs:x, %rax":           {[]byte{0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0}, 9, 9, 0},
		"vzeroupper":                {[]byte{0xc5, 0xf8, 0x77}, 3, 3, 0},
		"crc32b":                    {[]byte{0xf2, 0x0f, 0x38, 0xf0, 0xc1}, 5, 5, 0},
		"endbr64":                   {[]byte{0xf3, 0x0f, 0x1e, 0xfa}, 4, 4, 0},
		"nopl 0(%rax,%rax)":         {[]byte{0x0f, 0x1f, 0x44, 0, 0}, 5, 5, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decode(append(tt.code, 0x90, 0x90))
			if err != nil {
				t.Fatal(err)
			}
			if got.size != tt.size || got.imm != tt.imm || got.immSize != tt.len {
				t.Errorf("size %d, immediate %d+%d, want %d, %d+%d", got.size, got.imm, got.immSize, tt.size, tt.imm, tt.len)
			}
		})
	}
}

func TestDecodeTruncated(t *testing.T) {
	for _, code := range [][]byte{{}, {0x48}, {0x0f}, {0xe8, 0}, {0x80, 0x3d, 0, 0}, {0xc4}, {0x62, 1}} {
		if got, err := decode(code); err == nil {
			t.Errorf("% x: decoded as %+v", code, got)
		}
	}
}
