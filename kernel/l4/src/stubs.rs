//! The stubs of system calls: code of the kernel's that programs call.
//!
//! The stubs lie in one page, which all programs can read and execute and none can write; the kernel interface page
//! says where. Each has [`SIZE`] bytes. Which stub made a system call is told by the address behind the
//! SYSCALL instruction, so that no register is needed for that.
//!
//! A stub returns to its caller with all that the kernel left in registers. One moves what SYSCALL destroys
//! out of the way.

/// Log2 of a stub's size.
const SIZE_BITS: u32 = 7;
/// Bytes of a stub.
pub(crate) const SIZE: u64 = 1 << SIZE_BITS;

/// A system call's stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stub {
    /// Also Lipc.
    Ipc = 0,
    ExchangeRegisters = 1,
    ThreadControl = 2,
    SystemClock = 3,
    ThreadSwitch = 4,
    Schedule = 5,
    Unmap = 6,
    SpaceControl = 7,
    ProcessorControl = 8,
    MemoryControl = 9,
}

/// All stubs, in the order of their numbers.
pub(crate) const STUBS: [Stub; 10] = [
    Stub::Ipc,
    Stub::ExchangeRegisters,
    Stub::ThreadControl,
    Stub::SystemClock,
    Stub::ThreadSwitch,
    Stub::Schedule,
    Stub::Unmap,
    Stub::SpaceControl,
    Stub::ProcessorControl,
    Stub::MemoryControl,
];

impl Stub {
    /// Where the stub begins in the page.
    pub(crate) const fn offset(self) -> u64 {
        (self as u64) << SIZE_BITS
    }

    /// Where the stub goes on behind its system call, which is its first instruction.
    pub(crate) const fn end(self) -> u64 {
        self.offset() + 2
    }

    /// The code. Every SYSCALL is followed by at least one byte of the stub.
    pub(crate) const fn code(self) -> &'static [u8] {
        match self {
            Self::MemoryControl => &MEMORY_CONTROL,
            _ => &PLAIN,
        }
    }
}

/// The stub whose SYSCALL is just before `offset` in the page, if there is one.
pub(crate) fn stub_of(offset: u64) -> Option<Stub> {
    let stub = *STUBS.get(usize::try_from(offset >> SIZE_BITS).ok()?)?;
    let end = usize::try_from(offset & (SIZE - 1)).ok()?;
    let call = stub.code().get(end.checked_sub(2)?..end)?;
    (call == [0x0f, 0x05]).then_some(stub)
}

/// `syscall; ret`
const PLAIN: [u8; 3] = [0x0f, 0x05, 0xc3];

/// The message registers go to memory, and the two attribute words that SYSCALL destroys to where they
/// were.
///
/// ```text
///     mov [rdi], r9;  mov [rdi+8], rax;  mov [rdi+16], rbx;  mov [rdi+24], r10
///     mov [rdi+32], r12;  mov [rdi+40], r13;  mov [rdi+48], r14;  mov [rdi+56], r15
///     mov r9, rcx;  mov r10, r11
///     syscall
///     ret
/// ```
const MEMORY_CONTROL: [u8; 40] = [
    0x4c, 0x89, 0x0f, // mov [rdi], r9
    0x48, 0x89, 0x47, 0x08, // mov [rdi+8], rax
    0x48, 0x89, 0x5f, 0x10, // mov [rdi+16], rbx
    0x4c, 0x89, 0x57, 0x18, // mov [rdi+24], r10
    0x4c, 0x89, 0x67, 0x20, // mov [rdi+32], r12
    0x4c, 0x89, 0x6f, 0x28, // mov [rdi+40], r13
    0x4c, 0x89, 0x77, 0x30, // mov [rdi+48], r14
    0x4c, 0x89, 0x7f, 0x38, // mov [rdi+56], r15
    0x49, 0x89, 0xc9, // mov r9, rcx
    0x4d, 0x89, 0xda, // mov r10, r11
    0x0f, 0x05, // syscall
    0xc3, // ret
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stub_is_found_by_its_system_call_and_by_nothing_else() {
        let mut found = 0;
        for offset in 0..4096 {
            let Some(stub) = stub_of(offset) else { continue };
            let start = stub.offset();
            let end = (offset - start) as usize;
            assert_eq!(stub.code()[end - 2..end], [0x0f, 0x05]);
            found += 1;
        }
        assert_eq!(found, STUBS.len());
        assert_eq!(stub_of(u64::MAX), None);
        for (stub, number) in STUBS.iter().zip(0..) {
            assert_eq!(*stub as u8, number);
            assert!(stub.code().len() as u64 <= SIZE);
        }
    }
}
