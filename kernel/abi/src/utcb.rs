//! The user-level thread control block: where its words are.
//!
//! A block has 1,024 bytes and begins at a multiple of that. The first message register is in its
//! middle; its address is the thread's local identifier, and all other words are counted from
//! it.

/// Log2 of a block's size and alignment.
pub const BITS: u32 = 10;
/// Bytes of a block.
pub const BYTES: u64 = 1 << BITS;
/// Bytes from the beginning of a block to its first message register.
pub const MR0_OFFSET: u64 = 512;
/// Words of a block.
pub const WORDS: usize = 128;
/// Word of the first message register, counted from the block's beginning.
const MR0_WORD: usize = 64;

/// Number of message registers.
pub const MESSAGE_REGISTERS: usize = 64;
/// Number of buffer registers.
pub const BUFFER_REGISTERS: usize = 33;
/// Message registers that travel in the processor's registers.
pub const REGISTERS_IN_PROCESSOR: usize = 8;

/// A thread control register, or another word below the message registers. The number is the word,
/// counted from the first message register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum ControlWord {
    /// The thread's own global identifier. Read-only for it.
    MyGlobalId = -15,
    /// The processor that it runs on. Read-only.
    ProcessorNumber = -14,
    /// Of no meaning to the kernel.
    UserDefinedHandle = -13,
    /// Who serves the thread's page faults.
    Pager = -12,
    /// Who serves its exceptions.
    ExceptionHandler = -11,
    /// Preemption flags in byte 0, coprocessor flags in byte 1.
    Flags = -10,
    /// Why the last system call failed. Read-only.
    ErrorCode = -9,
    /// How long page faults of a transfer may take.
    TransferTimeouts = -8,
    /// Whom a redirected message was meant for. Read-only.
    IntendedReceiver = -7,
    /// In whose name to send; and who really sent.
    VirtualSender = -6,
    /// Of no meaning to the kernel.
    ThreadWord1 = -5,
    /// Of no meaning to the kernel.
    ThreadWord0 = -4,
    /// The address of the first message register, where the GS base leads.
    LocalId = -3,
}

impl ControlWord {
    /// The word, counted from the block's beginning.
    pub const fn word(self) -> usize {
        // Between 49 and 61.
        (MR0_WORD as isize + self as isize) as usize
    }
}

/// Flags of a thread concerning preemption, in byte 0 of [`ControlWord::Flags`].
pub mod preemption {
    /// Signal preemptions.
    pub const SIGNAL: u64 = 1 << 5;
    /// Delay preemptions.
    pub const DELAY: u64 = 1 << 6;
    /// A preemption is pending.
    pub const PENDING: u64 = 1 << 7;
}

/// The word of message register `number`, counted from the block's beginning.
pub const fn message_word(number: usize) -> usize {
    MR0_WORD + number
}

/// The word of buffer register `number`, counted from the block's beginning: they grow downwards.
pub const fn buffer_word(number: usize) -> usize {
    MR0_WORD - 16 - number
}

const _: () = assert!(message_word(MESSAGE_REGISTERS - 1) == WORDS - 1);
const _: () = assert!(buffer_word(BUFFER_REGISTERS - 1) == 16);
const _: () = assert!(ControlWord::MyGlobalId.word() * 8 + 120 == MR0_OFFSET as usize);
const _: () = assert!(ControlWord::LocalId.word() == 61);
