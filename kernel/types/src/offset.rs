//! Places in a page, word by word.

/// Number of 8-byte words in a page.
pub const PAGE_WORDS: usize = 512;

/// The number of a word in a page: below [`PAGE_WORDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u16);

impl Offset {
    /// The first word.
    pub const MIN: Self = Self(0);
    /// The last word.
    pub const MAX: Self = Self(511);

    /// Word `number`, or `None` if a page has no such word.
    pub const fn new(number: usize) -> Option<Self> {
        if number < PAGE_WORDS { Some(Self(number as u16)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}
