//! The machine of the reference implementation: memory, entries as words, walks, caches.

use std::sync::Arc;

use crate::machine::{Frame, Level, Machine, VirtualPage};
use crate::state::{Mapping, Rights};

/// A word of memory, and what it means as an entry of a table.
///
/// | bits | meaning |
/// |---|---|
/// | 0 | present |
/// | 1 | writing is allowed |
/// | 2 | programs may use it |
/// | 3 | fetching is allowed |
/// | 4 | memory of another owner (ignored by the processor) |
/// | 7 | maps memory, rather than pointing to a table |
/// | 12 and above | the frame |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Word(pub(super) u64);

impl Word {
    pub(super) const ABSENT: Self = Self(0);
    const LEAF: u64 = 1 << 7;
    const FRAME: u32 = 12;

    /// An entry that points to a table, and allows all that the table's entries allow.
    pub(super) const fn table(frame: Frame) -> Self {
        Self((frame.0 as u64) << Self::FRAME | 0b1111)
    }

    /// An entry that maps memory.
    pub(super) const fn page(mapping: Mapping) -> Self {
        Self(
            (mapping.frame.0 as u64) << Self::FRAME
                | 1
                | (mapping.rights.write as u64) << 1
                | (mapping.user as u64) << 2
                | (mapping.rights.execute as u64) << 3
                | (mapping.foreign as u64) << 4
                | Self::LEAF,
        )
    }

    pub(super) const fn is_present(self) -> bool {
        self.0 & 1 != 0
    }

    pub(super) const fn is_user(self) -> bool {
        self.0 & 4 != 0
    }

    pub(super) const fn is_foreign(self) -> bool {
        self.0 & 16 != 0
    }

    pub(super) const fn is_leaf(self) -> bool {
        self.0 & Self::LEAF != 0
    }

    pub(super) const fn rights(self) -> Rights {
        Rights { write: self.0 & 2 != 0, execute: self.0 & 8 != 0 }
    }

    #[allow(clippy::cast_possible_truncation, reason = "frames have 32 bits")]
    pub(super) const fn frame(self) -> Frame {
        Frame((self.0 >> Self::FRAME) as u32)
    }
}

/// Physical memory. A frame of zeros takes no room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Memory {
    frames: Vec<Option<Arc<Vec<Word>>>>,
    words: usize,
}

impl Memory {
    pub(super) fn new(frames: usize, words: usize) -> Self {
        Self { frames: vec![None; frames], words }
    }

    pub(super) fn get(&self, frame: Frame, index: usize) -> Word {
        match self.frames.get(frame.0 as usize) {
            Some(Some(words)) => words.get(index).copied().unwrap_or_default(),
            _ => Word::ABSENT,
        }
    }

    pub(super) fn set(&mut self, frame: Frame, index: usize, word: Word) {
        if self.get(frame, index) == word {
            return;
        }
        if let Some(slot) = self.frames.get_mut(frame.0 as usize) {
            let words = slot.get_or_insert_with(|| Arc::new(vec![Word::ABSENT; self.words]));
            let words = Arc::make_mut(words);
            if let Some(place) = words.get_mut(index) {
                *place = word;
            }
            // Equal memory is to be equal data.
            if word == Word::ABSENT && words.iter().all(|word| *word == Word::ABSENT) {
                *slot = None;
            }
        }
    }

    pub(super) fn clear(&mut self, frame: Frame) {
        if let Some(slot) = self.frames.get_mut(frame.0 as usize) {
            *slot = None;
        }
    }
}

/// What a processor has cached: a translation for programs, or where a table is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Cached {
    pub(super) first: VirtualPage,
    pub(super) level: Level,
    pub(super) frame: Frame,
    pub(super) is_table: bool,
    pub(super) rights: Rights,
}

impl Cached {
    /// Whether it translates `page`.
    pub(super) fn covers(&self, machine: &Machine, page: VirtualPage) -> bool {
        let pages = machine.pages_of(self.level);
        !self.is_table && (self.first.0..self.first.0 + pages).contains(&page.0)
    }

    /// The frame that `page` is translated to.
    pub(super) fn leads_to(&self, machine: &Machine, page: VirtualPage) -> Option<Frame> {
        let part = u32::try_from(page.0.checked_sub(self.first.0)?).ok()?;
        self.covers(machine, page).then(|| Frame(self.frame.0.saturating_add(part)))
    }
}

/// Follows tables from `root`: the frame that `page` is translated to, and the entry.
pub(super) fn translate(
    machine: &Machine,
    memory: &Memory,
    root: Frame,
    page: VirtualPage,
) -> Option<(Frame, Word)> {
    let (mut table, mut level) = (root, machine.root());
    loop {
        let word = memory.get(table, machine.index(level, page));
        if !word.is_present() {
            return None;
        }
        if level == Level::FIRST || word.is_leaf() {
            let part = page.0 % machine.pages_of(level);
            let part = u32::try_from(part).ok()?;
            return Some((Frame(word.frame().0.saturating_add(part)), word));
        }
        (table, level) = (word.frame(), level.below());
    }
}

/// Everything that a processor can find below `root` and keep: translations that programs can
/// use, and the positions of tables of user space. (Positions of tables of kernel space, and
/// translations that programs cannot use, never change.)
pub(super) fn reachable(machine: &Machine, memory: &Memory, root: Frame) -> Vec<Cached> {
    let mut found = Vec::new();
    let mut waiting = vec![(root, machine.root(), VirtualPage(0))];
    while let Some((table, level, base)) = waiting.pop() {
        let pages = machine.pages_of(level);
        for index in 0..machine.entries(level) {
            let word = memory.get(table, index as usize);
            if !word.is_present() {
                continue;
            }
            let first = VirtualPage(base.0 + u64::from(index) * pages);
            if level == Level::FIRST || word.is_leaf() {
                if word.is_user() {
                    let (frame, rights) = (word.frame(), word.rights());
                    found.push(Cached { first, level, frame, is_table: false, rights });
                }
                continue;
            }
            let below = level.below();
            if !machine.is_kernel_page(first) {
                let (frame, rights) = (word.frame(), Rights::READ);
                found.push(Cached { first, level: below, frame, is_table: true, rights });
            }
            waiting.push((word.frame(), below, first));
        }
    }
    found
}
