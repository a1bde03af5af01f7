//! What processors may still have cached.
//!
//! A processor caches translations and entries of upper tables, and goes on using them after the
//! tables changed, until it drops them (`hazards` 6 and 7). When a translation is removed or
//! changed, the processor that does it drops its own copy at once; every *other* processor that
//! may have one is noted to *owe* a flush, since an epoch. It pays when it next enters the
//! kernel, when it loads another root, or when it is told to enter the kernel for that.
//!
//! Epochs are numbers that rise with every such event. What the event concerned (pages,
//! table pages) is stamped with its epoch, and may be put to another use once no processor
//! owes anything since that epoch or before: invariant L1. With one processor nothing is ever
//! owed.
//!
//! Records keep only the low bits of a stamp. An age computed from low bits is at most the true
//! age, so a page can seem to wait for a younger debt, never the other way round; and when
//! nothing is owed nothing waits.

use heliox_types::Frame;

use crate::cpu::{CpuIndex, CurrentCpu};
use crate::geometry::Geometry;
use crate::machine::Machine;
use crate::state::{State, Storage};

/// The epoch of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stamp(u64);

impl Stamp {
    /// Number of bits of a stamp in a page's record.
    pub(crate) const BITS: u32 = 24;

    pub(crate) const fn low(self) -> u64 {
        self.0 & ((1 << Self::BITS) - 1)
    }

    pub(crate) const fn low32(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
        {
            self.0 as u32
        }
    }
}

/// A processor that owes nothing owes since never.
const NEVER: u64 = u64::MAX;

/// What is known about a processor's translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuRecord {
    /// The root it translates with (L2).
    loaded: Frame,
    /// Epoch since which it owes a flush of the programs' part.
    owes: u64,
    /// Epoch since which it owes a flush of everything.
    owes_all: u64,
}

impl Default for CpuRecord {
    fn default() -> Self {
        Self::new(Frame::ZERO)
    }
}

impl CpuRecord {
    pub(crate) const fn new(loaded: Frame) -> Self {
        Self { loaded, owes: NEVER, owes_all: NEVER }
    }

    /// The root that the processor translates with.
    #[must_use]
    pub const fn loaded(&self) -> Frame {
        self.loaded
    }

    /// Whether the processor owes a flush.
    #[must_use]
    pub const fn owes(&self) -> bool {
        self.owes != NEVER || self.owes_all != NEVER
    }
}

/// The epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Translations {
    /// Number of events so far.
    epoch: u64,
    /// The oldest epoch since which some processor owes.
    oldest: u64,
}

impl Translations {
    pub(crate) const NEW: Self = Self { epoch: 0, oldest: NEVER };

    /// Whether some processor owes a flush.
    #[inline]
    pub(crate) const fn are_owed(&self) -> bool {
        self.oldest != NEVER
    }

    /// Whether everything owed is younger than the stamp whose low `bits` bits are `stamp`.
    pub(crate) const fn is_past(&self, stamp: u64, bits: u32) -> bool {
        let age = self.epoch.wrapping_sub(stamp) & ((1 << bits) - 1);
        !self.are_owed() || self.epoch - self.oldest < age
    }

    const fn is_past_epoch(&self, epoch: u64) -> bool {
        self.oldest > epoch
    }
}

/// Whether what was removed or changed is so for every processor.
///
/// Until [`State::is_complete`] other processors may go on as before; whoever must rely on the
/// change tells the processors that owe a flush to enter the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "other processors may still use what was removed"]
pub struct Invalidation(u64);

impl Invalidation {
    /// For every processor at once.
    pub(crate) const COMPLETE: Self = Self(0);

    #[inline]
    pub(crate) const fn since(stamp: Option<Stamp>) -> Self {
        match stamp {
            Some(stamp) => Self(stamp.0),
            None => Self::COMPLETE,
        }
    }
}

impl<G: Geometry, S: Storage> State<G, S> {
    /// Whether an invalidation has reached every processor.
    #[must_use]
    #[inline]
    pub const fn is_complete(&self, invalidation: Invalidation) -> bool {
        // Epochs count from 1, so what was complete at once is always past.
        self.translations.is_past_epoch(invalidation.0)
    }

    /// The processors that owe a flush.
    pub fn owing_cpus(&self) -> impl Iterator<Item = CpuIndex> {
        let cpus = self.storage.cpus().iter().enumerate();
        cpus.filter_map(|(number, cpu)| if cpu.owes() { CpuIndex::new(number) } else { None })
    }

    /// Whether `cpu` translates with `root`.
    #[inline]
    pub(crate) fn is_loaded_on(&self, cpu: CpuIndex, root: Frame) -> bool {
        let record = self.storage.cpus().get(cpu.get());
        record.is_some_and(|record| record.loaded == root)
    }

    /// A processor other than `cpu` that translates with `root`.
    #[inline]
    pub(crate) fn loaded_elsewhere(&self, cpu: CpuIndex, root: Frame) -> Option<CpuIndex> {
        let mut cpus = self.storage.cpus().iter().enumerate();
        let is_other =
            |(number, record): &(usize, &CpuRecord)| *number != cpu.get() && record.loaded == root;
        cpus.find(is_other).and_then(|(number, _)| CpuIndex::new(number))
    }

