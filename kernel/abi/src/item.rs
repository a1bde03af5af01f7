//! Typed items of messages, and what a receiver accepts.

use crate::Flexpage;

/// Bit 0 of an item's first word: another item follows.
const CONTINUES: u64 = 1;

/// What an item is, by the low four bits of its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ItemKind {
    /// Memory or ports that the receiver may use as well.
    Map,
    /// Memory or ports that the sender gives away.
    Grant,
    /// Bytes.
    String,
    /// None that this kernel knows.
    Unknown,
}

impl ItemKind {
    /// The kind of the item with the first word `word`.
    pub const fn of(word: u64) -> Self {
        match word >> 1 & 7 {
            4 => Self::Map,
            5 => Self::Grant,
            0..=3 => Self::String,
            _ => Self::Unknown,
        }
    }
}

/// A map or grant item: where in the receive window the memory goes, and the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MapItem {
    /// The first word: kind, and the send base in bits 10 to 63.
    pub header: u64,
    /// The second word.
    pub page: Flexpage,
}

impl MapItem {
    /// An item that maps `page` at `base` in the receiver's window.
    pub const fn map(page: Flexpage, base: u64) -> Self {
        Self { header: base & !0x3ff | 8, page }
    }

    /// An item that grants `page`.
    pub const fn grant(page: Flexpage, base: u64) -> Self {
        Self { header: base & !0x3ff | 10, page }
    }

    /// The send base.
    pub const fn base(self) -> u64 {
        self.header & !0x3ff
    }

    /// Whether the sender gives the memory away.
    pub const fn is_grant(self) -> bool {
        matches!(ItemKind::of(self.header), ItemKind::Grant)
    }
}

/// The header of a string item: the words behind it are addresses, one for each substring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct StringItem(pub u64);

impl StringItem {
    const COMPOUND: u64 = 1 << 9;

    /// A string of one piece.
    pub const fn simple(length: u64) -> Self {
        Self(length << 10)
    }

    /// `pieces` (1 to 32) pieces of `length` bytes each; `compound`: another header of the same
    /// string follows.
    pub const fn pieces_of(length: u64, pieces: usize, compound: bool) -> Self {
        let more = if compound { Self::COMPOUND } else { 0 };
        Self(length << 10 | more | ((pieces as u64 - 1) & 0x1f) << 4)
    }

    /// Number of addresses that follow, 1 to 32.
    pub const fn pieces(self) -> usize {
        (self.0 >> 4 & 0x1f) as usize + 1
    }

    /// Bytes of each piece.
    pub const fn length(self) -> u64 {
        self.0 >> 10
    }

    /// Whether a further header of the same string follows.
    pub const fn is_compound(self) -> bool {
        self.0 & Self::COMPOUND != 0
    }

    /// Whether a further item or buffer follows.
    pub const fn continues(self) -> bool {
        self.0 & CONTINUES != 0
    }

    /// The header with the bit that says that a further item follows.
    pub const fn with_continuation(self, continues: bool) -> Self {
        Self(self.0 & !CONTINUES | continues as u64)
    }
}

/// What a receiver accepts: the first buffer register. Bit 0: strings; bits 4 to 63: the receive
/// window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Acceptor(pub u64);

impl Acceptor {
    /// No typed items.
    pub const NONE: Self = Self(0);

    /// Map and grant items into `window`, and strings if `strings`.
    pub const fn new(window: Flexpage, strings: bool) -> Self {
        Self(window.0 & !0xf | strings as u64)
    }

    /// Whether strings are accepted; the buffers are described in the buffer registers that follow.
    pub const fn strings(self) -> bool {
        self.0 & 1 != 0
    }

    /// Where mappings may go.
    pub const fn window(self) -> Flexpage {
        Flexpage(self.0 & !0xf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_of_the_interface() {
        let page = Flexpage::memory(0x1000, 12, 7);
        assert_eq!(MapItem::map(page, 0x2000).header, 0x2008);
        assert_eq!(MapItem::grant(page, 0x2000).header, 0x200a);
        assert!(MapItem::grant(page, 0).is_grant());
        assert_eq!(ItemKind::of(StringItem::simple(100).0), ItemKind::String);
        assert_eq!(ItemKind::of(6), ItemKind::String);
        assert_eq!(ItemKind::of(12), ItemKind::Unknown);
    }

    #[test]
    fn strings_say_their_pieces() {
        let item = StringItem::pieces_of(4096, 32, true);
        assert_eq!((item.pieces(), item.length(), item.is_compound()), (32, 4096, true));
        assert!(item.with_continuation(true).continues() && !item.continues());
    }
}
