//! Regions: the authority to use physical memory.
//!
//! Invariants: a [`PhysicalRegion`] is made only for memory that the boot left to clients, and
//! refined only by [`PhysicalRegion::derive`]; so no region ever names a page of the
//! environment (R1). It is authority, not state: what may be done with a page at a moment is
//! decided by the page's record.

use core::fmt;

use heliox_types::{Frame, FrameRange, PAGE_BITS};

use crate::error::Error;
use crate::flexpage::{Flexpage, Physical};
use crate::rights::MemoryType;

/// What kind of device a region of device memory belongs to. All other device memory is
/// withheld (`hazards` 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoKind {
    /// The memory of text mode and legacy graphics.
    VideoMemory,
    /// A linear frame buffer.
    FrameBuffer,
}

/// What kind of memory a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionKind {
    /// Memory.
    Ram,
    /// A device's memory.
    Io(IoKind),
}

impl RegionKind {
    /// The one memory type of such memory.
    #[must_use]
    #[inline]
    pub const fn memory_type(self) -> MemoryType {
        match self {
            Self::Ram => MemoryType::WriteBack,
            Self::Io(IoKind::VideoMemory) => MemoryType::Uncacheable,
            Self::Io(IoKind::FrameBuffer) => MemoryType::WriteCombining,
        }
    }
}

/// The authority to use the memory of a physical flexpage.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PhysicalRegion {
    first: Frame,
    bits: u32,
    kind: RegionKind,
}

impl PhysicalRegion {
    /// The region of one frame of RAM that the checks give back to a client.
    #[inline]
    pub(crate) const fn page(frame: Frame) -> Self {
        Self { first: frame, bits: PAGE_BITS, kind: RegionKind::Ram }
    }

    /// The part of this region that `flexpage` names.
    ///
    /// # Errors
    ///
    /// [`Error::OutsideRegion`] if it is not wholly within this region.
    pub fn derive(self, flexpage: Flexpage<Physical>) -> Result<Self, Error> {
        let inside = flexpage.bits() <= self.bits
            && flexpage.start().get() >> self.bits == self.first.address().get() >> self.bits;
        if inside {
            Ok(Self { first: flexpage.first_frame(), bits: flexpage.bits(), kind: self.kind })
        } else {
            Err(Error::OutsideRegion { start: flexpage.start(), bits: flexpage.bits() })
        }
    }

    /// Where the region is.
    #[must_use]
    pub fn flexpage(self) -> Option<Flexpage<Physical>> {
        Flexpage::physical(self.first.address(), self.bits).ok()
    }

    /// The first frame.
    #[must_use]
    #[inline]
    pub const fn first_frame(self) -> Frame {
        self.first
    }

    /// Log2 of the size in bytes.
    #[must_use]
    #[inline]
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// Number of 4 KiB pages.
    #[must_use]
    #[inline]
    pub const fn pages(self) -> u64 {
        1 << (self.bits - PAGE_BITS)
    }

    /// What kind of memory it is.
    #[must_use]
    #[inline]
    pub const fn kind(self) -> RegionKind {
        self.kind
    }

    /// Whether every byte of `other` is in this region.
    #[must_use]
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        let bits = self.bits - PAGE_BITS;
        other.bits <= self.bits && other.first.number() >> bits == self.first.number() >> bits
    }

    /// The region's pages, if it is RAM.
    #[inline]
    pub(crate) const fn ram(self) -> Result<Self, Error> {
        match self.kind {
            RegionKind::Ram => Ok(self),
            RegionKind::Io(_) => Err(Error::NotRam { frame: self.first }),
        }
    }
}

impl fmt::Debug for PhysicalRegion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "PhysicalRegion({}, 2^{}, {:?})",
            self.first.address(),
            self.bits,
            self.kind
        )
    }
}

/// A range of device memory that clients may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoRange {
    /// Its frames.
    pub frames: FrameRange,
    /// What it belongs to.
    pub kind: IoKind,
}

