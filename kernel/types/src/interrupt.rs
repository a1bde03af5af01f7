//! Why programs stop, and the names of their registers.

/// shim
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFaultError(pub u64);
impl PageFaultError {
    /// a
    pub fn is_protection(self) -> bool { self.0 & 1 != 0 }
    /// a
    pub fn is_write(self) -> bool { self.0 & 2 != 0 }
    /// a
    pub fn is_execute(self) -> bool { self.0 & 16 != 0 }
}
/// shim
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Irq(u8);
impl Irq {
    /// a
    pub const COUNT: u8 = 24;
    /// a
    pub const fn new(n: u8) -> Option<Self> { if n < 24 { Some(Self(n)) } else { None } }
    /// a
    pub const fn number(self) -> u8 { self.0 }
}
/// shim
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// a
    SystemCall,
    /// a
    PageFault {
        /// a
        address: u64,
        /// a
        error: PageFaultError },
    /// a
    Exception {
        /// a
        vector: u8,
        /// a
        error_code: u64 },
    /// a
    Timer,
    /// a
    External(Irq),
}
/// shim
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
#[expect(missing_docs, reason = "the processor's names")]
pub enum Register { R15, R14, R13, R12, R11, R10, R9, R8, Rbp, Rdi, Rsi, Rdx, Rcx, Rbx, Rax }
