//! Messages: a tag, untyped words, and typed items; and what a receiver accepts.
//!
//! Invariant of a [`Message`]: its tag counts exactly the words that were put into it, which are at
//! most 63, and every typed item is complete. So a message that was built here can be malformed
//! only by intent of who sends it as raw words.

use core::marker::PhantomData;
use core::ops::Deref;

use heliox_abi::utcb::{BUFFER_REGISTERS, MESSAGE_REGISTERS};
use heliox_abi::{Acceptor, Flexpage, ItemKind, MapItem, StringItem, Tag, ThreadId};

/// Words behind the tag, at most.
pub const MOST_WORDS: usize = MESSAGE_REGISTERS - 1;

/// Memory or ports that may be mapped to others without harm to this program: made from memory that
/// is shared anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping(MapItem);

impl Mapping {
    /// A mapping of nothing: a refusal.
    pub const NOTHING: Self = Self(MapItem::map(Flexpage::NIL, 0));

    /// An item whose memory the caller may share.
    #[cfg_attr(not(target_os = "none"), allow(dead_code, reason = "only programs have memory"))]
    pub(crate) const fn new(item: MapItem) -> Self {
        Self(item)
    }

    /// `1 << bits` ports around `first`: ports reach no memory.
    #[must_use]
    pub const fn ports(first: u16, bits: u32) -> Self {
        Self(MapItem::map(Flexpage::ports(first, bits, Flexpage::READ | Flexpage::WRITE), 0))
    }

    /// The same to be given away.
    #[must_use]
    pub const fn granted(self) -> Self {
        Self(MapItem::grant(self.0.page, self.0.base()))
    }

    /// The item.
    #[must_use]
    pub const fn item(self) -> MapItem {
        self.0
    }
}

/// A message that does not have room for what was to be put into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Words that it has room for.
    pub room: usize,
}

/// A typed item of a message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A map or grant item.
    Map(MapItem),
    /// A string item's first header; where the bytes are, the receiver's buffers say.
    String(StringItem),
    /// An item of an unknown kind, with its first word.
    Unknown(u64),
}

/// The words of a message, the tag first.
#[derive(Clone, Copy, Debug)]
pub struct Words([u64; MESSAGE_REGISTERS]);

impl Words {
    /// Message registers, the tag first.
    #[must_use]
    pub const fn new(words: [u64; MESSAGE_REGISTERS]) -> Self {
        Self(words)
    }

    /// The tag.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        Tag(self.0[0])
    }

    /// The label.
    #[must_use]
    pub const fn label(&self) -> u64 {
        self.tag().label()
    }

    /// Message register `index`, 1 to 63; 0 for others.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        if index == 0 { 0 } else { self.0.get(index).copied().unwrap_or(0) }
    }

    /// All message registers.
    #[must_use]
    pub const fn all(&self) -> &[u64; MESSAGE_REGISTERS] {
        &self.0
    }

    /// The untyped words.
    #[must_use]
    pub fn untyped(&self) -> &[u64] {
        self.0.get(1..=self.tag().untyped()).unwrap_or(&[])
    }

    fn used(&self) -> usize {
        self.tag().untyped() + self.tag().typed()
    }

    /// The typed items. An item that runs past the message ends them.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        let end = (self.used() + 1).min(MESSAGE_REGISTERS);
        let mut at = self.tag().untyped() + 1;
        core::iter::from_fn(move || {
            let header = *self.0.get(at..end)?.first()?;
            let (item, next) = match ItemKind::of(header) {
                ItemKind::Map | ItemKind::Grant => {
                    let page = Flexpage(*self.0.get(at + 1..end)?.first()?);
                    (Item::Map(MapItem { header, page }), at + 2)
                }
                ItemKind::String => {
                    let string = StringItem(header);
                    (Item::String(string), self.behind_string(at, end)?)
                }
                ItemKind::Unknown => (Item::Unknown(header), end),
            };
            at = next;
            Some(item)
        })
    }

    fn behind_string(&self, first: usize, end: usize) -> Option<usize> {
        let mut at = first;
        loop {
            let header = StringItem(*self.0.get(at..end)?.first()?);
            at += 1 + header.pieces();
            if at > end {
                return None;
            }
            if !header.is_compound() {
                return Some(at);
            }
        }
    }
}

