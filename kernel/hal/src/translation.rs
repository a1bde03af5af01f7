//! What processors may still have cached.
//!
//! A processor caches translations and entries of upper tables, and goes on using them after the
//! tables changed, until it drops them (`hazards` 6 and 7). When a translation is removed or
//! changed, the processor that does it drops its own copy at once; every *other* processor that
//! may have one is noted to *owe* a flush of everything, since an epoch. It pays when it next
//! enters the kernel, on its own or because it is told to.
//!
//! Epochs are numbers that rise with every such event. What the event concerned (pages,
//! table pages) is stamped with its epoch, and may be put to another use once no processor
//! owes anything since that epoch or before: invariant L1. With one processor nothing is ever
//! owed.
//!
//! Records keep only the low bits of a stamp. An age computed from low bits is at most the true
//! age, so a page can seem to wait for a younger debt, never the other way round; and when
//! nothing is owed nothing waits.

use crate::prelude::*;

/// A processor that owes nothing owes since never.
pub(crate) const NEVER: u64 = u64::MAX;

/// What is known about a processor's translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuRecord {
    /// The root it translates with (L2).
    pub(crate) loaded: Frame,
    /// The epoch since which it owes a flush.
    pub(crate) owes: u64,
}

impl CpuRecord {
    /// The record of a processor that translates with `loaded` and has nothing cached.
    pub const fn new(loaded: Frame) -> Self {
        Self { loaded, owes: NEVER }
    }
}

/// Whether what was removed or changed is so for every processor: the epoch of the event.
///
/// Until `Paging::is_complete` other processors may go on as before; whoever must rely on the
/// change tells the processors that owe a flush to enter the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "other processors may still use what was removed"]
pub struct Invalidation(pub(crate) u64);

impl Invalidation {
    /// For every processor at once: epochs count from 1.
    pub(crate) const COMPLETE: Self = Self(0);
}

/// A page table that was freed while another processor may still walk through it.
///
/// It is given back as a `PageMapPage` by `Paging::reclaim` once no processor can. A token that
/// is dropped leaves the page unusable, which is safe.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page is lost unless it is reclaimed"]
pub struct DrainingPage {
    pub(crate) frame: Frame,
    pub(crate) since: Invalidation,
}

impl DrainingPage {
    /// Which page it is.
    pub const fn frame(&self) -> Frame {
        self.frame
    }

    /// When it can be reclaimed.
    pub const fn invalidation(&self) -> Invalidation {
        self.since
    }
}

impl<G: Geometry> State<G> {
    /// The record of processor `cpu`.
    pub(crate) fn cpu(&mut self, cpu: CpuIndex) -> Option<&mut CpuRecord> {
        match &mut self.cpus[..] {
            [only] => Some(only),
            all => all.get_mut(cpu.get()),
        }
    }

    /// The oldest epoch since which a processor owes.
    pub(crate) fn oldest_debt(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.owes).min().unwrap_or(NEVER)
    }

    /// Tells whether everything owed is younger than the epoch with these low bits.
    pub(crate) fn past(&self) -> impl Fn(u64) -> bool + Copy + use<G> {
        let (oldest, epoch) = (self.oldest_debt(), self.epoch);
        move |stamp| {
            let age = epoch.wrapping_sub(stamp);
            oldest == NEVER || epoch - oldest < age & Record::STAMP_MASK
        }
    }

    /// A processor other than `cpu` that translates with `root`.
    pub(crate) fn loaded_elsewhere(&self, cpu: CpuIndex, root: Frame) -> Option<CpuIndex> {
        let mut cpus = self.cpus.iter().enumerate();
        let other = cpus.find(|(number, it)| *number != cpu.get() && it.loaded == root);
        other.and_then(|(number, _)| CpuIndex::new(number))
    }

    /// Notes that every other processor that translates with `root`, or without a root every other
    /// one, owes a flush from now on. Returns whether this processor is one of those, and since
    /// when the others owe.
    pub(crate) fn owe(&mut self, cpu: CpuIndex, root: Option<Frame>) -> (bool, Invalidation) {
        if let ([only], Some(root)) = (&self.cpus[..], root) {
            // With one processor there is nobody else.
            return (only.loaded == root, Invalidation::COMPLETE);
        }
        self.owe_among_many(cpu, root)
    }

    #[inline(never)]
    fn owe_among_many(&mut self, cpu: CpuIndex, root: Option<Frame>) -> (bool, Invalidation) {
        let epoch = self.epoch + 1;
        let (mut here, mut since) = (false, Invalidation::COMPLETE);
        for (number, record) in self.cpus.iter_mut().enumerate() {
            if root.is_some_and(|root| record.loaded != root) {
            } else if number == cpu.get() {
                here = true;
            } else {
                record.owes = record.owes.min(epoch);
                (self.epoch, since) = (epoch, Invalidation(epoch));
            }
        }
        (here, since)
    }
}

impl<M: Machine> Memory<M> {
    /// Makes `root` the root of this processor. The caller vouches that it is one (L2).
    pub(crate) fn load_root(&mut self, cpu: CurrentCpu, root: Frame) {
        if let Some(record) = self.state.cpu(cpu.index())
            && record.loaded != root
        {
            record.loaded = root;
            self.machine.load_root(cpu, root);
        }
    }
}
