//! System calls that leave most registers to the kernel.

/// What a light system call hands to the kernel: the registers that the program had in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LightCall {
    /// RDI.
    pub rdi: u64,
    /// RSI.
    pub rsi: u64,
    /// RDX.
    pub rdx: u64,
    /// R8.
    pub r8: u64,
    /// R9.
    pub r9: u64,
    /// Address of the instruction behind the system call, where the program goes on: an address
    /// of the kernel's stub page, which so tells which call it was.
    pub instruction_pointer: u64,
}