/// A message that was received, and from whom.
///
/// It is another type than what is sent: its typed items speak of memory as others name it.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The sender: its local identifier within a space, else the global one.
    pub from: ThreadId,
    /// What it sent.
    pub words: Words,
}

impl Deref for Received {
    type Target = Words;

    fn deref(&self) -> &Words {
        &self.words
    }
}

/// A message to be sent. Strings in it are borrowed for `'a`.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    words: Words,
    strings: PhantomData<&'a [u8]>,
}

impl Default for Message<'_> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Deref for Message<'_> {
    type Target = Words;

    fn deref(&self) -> &Words {
        &self.words
    }
}

impl<'a> Message<'a> {
    /// A message with a label and nothing else.
    #[must_use]
    pub const fn new(label: u64) -> Self {
        Self::from_tag(Tag::new(label, 0, 0))
    }

    const fn from_tag(tag: Tag) -> Self {
        let mut words = [0; MESSAGE_REGISTERS];
        words[0] = tag.0;
        Self { words: Words(words), strings: PhantomData }
    }

    /// A message of a label and untyped words, as many as fit.
    #[must_use]
    pub fn of(label: u64, words: &[u64]) -> Self {
        let count = words.len().min(MOST_WORDS);
        let mut message = Self::from_tag(Tag::new(label, count, 0));
        for (target, word) in message.words.0.iter_mut().skip(1).zip(words) {
            *target = *word;
        }
        message
    }

    /// Sets flags of the tag, such as [`Tag::PROPAGATED`].
    #[must_use]
    pub const fn with_flag(mut self, flag: u64) -> Self {
        self.words.0[0] |= flag;
        self
    }

    fn room(&self) -> usize {
        MOST_WORDS.saturating_sub(self.used())
    }

    /// Adds an untyped word; none can be added behind a typed item.
    ///
    /// # Errors
    ///
    /// There is no room, or there is a typed item.
    pub fn push(&mut self, word: u64) -> Result<(), Full> {
        let tag = self.tag();
        if self.room() == 0 || tag.typed() > 0 {
            return Err(Full { room: 0 });
        }
        self.words.0[tag.untyped() + 1] = word;
        self.words.0[0] = tag.with_untyped(tag.untyped() + 1).0;
        Ok(())
    }

    fn push_typed(&mut self, words: &[u64]) -> Result<(), Full> {
        let tag = self.tag();
        if words.len() > self.room() {
            return Err(Full { room: self.room() });
        }
        let first = self.used() + 1;
        for (target, word) in self.words.0.iter_mut().skip(first).zip(words) {
            *target = *word;
        }
        let typed = tag.typed() + words.len();
        self.words.0[0] = tag.0 & !(0x3f << 6) | (typed as u64) << 6;
        Ok(())
    }

    /// Adds a map or grant item.
    ///
    /// # Errors
    ///
    /// There is no room for its two words.
    pub fn push_mapping(&mut self, mapping: Mapping) -> Result<(), Full> {
        let MapItem { header, page } = mapping.item();
        self.push_typed(&[header, page.0])
    }

    /// Adds a string of one piece.
    ///
    /// # Errors
    ///
    /// There is no room for its two words.
    pub fn push_string(&mut self, string: &'a [u8]) -> Result<(), Full> {
        let header = StringItem::simple(string.len() as u64);
        self.push_typed(&[header.0, string.as_ptr() as u64])
    }
}

/// What a receiver accepts: a receive window, and buffers for strings, which are borrowed for `'a`.
#[derive(Clone, Debug)]
pub struct Acceptance<'a> {
    registers: [u64; BUFFER_REGISTERS],
    used: usize,
    last_buffer: usize,
    buffers: PhantomData<&'a mut [u8]>,
}

impl Default for Acceptance<'_> {
    fn default() -> Self {
        Self::NOTHING
    }
}

impl<'a> Acceptance<'a> {
    /// No typed items.
    pub const NOTHING: Self =
        Self { registers: [0; BUFFER_REGISTERS], used: 1, last_buffer: 0, buffers: PhantomData };

    /// Mappings into a window, in which nothing of this program's may lie.
    #[cfg_attr(not(target_os = "none"), allow(dead_code, reason = "only programs have memory"))]
    pub(crate) const fn into_window(window: Flexpage) -> Self {
        let mut acceptance = Self::NOTHING;
        acceptance.registers[0] = Acceptor::new(window, false).0;
        acceptance
    }

