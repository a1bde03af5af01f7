//! What kind of instruction some bytes are: as much as counting needs.
//!
//! Hides the encoding. The caller knows where an instruction begins, so nothing here finds out how
//! long one is. (Encodings: AMD64 Architecture Programmer's Manual, volume 3.)

/// The kinds that are counted apart, or that tell where a visit to the kernel begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SYSCALL.
    SystemCall,
    /// SYSRET.
    SystemReturn,
    /// IRET.
    InterruptReturn,
    /// Writes CR3.
    LoadRoot,
    /// Invalidates translations other than by CR3: INVLPG, INVPCID, or a write of CR4.
    Flush,
    /// A string instruction with a REP prefix, which an instruction counter of the emulator counts
    /// once for each element.
    Repeat,
    /// Writes a model-specific register, which serialises.
    WriteModelSpecific,
    /// Divides.
    Divide,
    /// Locks the bus, or the cache line: a LOCK prefix, or XCHG with memory.
    Locked,
    /// Calls a procedure whose address is in the instruction.
    Call,
    /// Calls a procedure whose address is in a register or in memory.
    IndirectCall,
    /// Jumps to an address in a register or in memory.
    IndirectJump,
    /// Returns from a procedure.
    Return,
    /// Anything else.
    Other,
}

/// The kind of the instruction that begins with `bytes`; [`Kind::Other`] if they are too few to
/// tell.
#[must_use]
pub fn classify(bytes: &[u8]) -> Kind {
    let mut rest = bytes;
    let (mut repeated, mut locked) = (false, false);
    while let Some((&byte, tail)) = rest.split_first() {
        match byte {
            0xf2 | 0xf3 => repeated = true,
            0xf0 => locked = true,
            // Operand and address sizes, segments, and REX, which comes last.
            0x66 | 0x67 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0x40..=0x4f => {}
            _ => break,
        }
        rest = tail;
    }
    // What LOCK is in front of is an arithmetic instruction.
    if locked {
        return Kind::Locked;
    }
    // The field of a ModRM byte that extends the opcode, and whether its operand is memory.
    let extension = |at: usize| {
        rest.get(at).map(|modrm| (modrm >> 3 & 7, modrm >> 6 != 3)).unwrap_or((0xff, false))
    };
    match rest {
        [0x0f, 0x05, ..] => Kind::SystemCall,
        [0x0f, 0x07, ..] => Kind::SystemReturn,
        [0xcf, ..] => Kind::InterruptReturn,
        [0x0f, 0x22, ..] => match extension(2) {
            (3, _) => Kind::LoadRoot,
            (4, _) => Kind::Flush,
            _ => Kind::Other,
        },
        [0x0f, 0x01, ..] if extension(2) == (7, true) => Kind::Flush,
        [0x0f, 0x38, 0x82, ..] => Kind::Flush,
        [0x0f, 0x30, ..] => Kind::WriteModelSpecific,
        [0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf, ..] if repeated => Kind::Repeat,
        [0xf6 | 0xf7, ..] if matches!(extension(1), (6 | 7, _)) => Kind::Divide,
        [0x86 | 0x87, ..] if matches!(extension(1), (_, true)) => Kind::Locked,
        [0xe8, ..] => Kind::Call,
        [0xff, ..] => match extension(1) {
            (2 | 3, _) => Kind::IndirectCall,
            (4 | 5, _) => Kind::IndirectJump,
            _ => Kind::Other,
        },
        [0xc2 | 0xc3 | 0xca | 0xcb, ..] => Kind::Return,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_as_the_assembler_encodes_them() {
        for (bytes, kind) in [
            (&[0x0f, 0x05][..], Kind::SystemCall),
            (&[0x48, 0x0f, 0x07], Kind::SystemReturn),
            (&[0x48, 0xcf], Kind::InterruptReturn),
            // mov cr3, rax; mov cr3, r9; mov cr4, rcx; mov cr0, rax; mov rax, cr3
            (&[0x0f, 0x22, 0xd8], Kind::LoadRoot),
            (&[0x41, 0x0f, 0x22, 0xd9], Kind::LoadRoot),
            (&[0x0f, 0x22, 0xe1], Kind::Flush),
            (&[0x0f, 0x22, 0xc0], Kind::Other),
            (&[0x0f, 0x20, 0xd8], Kind::Other),
            // invlpg [rax]; invlpg [r8+8]; swapgs; rdtscp; invpcid rax, [rcx]
            (&[0x0f, 0x01, 0x38], Kind::Flush),
            (&[0x41, 0x0f, 0x01, 0x78, 0x08], Kind::Flush),
            (&[0x0f, 0x01, 0xf8], Kind::Other),
            (&[0x0f, 0x01, 0xf9], Kind::Other),
            (&[0x66, 0x0f, 0x38, 0x82, 0x01], Kind::Flush),
            (&[0x0f, 0x30], Kind::WriteModelSpecific),
            // rep stosb; rep movsq; repne scasb; movsb; wrgsbase rax; pause
            (&[0xf3, 0xaa], Kind::Repeat),
            (&[0xf3, 0x48, 0xa5], Kind::Repeat),
            (&[0xf2, 0xae], Kind::Repeat),
            (&[0xa4], Kind::Other),
            (&[0xf3, 0x48, 0x0f, 0xae, 0xd8], Kind::Other),
            (&[0xf3, 0x90], Kind::Other),
            // div rcx; idiv ebx; neg rax; mul rcx
            (&[0x48, 0xf7, 0xf1], Kind::Divide),
            (&[0xf7, 0xfb], Kind::Divide),
            (&[0x48, 0xf7, 0xd8], Kind::Other),
            (&[0x48, 0xf7, 0xe1], Kind::Other),
            // lock cmpxchg [rdi], rcx; xchg [rdi], rax; xchg rax, rcx
            (&[0xf0, 0x48, 0x0f, 0xb1, 0x0f], Kind::Locked),
            (&[0x48, 0x87, 0x07], Kind::Locked),
            (&[0x48, 0x87, 0xc8], Kind::Other),
            // call rel32; call rax; call [rsp]; jmp [rax+8]; inc eax; ret
            (&[0xe8, 0, 0, 0, 0], Kind::Call),
            (&[0xff, 0xd0], Kind::IndirectCall),
            (&[0xff, 0x14, 0x24], Kind::IndirectCall),
            (&[0xff, 0x60, 0x08], Kind::IndirectJump),
            (&[0xff, 0xc0], Kind::Other),
            (&[0xc3], Kind::Return),
            (&[], Kind::Other),
            (&[0x0f], Kind::Other),
            (&[0xff], Kind::Other),
            (&[0x66, 0x66], Kind::Other),
        ] {
            assert_eq!(classify(bytes), kind, "{bytes:02x?}");
        }
    }
}
