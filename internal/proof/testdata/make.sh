#!/bin/sh -e
# Makes the objects beside it anew.
cd "$(dirname "$0")"
flags="-O2 -mcmodel=kernel -fno-pic -fno-pie -fno-asynchronous-unwind-tables -mno-red-zone -fno-stack-protector -fcf-protection=none"
for f in one two; do
	gcc $flags -ffunction-sections -fdata-sections -c $f.c -o $f.o
	gcc $flags -c $f.c -o $f-plain.o
	objcopy --remove-section .comment --remove-section .note.GNU-stack $f.o
	objcopy --remove-section .comment --remove-section .note.GNU-stack $f-plain.o
done
script=$(mktemp)
echo 'SECTIONS { . = 0xffffffff81000000; .text : { *(.text .text.*) } .init.text : { *(.init.text) } .init.data : { *(.init.data) }
	.rodata : { *(.rodata .rodata.*) } .data : { *(.data) } .bss : { *(.bss) } /DISCARD/ : { *(*) } }' >"$script"
ld -T "$script" -z max-page-size=0x40 --no-warn-rwx-segments -o vmlinux.elf one-plain.o two-plain.o
ld -r -o module.elf one-plain.o two-plain.o
rm "$script" two-plain.o