    /// Adds a buffer for one string.
    ///
    /// # Errors
    ///
    /// There are no buffer registers left.
    pub fn push_buffer(&mut self, buffer: &'a mut [u8]) -> Result<(), Full> {
        if self.used + 2 > BUFFER_REGISTERS {
            return Err(Full { room: BUFFER_REGISTERS - self.used });
        }
        if self.last_buffer > 0 {
            let header = StringItem(self.registers[self.last_buffer]);
            self.registers[self.last_buffer] = header.with_continuation(true).0;
        }
        self.registers[self.used] = StringItem::simple(buffer.len() as u64).0;
        self.registers[self.used + 1] = buffer.as_mut_ptr() as u64;
        self.last_buffer = self.used;
        self.used += 2;
        self.registers[0] |= 1;
        Ok(())
    }

    /// The buffer registers that matter, from number 0 on.
    #[must_use]
    pub fn registers(&self) -> &[u64] {
        self.registers.get(..self.used).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn messages_count_what_is_in_them() {
        let mut message = Message::of(0x1234, &[1, 2, 3]);
        assert_eq!(message.all()[0], 0x1234_0003);
        message.push(4).unwrap();
        let map = Mapping::new(MapItem::map(Flexpage::memory(0x1000, 12, 7), 0x2000));
        message.push_mapping(map).unwrap();
        message.push_string(b"hello").unwrap();
        assert_eq!(message.all()[0], 0x1234_0000 | 4 << 6 | 4);
        assert_eq!(message.untyped(), [1, 2, 3, 4]);
        assert_eq!(&message.all()[5..8], [0x2008, 0x1000 | 12 << 4 | 7, 5 << 10]);
        assert_eq!(message.push(5), Err(Full { room: 0 }));
        let items: Vec<_> = message.items().collect();
        assert_eq!(items, [Item::Map(map.item()), Item::String(StringItem::simple(5))]);
    }

    #[test]
    fn messages_are_never_overfull() {
        let mut message = Message::of(0, &[7; 100]);
        assert_eq!(message.tag().untyped(), 63);
        assert_eq!(message.push(1), Err(Full { room: 0 }));
        let mut message = Message::of(0, &[7; 62]);
        assert_eq!(message.push_mapping(Mapping::NOTHING), Err(Full { room: 1 }));
        message.push(1).unwrap();
    }

    #[test]
    fn items_of_hostile_messages_end() {
        for header in [0x8, 0xa, 0x1f0, 0x3f0, 0xc, 0xe, u64::MAX] {
            for typed in 0..64 {
                let mut words = [header; MESSAGE_REGISTERS];
                words[0] = Tag::new(0, 3, typed).0;
                let message = Words::new(words);
                assert!(message.items().count() <= 32, "{header:#x} {typed}");
            }
        }
        // A map item of which the second word is missing.
        let mut words = [8; MESSAGE_REGISTERS];
        words[0] = Tag::new(0, 0, 1).0;
        assert_eq!(Words::new(words).items().count(), 0);
    }

    #[test]
    fn buffers_are_chained() {
        let (mut first, mut second) = ([0; 16], [0; 32]);
        let addresses = [first.as_ptr() as u64, second.as_ptr() as u64];
        let mut acceptance = Acceptance::into_window(Flexpage::memory(0x10_0000, 20, 0));
        acceptance.push_buffer(&mut first).unwrap();
        assert_eq!(acceptance.registers(), [0x10_0141, 16 << 10, addresses[0]]);
        acceptance.push_buffer(&mut second).unwrap();
        assert_eq!(
            acceptance.registers(),
            [0x10_0141, 16 << 10 | 1, addresses[0], 32 << 10, addresses[1]]
        );
    }

    #[test]
    fn buffer_registers_run_out() {
        let mut bytes = [[0; 1]; 17];
        let mut acceptance = Acceptance::NOTHING;
        let results: Vec<_> =
            bytes.iter_mut().map(|buffer| acceptance.push_buffer(buffer).is_ok()).collect();
        assert_eq!(results.iter().filter(|ok| **ok).count(), 16);
        assert_eq!(acceptance.registers().len(), 33);
    }
}
