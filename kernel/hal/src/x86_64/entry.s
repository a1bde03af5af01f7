// The ways into the kernel, and the way back to a program.
//
// While a program runs, the stack pointer that the processor loads on an interrupt (TSS.RSP0)
// and the one that the system-call entry loads are the same: the end of the running context's
// register frame. So registers are saved where they belong by pushing them, in the order of
// `Frame` (context.rs), and `enter_user` looks to its Rust caller like a function that returns
// when the program stops.
//
// Rules kept here (docs/soundness.md, hazards 1 to 5):
// - In the kernel, GS is the CPU's area, except between an entry from ring 3 and its SWAPGS, and
//   between the SWAPGS and the IRETQ or SYSRETQ of an exit. Whether to SWAPGS is decided by the
//   privilege in the saved CS, never by the GS base (a program can choose that freely).
// - #DB, NMI, #DF and #MC have stacks of their own and may arrive anywhere, also in the windows
//   just named. When they interrupt the kernel they do not touch GS: the word at the very top
//   of their stack is the address of the CPU's area.
// - Interrupts are off everywhere in the kernel but in `wait_for_interrupt`.

.section .text.entry, "ax"

// Pushes a program's registers in the order of `Frame`.
.macro push_registers
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
.endm

// Every vector gets 16 bytes of code that makes the frames alike: an error code (0 where the
// processor pushes none) and the vector number.
.balign 16
.global interrupt_stubs
interrupt_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
        push 0
    .endif
    push vector
    .if (vector == 1) || (vector == 2) || (vector == 8) || (vector == 18)
        jmp interrupt_on_own_stack
    .else
        jmp interrupt_common
    .endif
    .set vector, vector + 1
.endr

// From a program: [rsp] vector, error code, RIP, CS, RFLAGS, RSP, SS, at the end of its frame.
.balign 16
interrupt_common:
    test byte ptr [rsp + 24], 3
    jz interrupt_in_kernel
    swapgs
save_and_return:
    push_registers
    mov rsp, gs:[{kernel_stack}]
    push 2                                  // interrupts leave DF and AC as the program set them
    popfq
    pop rbp
    pop rbx
    ret

// The kernel itself was interrupted: by a device while it waits for one, or by its own fault.
interrupt_in_kernel:
    cmp dword ptr [rsp], 32
    jb fatal_exception
    push rax
    mov eax, [rsp + 8]
    mov gs:[{pending_vector}], eax
    and dword ptr [rsp + 40], ~0x200        // return with interrupts off
    pop rax
    add rsp, 16
    iretq

// #DB, NMI, #DF, #MC.
.balign 16
interrupt_on_own_stack:
    test byte ptr [rsp + 24], 3
    jz own_stack_in_kernel
    swapgs                                  // from ring 3, so GS is the program's for certain
    push rax
    push rbx
    mov rbx, rsp
    mov rsp, gs:[{frame_end}]               // continue on the context's frame
    push [rbx + 64]                         // SS
    push [rbx + 56]                         // RSP
    push [rbx + 48]                         // RFLAGS
    push [rbx + 40]                         // CS
    push [rbx + 32]                         // RIP
    push [rbx + 24]                         // error code
    push [rbx + 16]                         // vector
    mov rax, [rbx + 8]
    mov rbx, [rbx]
    jmp save_and_return

own_stack_in_kernel:
    cmp dword ptr [rsp], 2
    ja fatal_exception                      // a double fault or a machine check
    push rax
    // Eight words were pushed below the word that names the CPU's area.
    mov rax, [rsp + 64 + 8]
    je 1f
    inc qword ptr [rax + {debug_in_kernel}]
    xor eax, eax                            // a program's breakpoint hit in the entry code:
    mov dr7, rax                            // switch it off and go on
    mov dr6, rax
    pop rax
    add rsp, 16
    iretq
1:
    inc qword ptr [rax + {non_maskable}]
    pop rax
    add rsp, 16
    iretq

fatal_exception:
    push_registers
    cld
    mov rdi, rsp
    and rsp, -16
    call {fatal_exception}
    ud2

// A system call: RCX is the program's RIP, R11 its RFLAGS, and nothing else has changed. The
// frame is made to look like an interrupt with vector 256; CS and SS in it are the program's
// already, and the error code means nothing.
.balign 64
.global system_call_entry
system_call_entry:
    swapgs
    mov gs:[{user_stack}], rsp
    mov rsp, gs:[{frame_end}]
    sub rsp, 56
    push_registers
    mov rax, gs:[{user_stack}]
    mov qword ptr [rsp + 120], 256
    mov [rsp + 136], rcx
    mov [rsp + 152], r11
    mov [rsp + 160], rax
    mov rsp, gs:[{kernel_stack}]            // SFMASK has cleared the flags
    pop rbp
    pop rbx
    ret

// enter_user(frame: *mut Frame in rdi): runs the program whose registers are in `frame` until it
// stops. Changes every register but RSP, RBX and RBP. A frame as the system-call entry made it
// is left by SYSRETQ: RCX and R11 in it already are RIP and RFLAGS.
.balign 64
.global enter_user
enter_user:
    push rbx
    push rbp
    mov gs:[{kernel_stack}], rsp
    mov rsp, rdi
    cmp qword ptr [rsp + 120], 256
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    je 2f
    add rsp, 16
    swapgs
    iretq
2:
    mov rsp, [rsp + 40]
    swapgs
    sysretq