/// Iterator over the largest regions that ranges of frames consist of.
#[derive(Clone, Debug)]
pub struct Regions<'ranges> {
    /// What is left of the current range.
    current: FrameRange,
    kind: RegionKind,
    ram: core::slice::Iter<'ranges, FrameRange>,
    io: core::slice::Iter<'ranges, IoRange>,
}

impl<'ranges> Regions<'ranges> {
    /// The regions of `ram`, then of `io`.
    ///
    /// R1: the caller vouches that clients may have all of these frames.
    pub(crate) fn new(ram: &'ranges [FrameRange], io: &'ranges [IoRange]) -> Self {
        Self { current: FrameRange::EMPTY, kind: RegionKind::Ram, ram: ram.iter(), io: io.iter() }
    }
}

impl Iterator for Regions<'_> {
    type Item = PhysicalRegion;

    fn next(&mut self) -> Option<PhysicalRegion> {
        while self.current.is_empty() {
            if let Some(range) = self.ram.next() {
                (self.current, self.kind) = (*range, RegionKind::Ram);
            } else {
                let range = self.io.next()?;
                (self.current, self.kind) = (range.frames, RegionKind::Io(range.kind));
            }
        }
        let first = self.current.first()?;
        // The largest power of two that the start is a multiple of and the range is as long as;
        // no more than a physical address has bits.
        let bits = (first.number().trailing_zeros())
            .min(self.current.count().ilog2())
            .min(Frame::LIMIT.ilog2());
        self.current = FrameRange::new(first.number() + (1 << bits), self.current.end())
            .unwrap_or(FrameRange::EMPTY);
        Some(PhysicalRegion { first, bits: bits + PAGE_BITS, kind: self.kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliox_types::PhysicalAddress;
    use std::vec::Vec;

    fn range(start: u64, end: u64) -> FrameRange {
        FrameRange::new(start, end).unwrap()
    }

    fn flexpage(start: u64, bits: u32) -> Flexpage<Physical> {
        Flexpage::physical(PhysicalAddress::new(start).unwrap(), bits).unwrap()
    }

    #[test]
    fn regions_are_maximal_and_cover_exactly() {
        let ram = [range(0, 0), range(1, 8), range(512, 1024 + 512)];
        let io = [IoRange { frames: range(0xa0, 0xc0), kind: IoKind::VideoMemory }];
        let found: Vec<_> = Regions::new(&ram, &io)
            .map(|region| (region.first_frame().number(), region.pages()))
            .collect();
        assert_eq!(found, [(1, 1), (2, 2), (4, 4), (512, 512), (1024, 512), (0xa0, 32)]);
        let kinds = Regions::new(&ram, &io).last().unwrap().kind();
        assert_eq!(kinds, RegionKind::Io(IoKind::VideoMemory));
    }

    #[test]
    fn the_last_frames_are_covered_without_overflow() {
        let ram = [range(Frame::LIMIT - 3, Frame::LIMIT), range(0, Frame::LIMIT)];
        let pages: Vec<_> = Regions::new(&ram, &[]).map(PhysicalRegion::pages).collect();
        assert_eq!(pages, [1, 2, Frame::LIMIT]);
    }

    #[test]
    fn derivation_stays_inside() {
        let region = Regions::new(&[range(512, 1024)], &[]).next().unwrap();
        let part = region.derive(flexpage(0x20_4000, 14)).unwrap();
        assert!(region.contains(part) && !part.contains(region));
        assert!(region.derive(flexpage(0x20_0000, 21)).is_ok());
        for outside in [
            flexpage(0x1f_f000, 12),
            flexpage(0x40_0000, 12),
            flexpage(0, 22),
            flexpage(0, 52),
            // A slice of a part past the part's end.
            flexpage(0x20_8000, 14),
        ] {
            let of = if outside.start().get() == 0x20_8000 { part } else { region };
            assert_eq!(
                of.derive(outside),
                Err(Error::OutsideRegion { start: outside.start(), bits: outside.bits() })
            );
        }
    }
}
