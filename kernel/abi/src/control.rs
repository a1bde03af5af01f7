//! Control words of system calls.

use crate::Time;

/// Which fields of `word` say "no change".
const fn all_ones(word: u64) -> bool {
    word == u64::MAX
}

/// What ExchangeRegisters is to do; and what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct ExchangeControl(pub u64);

impl ExchangeControl {
    /// Halt, or resume if clear; counts only with [`Self::HALT_VALID`]. Found: was halted.
    pub const HALT: u64 = 1 << 0;
    /// Abort a receive phase. Found: was receiving.
    pub const RECEIVE: u64 = 1 << 1;
    /// Abort a send phase. Found: was sending.
    pub const SEND: u64 = 1 << 2;
    /// Set the stack pointer.
    pub const STACK: u64 = 1 << 3;
    /// Set the instruction pointer.
    pub const INSTRUCTION: u64 = 1 << 4;
    /// Set the flags.
    pub const FLAGS: u64 = 1 << 5;
    /// Set the user-defined handle.
    pub const HANDLE: u64 = 1 << 6;
    /// Set the pager.
    pub const PAGER: u64 = 1 << 7;
    /// [`Self::HALT`] counts.
    pub const HALT_VALID: u64 = 1 << 8;
    /// Deliver the old values.
    pub const DELIVER: u64 = 1 << 9;

    /// All that ask for a change.
    const CHANGES: u64 = Self::RECEIVE
        | Self::SEND
        | Self::STACK
        | Self::INSTRUCTION
        | Self::FLAGS
        | Self::HANDLE
        | Self::PAGER
        | Self::HALT_VALID;

    /// Whether the bit is set.
    pub const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    /// Whether anything is to be changed, not only read.
    pub const fn changes_something(self) -> bool {
        self.has(Self::CHANGES)
    }
}

/// Time slice in bits 16 to 31 and total quantum in bits 0 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct TimeControl(pub u64);

impl TimeControl {
    const KEEP: u16 = u16::MAX;

    /// A word.
    pub const fn new(slice: Time, total: Time) -> Self {
        Self((slice.0 as u64) << 16 | total.0 as u64)
    }

    /// The time slice, `None` for no change.
    pub const fn slice(self) -> Option<Time> {
        Self::field(self.0, (self.0 >> 16) as u16)
    }

    /// The total quantum, `None` for no change.
    pub const fn total(self) -> Option<Time> {
        Self::field(self.0, self.0 as u16)
    }

    const fn field(word: u64, field: u16) -> Option<Time> {
        if all_ones(word) || field == Self::KEEP { None } else { Some(Time(field)) }
    }
}

/// The priority in bits 0 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct PriorityControl(pub u64);

impl PriorityControl {
    /// The priority, `None` for no change.
    pub const fn priority(self) -> Option<u8> {
        if all_ones(self.0) { None } else { Some(self.0 as u8) }
    }
}

/// The processor in bits 0 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ProcessorControl(pub u64);

impl ProcessorControl {
    /// The processor, `None` for no change.
    pub const fn processor(self) -> Option<u16> {
        if all_ones(self.0) { None } else { Some(self.0 as u16) }
    }
}

/// The sensitive priority in bits 16 to 23 and the longest delay, in microseconds, in bits 0 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct PreemptionControl(pub u64);

impl PreemptionControl {
    /// The sensitive priority, `None` for no change.
    pub const fn sensitive_priority(self) -> Option<u8> {
        let field = (self.0 >> 16) as u8;
        if all_ones(self.0) || field == u8::MAX { None } else { Some(field) }
    }

    /// The longest delay in microseconds, `None` for no change.
    pub const fn max_delay(self) -> Option<u16> {
        let field = self.0 as u16;
        if all_ones(self.0) || field == u16::MAX { None } else { Some(field) }
    }
}

/// How many flexpages Unmap takes, and whether the caller's own mappings go too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct UnmapControl(pub u64);

impl UnmapControl {
    const FLUSH: u64 = 1 << 6;

    /// A control word for `count` flexpages, 1 to 64.
    pub const fn new(count: usize, flush: bool) -> Self {
        Self((count as u64).wrapping_sub(1) & 0x3f | if flush { Self::FLUSH } else { 0 })
    }

    /// Number of flexpages, 1 to 64, from message register 0 on.
    pub const fn count(self) -> usize {
        (self.0 & 0x3f) as usize + 1
    }

    /// Whether the caller's own mappings are concerned too.
    pub const fn flush(self) -> bool {
        self.0 & Self::FLUSH != 0
    }
}

/// What Schedule says that a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum ThreadState {
    /// There is no such thread.
    Dead = 1,
    /// It is not active, or halted.
    Inactive = 2,
    /// It runs, could run, or waits for the answer to a fault.
    Running = 3,
    /// It waits for a receiver.
    PendingSend = 4,
    /// Its message is being transferred.
    Sending = 5,
    /// It waits for a sender.
    Waiting = 6,
    /// A message for it is being transferred.
    Receiving = 7,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_say_no_change_alone_and_together() {
        assert_eq!(TimeControl(u64::MAX).slice(), None);
        let control = TimeControl(0xffff_0005);
        assert_eq!((control.slice(), control.total()), (None, Some(Time(5))));
        assert_eq!(PriorityControl(0x1_00ff).priority(), Some(255));
        assert_eq!(PreemptionControl(0x00ff_0001).sensitive_priority(), None);
        assert_eq!(PreemptionControl(0x00ff_0001).max_delay(), Some(1));
        assert_eq!(UnmapControl::new(64, true).count(), 64);
        assert!(UnmapControl::new(1, true).flush());
    }
}
