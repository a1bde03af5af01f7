// From the boot loader's 32-bit world to 64-bit code in the higher half.
//
// Two entries, one path. Both loaders enter in 32-bit protected mode with paging off and flat
// segments (PVH boot ABI; Multiboot2 specification, section 3.3). Until paging is on, nothing
// here uses a stack or an address outside the image. The tables built below map the kernel
// image and nothing else, section by section, never writable and executable at once; pages
// between the sections (the guard pages under the stacks) stay unmapped. For the few
// instructions between switching paging on and the jump to the higher half the image also
// appears at its physical addresses; the Rust code removes that view before anything else.
//
// Symbols ending in _physical come from the linker script.

.section .boot, "ax"
.balign 8
multiboot2_header:
    .long 0xe85250d6                        // magic
    .long 0                                 // architecture: i386, protected mode
    .long multiboot2_header_end - multiboot2_header
    .long -(0xe85250d6 + (multiboot2_header_end - multiboot2_header))
    .short 3, 0                             // tag: entry address
    .long 12, multiboot2_entry
    .balign 8
    .short 6, 0                             // tag: modules start on page boundaries
    .long 8
    .short 0, 0                             // end of tags
    .long 8
multiboot2_header_end:

// Start, end, and low half of the page-table entry (1 present, 2 writable, 0x100 global); then
// the high half (bit 31: no execute). Ends with a start of 0.
boot_sections:
    .long boot_start, boot_end, 0x001, 0
    .long text_start_physical, text_end_physical, 0x101, 0
    .long rodata_start_physical, rodata_end_physical, 0x101, 0x80000000
    .long data_start_physical, data_end_physical, 0x103, 0x80000000
    .long stack_start_physical, stack_end_physical, 0x103, 0x80000000
    .long stack_debug_start_physical, stack_debug_end_physical, 0x103, 0x80000000
    .long stack_nmi_start_physical, stack_nmi_end_physical, 0x103, 0x80000000
    .long stack_double_fault_start_physical, stack_double_fault_end_physical, 0x103, 0x80000000
    .long stack_machine_check_start_physical, stack_machine_check_end_physical, 0x103, 0x80000000
    .long 0

boot_no_long_mode_text:
    .asciz "Heliox needs a 64-bit x86 processor, and this one is not.\r\n"

.balign 8
// Null, and 64-bit code, which is marked as accessed already: the processor would write the mark,
// and this page cannot be written.
boot_descriptors:
    .quad 0, 0x00209b0000000000
boot_descriptors_pointer:
    .short 15
    .long boot_descriptors

.code32
.balign 16
multiboot2_entry:
    cli
    mov ebp, 2
    cmp eax, 0x36d76289
    je boot_common
    xor ebp, ebp                            // no loader that we know: Rust says so
    jmp boot_common

.global pvh_entry
pvh_entry:
    cli
    mov ebp, 1

boot_common:
    cld
    mov esi, ebx                            // physical address of the boot information
    rdtsc                                   // the kernel's first moment, for the boot report
    mov [boot_time_physical], eax
    mov [boot_time_physical + 4], edx

    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb boot_no_long_mode
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc boot_no_long_mode
    xor ecx, ecx                            // ecx = what an entry's high half may have set
    bt edx, 20
    jnc 1f
    mov ecx, 0x80000000
1:
    mov ebx, offset boot_sections
2:  // one section
    mov eax, [ebx]
    test eax, eax
    jz 4f
3:  // one page; its entry's offset is page number modulo 512, times 8
    mov edx, eax
    shr edx, 9
    and edx, 0xff8
    mov edi, [ebx + 8]
    or edi, eax
    mov [edx + boot_image_table_physical], edi
    mov edi, [ebx + 12]
    and edi, ecx
    mov [edx + boot_image_table_physical + 4], edi
    add eax, 0x1000
    cmp eax, [ebx + 4]
    jb 3b
    add ebx, 16
    jmp 2b
4:
    // The tables above: root entries 0 and 511, level-3 entries 0 and 510, level-2 entry 1 for
    // the image and entry 2 for the fixed slots.
    mov eax, offset boot_level3_physical + 3
    mov [boot_root_physical], eax
    mov [boot_root_physical + 511 * 8], eax
    mov eax, offset boot_level2_physical + 3
    mov [boot_level3_physical], eax
    mov [boot_level3_physical + 510 * 8], eax
    mov eax, offset boot_image_table_physical + 3
    mov [boot_level2_physical + 8], eax
    mov eax, offset boot_slot_table_physical + 3
    mov [boot_level2_physical + 16], eax

    mov eax, 0x20                           // CR4.PAE
    mov cr4, eax
    mov eax, offset boot_root_physical
    mov cr3, eax
    mov edi, ecx                            // EFER.LME, and NXE where there is no-execute
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    shr edi, 20
    or eax, edi
    wrmsr
    mov eax, 0x80010001                     // CR0.PG, WP, PE
    mov cr0, eax
    lgdt [boot_descriptors_pointer]
    .byte 0xea                              // far jump to the 64-bit code segment
    .long boot_long_mode
    .short 8

boot_no_long_mode:
    mov esi, offset boot_no_long_mode_text
    mov edx, 0x3f8
5:
    mov al, [esi]
    test al, al
    jz 6f
    out dx, al
    inc esi
    jmp 5b
6:
    hlt
    jmp 6b

.code64
boot_long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov edi, ebp                            // which loader
    movabs rsp, offset stack_end
    movabs rax, offset boot_higher_half
    jmp rax

.section .text.boot, "ax"
boot_higher_half:
    xor ebp, ebp                            // the end of any back trace
    push rbp
    jmp {start}                             // start(loader in edi, information in esi)

.section .bss.boot_tables, "aw", @nobits
.balign 4096
.global boot_root
boot_root: .skip 4096
.global boot_level3
boot_level3: .skip 4096
.global boot_level2
boot_level2: .skip 4096
.global boot_image_table
boot_image_table: .skip 4096
.global boot_slot_table
boot_slot_table: .skip 4096
.global boot_time
boot_time: .skip 8

.section .note.pvh, "a", @note
.balign 4
    .long 4, 4, 18                          // name size, descriptor size, type: 32-bit entry
    .asciz "Xen"
    .long pvh_entry
