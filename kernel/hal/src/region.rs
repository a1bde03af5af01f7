//! Regions: the authority to use physical memory.
//!
//! Invariants: a [`PhysicalRegion`] is made only for memory that the boot left to clients, and
//! refined only by [`PhysicalRegion::derive`]; so no region ever names a page of the
//! environment (R1). It is authority, not state: what may be done with a page at a moment is
//! decided by the page's record.

use crate::prelude::*;

pub use heliox_types::mapping::{IoKind, IoRange, RegionKind};

/// The authority to use the `1 << bits` bytes of memory from the start of a frame on, whose number
/// is a multiple of the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PhysicalRegion {
    first: Frame,
    bits: u32,
    kind: RegionKind,
}

impl PhysicalRegion {
    /// The region of one frame of RAM that the checks give back to a client.
    pub(crate) const fn page(frame: Frame) -> Self {
        Self { first: frame, bits: PAGE_BITS, kind: RegionKind::Ram }
    }

    /// The largest regions that `frames` consist of. R1: the boot left all of them to clients.
    pub(crate) fn cover(
        frames: FrameRange,
        kind: RegionKind,
    ) -> impl Iterator<Item = Self> + Clone {
        frames.blocks().map(move |(first, order)| Self { first, bits: order + PAGE_BITS, kind })
    }

    /// The part of this region that `flexpage` names.
    ///
    /// # Errors
    ///
    /// [`Error::OutsideRegion`] if it is not wholly within this region.
    pub fn derive(self, flexpage: Flexpage<Physical>) -> Result<Self, Error> {
        let part = Self { first: flexpage.first_frame(), bits: flexpage.bits(), kind: self.kind };
        if self.contains(part) {
            Ok(part)
        } else {
            Err(Error::OutsideRegion { start: flexpage.start(), bits: flexpage.bits() })
        }
    }

    /// The first frame.
    pub const fn first_frame(self) -> Frame {
        self.first
    }

    /// All frames.
    pub fn frames(self) -> FrameRange {
        // It does not run past the last frame: it was derived from a range.
        FrameRange::from_count(self.first, self.pages()).unwrap_or(FrameRange::EMPTY)
    }

    /// Log2 of the size in bytes.
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// Number of 4 KiB pages.
    pub const fn pages(self) -> u64 {
        1 << (self.bits - PAGE_BITS)
    }

    /// What kind of memory it is.
    pub const fn kind(self) -> RegionKind {
        self.kind
    }

    /// Whether every byte of `other` is in this region.
    pub const fn contains(self, other: Self) -> bool {
        let bits = self.bits - PAGE_BITS;
        other.bits <= self.bits && other.first.number() >> bits == self.first.number() >> bits
    }

    /// The level of the entries that map the region as one page, if that is not above `largest`.
    pub(crate) fn level<G: Geometry>(self, largest: Level) -> Result<Level, Error> {
        let level = Level::leaves::<G>().find(|level| level.bits::<G>() == self.bits);
        let level = level.filter(|level| *level <= largest);
        level.ok_or(Error::NotOnePage { bits: self.bits })
    }

    /// The region, if it is RAM and has at most `limit` pages.
    pub(crate) const fn ram(self, limit: usize) -> Result<Self, Error> {
        let (pages, limit) = (self.pages(), limit as u64);
        match self.kind {
            RegionKind::Io(_) => Err(Error::NotRam { frame: self.first }),
            RegionKind::Ram if pages > limit => Err(Error::TooLong { pages, limit }),
            RegionKind::Ram => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliox_types::PhysicalAddress;

    fn flexpage(start: u64, bits: u32) -> Flexpage<Physical> {
        Flexpage::physical(PhysicalAddress::new(start).unwrap(), bits).unwrap()
    }

    #[test]
    fn derivation_stays_inside() {
        let frames = FrameRange::new(512, 1024).unwrap();
        let region = PhysicalRegion::cover(frames, RegionKind::Ram).next().unwrap();
        assert_eq!(region.frames(), frames);
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

    #[test]
    fn derived_regions_have_the_kind_of_the_whole() {
        let frames = FrameRange::new(0xa0, 0xc0).unwrap();
        let kind = RegionKind::Io(IoKind::VideoMemory);
        let whole = PhysicalRegion::cover(frames, kind).next().unwrap();
        let part = whole.derive(flexpage(0xa_1000, 12)).unwrap();
        assert_eq!((part.kind(), part.pages()), (kind, 1));
        assert_eq!(part.ram(1), Err(Error::NotRam { frame: part.first_frame() }));
    }
}
