//! What a processor remembers of the page tables: translations (the TLB) and positions of tables
//! (paging-structure caches; Intel SDM volume 3, section 4.10; AMD64 manual volume 2, section
//! 5.5).
//!
//! A real processor holds some of what it may hold. The simulated one holds all of it until told,
//! also several different translations of one page if the tables changed in between: whatever a
//! real processor might still use is here.

use std::collections::BTreeSet;
use std::vec::Vec;

use heliox_types::Frame;

use super::layout::PageNumber;
use heliox_types::geometry::{Geometry, Level};
use heliox_types::rights::{MemoryType, Rights};

/// What the entries on a path allow together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Allowed {
    /// Programs, not only the kernel.
    pub user: bool,
    /// Writing.
    pub write: bool,
    /// Fetching instructions.
    pub execute: bool,
}

impl Allowed {
    /// Everything.
    pub(super) const ALL: Self = Self { user: true, write: true, execute: true };

    /// Nothing but reading by the kernel; the least value in the order.
    const LEAST: Self = Self { user: false, write: false, execute: false };

    /// As rights; every translation allows reading.
    #[must_use]
    pub const fn rights(self) -> Rights {
        Rights::readable_and(self.write, self.execute)
    }
}

/// A translation as the TLB holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CachedTranslation {
    /// The level of the leaf entry.
    pub level: Level,
    /// Number of the first 4 KiB page that is translated, counted within the geometry's address
    /// space.
    pub page: u64,
    /// The frame of that page.
    pub frame: Frame,
    /// What is allowed.
    pub allowed: Allowed,
    /// How accesses are cached.
    pub memory_type: MemoryType,
    /// Whether it survives the load of a root.
    pub global: bool,
    /// Whether the leaf entry was already marked dirty.
    pub dirty: bool,
}

impl CachedTranslation {
    /// The frame of page `page`, one of those translated.
    pub(super) fn target(&self, page: PageNumber) -> Option<Frame> {
        self.frame.checked_add(page - self.page)
    }

    /// The least translation of pages of `level` from `page` on, in the order.
    const fn least(level: Level, page: PageNumber) -> Self {
        Self {
            level,
            page,
            frame: Frame::ZERO,
            allowed: Allowed::LEAST,
            memory_type: MemoryType::WriteBack,
            global: false,
            dirty: false,
        }
    }
}

/// The position of a table, as the paging-structure caches hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CachedTable {
    /// The level of the table.
    pub level: Level,
    /// Number of the first 4 KiB page that the table translates.
    pub page: u64,
    /// Where it is.
    pub table: Frame,
    /// What the entries above it allow.
    pub allowed: Allowed,
}

impl CachedTable {
    const fn least(level: Level, page: PageNumber) -> Self {
        Self { level, page, table: Frame::ZERO, allowed: Allowed::LEAST }
    }
}

/// All that a processor remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Caches {
    pub(super) translations: BTreeSet<CachedTranslation>,
    pub(super) tables: BTreeSet<CachedTable>,
}

impl Caches {
    /// The translations of `page`, of all page sizes, from small to large.
    pub(super) fn translations_of<G: Geometry>(
        &self,
        page: PageNumber,
    ) -> impl Iterator<Item = CachedTranslation> + '_ {
        (1..=G::LEVELS).filter_map(Level::new::<G>).flat_map(move |level| {
            let first = page & !(level.frames::<G>() - 1);
            self.translations
                .range(
                    CachedTranslation::least(level, first)
                        ..CachedTranslation::least(level, first + 1),
                )
                .copied()
        })
    }

    /// The tables that translate `page`, from low to high levels.
    pub(super) fn tables_of<G: Geometry>(
        &self,
        page: PageNumber,
    ) -> impl Iterator<Item = CachedTable> + '_ {
        (1..G::LEVELS).filter_map(Level::new::<G>).flat_map(move |level| {
            let first = page & !((level.frames::<G>() << G::INDEX_BITS) - 1);
            self.tables
                .range(CachedTable::least(level, first)..CachedTable::least(level, first + 1))
                .copied()
        })
    }

    /// Adds a translation. Of two that differ in the dirty mark only, the one with the mark is
    /// kept: it can do all that the other can, and without a walk.
    pub(super) fn add_translation(&mut self, translation: CachedTranslation) {
        let [clean, dirty] = [false, true].map(|dirty| CachedTranslation { dirty, ..translation });
        if translation.dirty {
            self.translations.remove(&clean);
            self.translations.insert(dirty);
        } else if !self.translations.contains(&dirty) {
            self.translations.insert(clean);
        }
    }

    /// Drops the translations of `page`.
    pub(super) fn drop_translations_of<G: Geometry>(&mut self, page: PageNumber) {
        let dropped: Vec<_> = self.translations_of::<G>(page).collect();
        for translation in dropped {
            self.translations.remove(&translation);
        }
    }

    /// Drops the tables that translate `page`.
    pub(super) fn drop_tables_of<G: Geometry>(&mut self, page: PageNumber) {
        let dropped: Vec<_> = self.tables_of::<G>(page).collect();
        for table in dropped {
            self.tables.remove(&table);
        }
    }

    /// Drops everything but what belongs to pages from `kernel` on or is global.
    pub(super) fn keep_kernel_half<G: Geometry>(&mut self, kernel: PageNumber) {
        // Only the ranges of the programs' pages are visited: the kernel's half can be large.
        for level in (1..=G::LEVELS).filter_map(Level::new::<G>) {
            let programs =
                CachedTranslation::least(level, 0)..CachedTranslation::least(level, kernel);
            let dropped: Vec<_> = self
                .translations
                .range(programs)
                .filter(|translation| !translation.global)
                .copied()
                .collect();
            for translation in dropped {
                self.translations.remove(&translation);
            }
            let programs = CachedTable::least(level, 0)..CachedTable::least(level, kernel);
            let dropped: Vec<_> = self.tables.range(programs).copied().collect();
            for table in dropped {
                self.tables.remove(&table);
            }
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.translations.clear();
        self.tables.clear();
    }
}