    /// Notes that every other processor that translates with `root` owes a flush from now on.
    /// Returns whether this processor does translate with it, and the stamp if another does.
    #[inline(always)]
    pub(crate) fn owe_for_root(&mut self, cpu: CpuIndex, root: Frame) -> (bool, Option<Stamp>) {
        // With one processor there is nobody else.
        if let [only] = self.storage.cpus() {
            (only.loaded == root, None)
        } else {
            self.owe_for_root_among_many(cpu, root)
        }
    }

    #[inline(never)]
    fn owe_for_root_among_many(&mut self, cpu: CpuIndex, root: Frame) -> (bool, Option<Stamp>) {
        let elsewhere = self.loaded_elsewhere(cpu, root);
        let stamp = elsewhere.map(|_| self.note_debt(cpu, Some(root)));
        (self.is_loaded_on(cpu, root), stamp)
    }

    /// Notes that every processor but `cpu` owes a flush of everything from now on; `None` if
    /// there is no other.
    pub(crate) fn owe_by_all(&mut self, cpu: CpuIndex) -> Option<Stamp> {
        let others = self.storage.cpus().len() > 1;
        others.then(|| self.note_debt(cpu, None))
    }

    /// Notes that those of the other processors that translate with `root` owe a flush, or
    /// without a root all of them, and a flush of everything.
    #[cold]
    fn note_debt(&mut self, cpu: CpuIndex, root: Option<Frame>) -> Stamp {
        self.translations.epoch += 1;
        let epoch = self.translations.epoch;
        self.translations.oldest = self.translations.oldest.min(epoch);
        for (number, record) in self.storage.cpus_mut().iter_mut().enumerate() {
            match root {
                _ if number == cpu.get() => {}
                None => record.owes_all = record.owes_all.min(epoch),
                Some(root) if record.loaded == root => record.owes = record.owes.min(epoch),
                Some(_) => {}
            }
        }
        Stamp(epoch)
    }

    /// Notes that `cpu` dropped the programs' part of its cached translations, or all.
    #[cold]
    pub(crate) fn note_flush(&mut self, cpu: CpuIndex, all: bool) {
        let Some(record) = self.storage.cpus_mut().get_mut(cpu.get()) else {
            return;
        };
        let paid = record.owes != NEVER || (all && record.owes_all != NEVER);
        if paid {
            record.owes = NEVER;
            if all {
                record.owes_all = NEVER;
            }
            self.find_oldest();
        }
    }

    fn find_oldest(&mut self) {
        let cpus = self.storage.cpus().iter();
        let oldest = cpus.map(|record| record.owes.min(record.owes_all)).min();
        self.translations.oldest = oldest.unwrap_or(NEVER);
    }

    /// Makes `root` the root of this processor. The caller vouches that it is one (L2).
    #[inline(always)]
    pub(crate) fn load<M: Machine<Geometry = G>>(
        &mut self,
        machine: &mut M,
        cpu: CurrentCpu,
        root: Frame,
    ) {
        let record = match self.storage.cpus_mut() {
            [only] => only,
            several => match several.get_mut(cpu.index().get()) {
                Some(record) => record,
                None => return,
            },
        };
        if record.loaded == root {
            return;
        }
        record.loaded = root;
        // What it owed it has paid, but that is not noted: the way between programs stays short.
        machine.load_root(cpu, root);
    }

    /// Pays what this processor owes.
    #[inline]
    pub(crate) fn settle<M: Machine<Geometry = G>>(&mut self, machine: &mut M, cpu: CurrentCpu) {
        if !self.translations.are_owed() {
            return;
        }
        let Some(record) = self.storage.cpus().get(cpu.index().get()) else {
            return;
        };
        if record.owes_all != NEVER {
            machine.flush_all(cpu);
            self.note_flush(cpu.index(), true);
        } else if record.owes != NEVER {
            machine.flush(cpu);
            self.note_flush(cpu.index(), false);
        }
    }
}

/// A page table that was freed while another processor may still walk through it.
///
/// It is given back as a `PageMapPage` by `Paging::reclaim` once no processor can. A token that
/// is dropped leaves the page unusable, which is safe.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page is lost unless it is reclaimed"]
pub struct DrainingPage {
    frame: Frame,
    since: Invalidation,
}

impl DrainingPage {
    pub(crate) const fn new(frame: Frame, since: Invalidation) -> Self {
        Self { frame, since }
    }

    /// Which page it is.
    #[must_use]
    pub const fn frame(&self) -> Frame {
        self.frame
    }

    /// When it can be reclaimed.
    pub const fn invalidation(&self) -> Invalidation {
        self.since
    }
}

#[cfg(any(test, feature = "simulated"))]
impl crate::audit::Duplicate for DrainingPage {
    fn duplicate(&self) -> Self {
        Self { frame: self.frame, since: self.since }
    }
}
