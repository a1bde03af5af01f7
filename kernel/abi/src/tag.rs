//! The message tag: the first message register.

use core::fmt;

/// How many words and typed words a message has, its flags, and its label.
///
/// Bits 0 to 5 count untyped words, 6 to 11 typed words; bits 12 to 15 are flags; the label is in bits 16 to 63.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Tag(pub u64);

impl Tag {
    /// The sender speaks for another thread.
    pub const PROPAGATED: u64 = 1 << 12;
    /// The message was meant for another thread.
    pub const REDIRECTED: u64 = 1 << 13;
    /// The message came from another processor.
    pub const CROSS_PROCESSOR: u64 = 1 << 14;
    /// The operation failed.
    pub const ERROR: u64 = 1 << 15;
    const FLAGS: u64 = 0xf << 12;

    /// A tag without flags. Counts above 63 and labels of more than 48 bits lose their upper bits.
    pub const fn new(label: u64, untyped: usize, typed: usize) -> Self {
        Self(label << 16 | (typed as u64 & 0x3f) << 6 | (untyped as u64 & 0x3f))
    }

    /// The tag of a failed operation.
    pub const FAILED: Self = Self(Self::ERROR);

    /// Number of untyped words, which follow the tag.
    pub const fn untyped(self) -> usize {
        (self.0 & 0x3f) as usize
    }

    /// Number of words of typed items, which follow the untyped words.
    pub const fn typed(self) -> usize {
        (self.0 >> 6 & 0x3f) as usize
    }

    /// The label.
    pub const fn label(self) -> u64 {
        self.0 >> 16
    }

    /// Whether the flag is set.
    pub const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// The tag as a receiver gets it: of the sender's flags, none counts.
    pub const fn without_flags(self) -> Self {
        Self(self.0 & !Self::FLAGS)
    }

    /// The tag with a flag set.
    pub const fn with(self, flag: u64) -> Self {
        Self(self.0 | flag)
    }

    /// The tag with another number of untyped words.
    pub const fn with_untyped(self, untyped: usize) -> Self {
        Self(self.0 & !0x3f | (untyped as u64 & 0x3f))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.0 >> 12 & 0xf;
        write!(
            formatter,
            "Tag(label {:#x}, {} untyped, {} typed, flags {flags:#x})",
            self.label(),
            self.untyped(),
            self.typed()
        )
    }
}

/// Labels of messages that the kernel sends and understands: a negative number in the upper bits of
/// the label, and in its low four bits what the protocol says (rights, for faults).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum KernelLabel {
    /// From an interrupt.
    Interrupt = -1,
    /// A page fault.
    PageFault = -2,
    /// A preemption, or an exhausted quantum.
    Preemption = -3,
    /// A preemption exception.
    PreemptionException = -4,
    /// An exception of the architecture.
    Exception = -5,
    /// A request to sigma0.
    Sigma0 = -6,
    /// A fault on a port.
    PortFault = -8,
}

impl KernelLabel {
    /// The label, of 48 bits, with `low` in its low four bits.
    pub const fn label(self, low: u64) -> u64 {
        ((self as i64) << 4) as u64 & 0xffff_ffff_ffff | low & 0xf
    }

    /// The tag of a message of this protocol.
    pub const fn tag(self, low: u64, untyped: usize, typed: usize) -> Tag {
        Tag::new(self.label(low), untyped, typed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_labels_are_those_of_the_interface() {
        assert_eq!(KernelLabel::PageFault.tag(4, 2, 0).0, 0xffff_ffff_ffe4_0002);
        assert_eq!(KernelLabel::PageFault.tag(2, 2, 0).0, 0xffff_ffff_ffe2_0002);
        assert_eq!(KernelLabel::Exception.tag(0, 19, 0).0, 0xffff_ffff_ffb0_0013);
        assert_eq!(KernelLabel::Interrupt.tag(0, 0, 0).0, 0xffff_ffff_fff0_0000);
        assert_eq!(KernelLabel::PortFault.tag(6, 2, 0).0, 0xffff_ffff_ff86_0002);
    }

    #[test]
    fn fields_do_not_overlap() {
        let tag = Tag::new(0x1234, 5, 6).with(Tag::ERROR);
        assert_eq!((tag.label(), tag.untyped(), tag.typed()), (0x1234, 5, 6));
        assert!(tag.has(Tag::ERROR) && !tag.has(Tag::PROPAGATED));
        assert_eq!(tag.without_flags(), Tag::new(0x1234, 5, 6));
        assert_eq!(tag.with_untyped(63).typed(), 6);
    }
}
