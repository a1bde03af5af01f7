// From the boot loader's 32-bit world to 64-bit code in the higher half.
//
// Two entries, one path. Both loaders enter in 32-bit protected mode with paging off and flat
// segments (PVH boot ABI; Multiboot2 specification, section 3.3). Until the jump to Rust nothing
// here uses a stack or an address outside the image. This section is linked at its physical
// address. Its page tables show the image at both its addresses, as one page that allows
// everything; the Rust code replaces them by better ones before it does anything else.

.set KERNEL_BASE, 0xffffffff80000000

.section .boot, "awx"
.balign 4096
boot_root:                                  // root entries 0 and 511
    .quad boot_level3 + 3
    .skip 510 * 8
    .quad boot_level3 + 3
boot_level3:                                // level-3 entries 0 and 510
    .quad boot_level2 + 3
    .skip 509 * 8
    .quad boot_level2 + 3, 0
boot_level2:                                // level-2 entries 1 and 2 (the slots)
    .quad 0, 0x200083, {slots} - KERNEL_BASE + 3
    .skip 509 * 8

multiboot2_header:                          // magic, architecture i386, length, checksum; tags
    .long 0xe85250d6, 0, 48, 0x100000000 - 0xe85250d6 - 48
    .long 3, 12, multiboot2_entry, 0        // entry address
    .long 6, 8                              // modules start on page boundaries
    .long 0, 8                              // end of tags

boot_descriptors:                           // null and 64-bit code, marked as accessed
    .quad 0, 0x00af9b000000ffff
boot_descriptors_pointer:
    .short 15
    .long boot_descriptors
boot_no_long_mode_text:
    .asciz "Heliox needs a 64-bit x86 processor, and this one is not.\r\n"

.code32
.global pvh_entry
pvh_entry:
    mov ebp, 1
    jmp 1f
multiboot2_entry:
    mov ebp, 2
    cmp eax, 0x36d76289
    je 1f
    xor ebp, ebp                            // no loader that we know: Rust says so
1:
    cli
    cld
    mov edi, ebx                            // physical address of the boot information
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc 3f
    mov eax, 0x20                           // CR4.PAE
    mov cr4, eax
    mov eax, offset boot_root
    mov cr3, eax
    mov ecx, 0xc0000080                     // EFER.LME
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, 0x80000011                     // CR0.PG, ET, PE
    mov cr0, eax
    lgdt [boot_descriptors_pointer]
    .byte 0xea                              // far jump to the 64-bit code segment
    .long boot_long_mode
    .short 8

3:  // a 32-bit processor
    mov esi, offset boot_no_long_mode_text
    mov edx, 0x3f8
4:
    lodsb
    out dx, al
    test al, al
    jnz 4b
5:
    hlt
    jmp 5b

.code64
boot_long_mode:
    xor eax, eax                            // no data segments: 64-bit code has no use for them
    .irp segment, ss, ds, es, fs, gs
    mov \segment, eax
    .endr
    mov esi, ebp                            // start(information in edi, loader in esi)
    mov rsp, offset stack_end
    mov rax, offset {start}
    call rax

.section .note.pvh, "a", @note
    .long 4, 4, 18                          // name size, descriptor size, type: 32-bit entry
    .asciz "Xen"
    .long pvh_entry
