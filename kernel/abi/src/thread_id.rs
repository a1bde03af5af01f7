//! Names of threads: global, local, and the special ones.

use core::fmt;
use core::num::NonZeroU64;

/// Bits that a local identifier has clear, and the version of a global one has not.
const LOCAL_MASK: u64 = 0x3f;

/// A word that names a thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct ThreadId(pub u64);

impl ThreadId {
    /// No thread.
    pub const NIL: Self = Self(0);
    /// Any thread, as a sender.
    pub const ANY: Self = Self(u64::MAX);
    /// Any thread of the same address space, as a sender.
    pub const ANY_LOCAL: Self = Self(!LOCAL_MASK);

    /// Whether it is [`ThreadId::NIL`].
    pub const fn is_nil(self) -> bool {
        self.0 == 0
    }

    /// The global identifier, if it has the form of one.
    pub const fn global(self) -> Option<GlobalId> {
        if self.0 & LOCAL_MASK == 0 || self.0 == Self::ANY.0 {
            return None;
        }
        match NonZeroU64::new(self.0) {
            Some(word) => Some(GlobalId(word)),
            None => None,
        }
    }

    /// The address of the thread's first message register, if it has the form of a local identifier.
    pub const fn local(self) -> Option<u64> {
        if self.0 & LOCAL_MASK == 0 && self.0 != 0 && self.0 != Self::ANY_LOCAL.0 {
            Some(self.0)
        } else {
            None
        }
    }

    /// Whether a search for the thread looks like one by local identifier.
    pub const fn is_local(self) -> bool {
        self.local().is_some()
    }
}

impl From<GlobalId> for ThreadId {
    fn from(id: GlobalId) -> Self {
        Self(id.0.get())
    }
}

impl fmt::Debug for ThreadId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NIL => formatter.write_str("nilthread"),
            Self::ANY => formatter.write_str("anythread"),
            Self::ANY_LOCAL => formatter.write_str("anylocalthread"),
            id => match id.global() {
                Some(global) => global.fmt(formatter),
                None => write!(formatter, "local {:#x}", id.0),
            },
        }
    }
}

/// The global identifier of a thread or an interrupt: a number in bits 32 to 63, a version in bits
/// 0 to 31, whose low six bits are never all clear.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct GlobalId(NonZeroU64);

impl GlobalId {
    /// Thread `number` in `version`; `None` if the version's low six bits are clear.
    pub const fn new(number: u32, version: u32) -> Option<Self> {
        ThreadId((number as u64) << 32 | version as u64).global()
    }

    /// The thread's number.
    pub const fn number(self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    /// The version.
    pub const fn version(self) -> u32 {
        self.0.get() as u32
    }

    /// The word.
    pub const fn word(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for GlobalId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "thread {}.{}", self.number(), self.version())
    }
}

impl fmt::Display for GlobalId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.number(), self.version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_exactly_one_kind_of_name() {
        for word in [0, 1, 0x40, u64::MAX, !0x3f, 0xbf00_0200, 0x30_0000_0001, 0x30_0000_0040] {
            let id = ThreadId(word);
            let kinds = [
                id == ThreadId::NIL || id == ThreadId::ANY || id == ThreadId::ANY_LOCAL,
                id.global().is_some(),
                id.local().is_some(),
            ];
            assert_eq!(kinds.iter().filter(|kind| **kind).count(), 1, "{word:#x}");
        }
    }

    #[test]
    fn versions_with_six_clear_bits_are_refused() {
        assert_eq!(GlobalId::new(48, 0x40), None);
        assert_eq!(GlobalId::new(48, 0), None);
        let id = GlobalId::new(48, 1).unwrap();
        assert_eq!((id.number(), id.version(), id.word()), (48, 1, 0x30_0000_0001));
    }
}
