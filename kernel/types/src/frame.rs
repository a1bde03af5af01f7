//! Frames: pages of physical memory, by number.

use core::fmt;

use crate::{PAGE_BITS, PAGE_BYTES, PHYSICAL_BITS, PhysicalAddress};

/// The number of a 4 KiB page of physical memory; always below 2^40.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(u64);

impl Frame {
    /// The frame of physical address 0.
    pub const ZERO: Self = Self(0);

    /// One past the largest frame number: the end of the architectural physical address space.
    pub const LIMIT: u64 = 1 << (PHYSICAL_BITS - PAGE_BITS);

    /// Frame number `number`, or `None` if it is not below [`Frame::LIMIT`].
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number < Self::LIMIT { Some(Self(number)) } else { None }
    }

    /// The frame that the byte at `address` lies in.
    #[must_use]
    pub const fn containing(address: PhysicalAddress) -> Self {
        Self(address.get() >> PAGE_BITS)
    }

    /// The frame's number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The physical address of the frame's first byte.
    #[must_use]
    pub const fn address(self) -> PhysicalAddress {
        PhysicalAddress::of_frame(self)
    }

    /// The physical address of the frame's `index`th word of 8 bytes; there are 512, and `index` is
    /// taken modulo that.
    #[must_use]
    pub const fn word(self, index: usize) -> PhysicalAddress {
        self.address().word(index)
    }

    /// The frame `count` frames further on, or `None` past the end of physical addresses.
    #[must_use]
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(sum) => Self::new(sum),
            None => None,
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Frame({:#x})", self.0)
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}", self.0)
    }
}

/// Consecutive frames: `start` inclusive to `end` exclusive, as frame numbers, with
/// `start <= end <= Frame::LIMIT`. May be empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRange {
    start: u64,
    end: u64,
}

impl FrameRange {
    /// The range without frames.
    pub const EMPTY: Self = Self { start: 0, end: 0 };

    /// The frames with numbers `start` to `end - 1`, or `None` if `end` comes before `start` or
    /// after [`Frame::LIMIT`].
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start <= end && end <= Frame::LIMIT { Some(Self { start, end }) } else { None }
    }

    /// `count` frames from `start` on, or `None` if they run past the last frame.
    #[must_use]
    pub const fn from_count(start: Frame, count: u64) -> Option<Self> {
        match start.0.checked_add(count) {
            Some(end) => Self::new(start.0, end),
            None => None,
        }
    }

    /// All frames of which at least one byte lies in the `bytes` bytes from `start` on, or
    /// `None` if they run past the end of physical addresses. The empty range for no bytes.
    #[must_use]
    pub const fn covering(start: PhysicalAddress, bytes: u64) -> Option<Self> {
        if bytes == 0 {
            return Self::new(start.get() >> PAGE_BITS, start.get() >> PAGE_BITS);
        }
        match start.get().checked_add(bytes - 1) {
            Some(last) => Self::new(start.get() >> PAGE_BITS, (last >> PAGE_BITS) + 1),
            None => None,
        }
    }

    /// All frames of which every byte lies in the `bytes` bytes from `start` on, or `None` if the
    /// bytes run past the end of physical addresses.
    #[must_use]
    pub const fn within(start: PhysicalAddress, bytes: u64) -> Option<Self> {
        match start.get().checked_add(bytes) {
            Some(end) if end >> PHYSICAL_BITS == 0 || end == 1 << PHYSICAL_BITS => {
                let first = start.get().div_ceil(PAGE_BYTES);
                let end = end >> PAGE_BITS;
                Self::new(first, if end < first { first } else { end })
            }
            _ => None,
        }
    }

    /// Number of the first frame (of an empty range, where it would begin).
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Number one past the last frame.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// The first frame, or `None` of an empty range.
    #[must_use]
    pub const fn first(self) -> Option<Frame> {
        if self.is_empty() { None } else { Frame::new(self.start) }
    }

    /// Number of frames.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.end - self.start
    }

    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.count() << PAGE_BITS
    }

    /// Whether there is no frame in the range.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `frame` is in the range.
    #[must_use]
    pub const fn contains(self, frame: Frame) -> bool {
        self.start <= frame.0 && frame.0 < self.end
    }

    /// Whether every frame of `other` is in this range (true for an empty `other`).
    #[must_use]
    pub const fn contains_range(self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Whether some frame is in both ranges.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The frames that are in both ranges.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        let start = if self.start > other.start { self.start } else { other.start };
        let end = if self.end < other.end { self.end } else { other.end };
        if start < end { Self { start, end } } else { Self::EMPTY }
    }

    /// What is left of this range without the frames of `other`: the part before it and the part
    /// behind it, either of which may be empty.
    #[must_use]
    pub const fn without(self, other: Self) -> (Self, Self) {
        let hole = self.intersection(other);
        if hole.is_empty() {
            return (self, Self::EMPTY);
        }
        (Self { start: self.start, end: hole.start }, Self { start: hole.end, end: self.end })
    }

    /// The largest blocks that the range consists of, in rising order: of each the first frame, and
    /// log2 of the number of frames, of which the first one's number is a multiple.
    #[must_use]
    pub const fn blocks(self) -> Blocks {
        Blocks(self)
    }

    /// The frames of the range, in rising order.
    #[must_use]
    pub const fn iter(self) -> Frames {
        Frames { next: self.start, end: self.end }
    }
}

impl IntoIterator for FrameRange {
    type Item = Frame;
    type IntoIter = Frames;

    fn into_iter(self) -> Frames {
        self.iter()
    }
}

impl fmt::Debug for FrameRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FrameRange({:#x}..{:#x})", self.start, self.end)
    }
}

impl fmt::Display for FrameRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}..{:#x}", self.start << PAGE_BITS, self.end << PAGE_BITS)
    }
}

/// Iterator over the frames of a [`FrameRange`].
#[derive(Clone, Debug)]
pub struct Frames {
    next: u64,
    end: u64,
}

impl Iterator for Frames {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        if self.next < self.end {
            let frame = Frame(self.next);
            self.next += 1;
            Some(frame)
        } else {
            None
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

/// Iterator over the [`FrameRange::blocks`] of a range.
#[derive(Clone, Debug)]
pub struct Blocks(FrameRange);

impl Iterator for Blocks {
    type Item = (Frame, u32);

    fn next(&mut self) -> Option<(Frame, u32)> {
        let FrameRange { start, end } = self.0;
        // No larger than the range, nor than all physical memory, which begins at 0.
        let most = (end - start).checked_ilog2()?;
        let order = start.trailing_zeros().min(most);
        self.0.start = start + (1 << order);
        Some((Frame(start), order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(value: u64) -> PhysicalAddress {
        PhysicalAddress::new(value).unwrap()
    }

    fn range(start: u64, end: u64) -> FrameRange {
        FrameRange::new(start, end).unwrap()
    }

    #[test]
    fn frames_and_addresses_agree() {
        assert_eq!(address(0x1fff).frame(), Frame::new(1).unwrap());
        assert_eq!(Frame::new(1).unwrap().address(), address(0x1000));
        assert_eq!(Frame::new(Frame::LIMIT), None);
        let last = Frame::new(Frame::LIMIT - 1).unwrap();
        assert_eq!(last.address().get(), (1 << 52) - 4096);
        assert_eq!(last.checked_add(1), None);
        assert_eq!(last.checked_add(u64::MAX), None);
        assert_eq!(last.word(511).get(), (1 << 52) - 8);
        assert_eq!(last.word(513), last.word(1));
    }

    #[test]
    fn covering_rounds_outwards_and_within_inwards() {
        assert_eq!(FrameRange::covering(address(0xfff), 2), FrameRange::new(0, 2));
        assert_eq!(FrameRange::within(address(0xfff), 2), FrameRange::new(1, 1));
        assert_eq!(FrameRange::within(address(0xfff), 0x1001), FrameRange::new(1, 2));
        assert_eq!(FrameRange::covering(address(0x1234), 0), FrameRange::new(1, 1));
        assert_eq!(FrameRange::within(address(0x1234), 1), FrameRange::new(2, 2));
    }

    #[test]
    fn ranges_do_not_run_past_the_end() {
        let last = address((1 << 52) - 4096);
        assert_eq!(FrameRange::covering(last, 4096).unwrap().count(), 1);
        assert_eq!(FrameRange::covering(last, 4097), None);
        assert_eq!(FrameRange::within(last, 4096).unwrap().count(), 1);
        assert_eq!(FrameRange::within(last, 4097), None);
        assert_eq!(FrameRange::within(last, u64::MAX), None);
        assert_eq!(FrameRange::new(2, 1), None);
        assert_eq!(FrameRange::from_count(Frame::new(1).unwrap(), u64::MAX), None);
    }

    #[test]
    fn set_operations() {
        assert_eq!(range(0, 10).intersection(range(5, 15)), range(5, 10));
        assert!(range(0, 5).intersection(range(5, 9)).is_empty());
        assert_eq!(range(0, 10).without(range(3, 5)), (range(0, 3), range(5, 10)));
        assert_eq!(range(0, 10).without(range(20, 30)), (range(0, 10), FrameRange::EMPTY));
        let (before, behind) = range(3, 5).without(range(0, 10));
        assert!(before.is_empty() && behind.is_empty());
        assert!(range(0, 10).contains_range(FrameRange::EMPTY));
        assert!(!range(0, 10).contains_range(range(9, 11)));
        assert!(!range(0, 10).overlaps(range(10, 11)));
        assert!(range(2, 5).iter().map(Frame::number).eq([2, 3, 4]));
    }

    #[test]
    fn blocks_are_maximal_and_cover_exactly() {
        let blocks =
            |start, end| range(start, end).blocks().map(|(first, order)| (first.number(), order));
        assert!(blocks(7, 7).eq([]));
        assert!(blocks(1, 8).eq([(1, 0), (2, 1), (4, 2)]));
        assert!(blocks(512, 1536).eq([(512, 9), (1024, 9)]));
        // The last frames, and all of them, without overflow.
        assert!(blocks(Frame::LIMIT - 3, Frame::LIMIT).map(|(_, order)| order).eq([0, 1]));
        assert!(blocks(0, Frame::LIMIT).eq([(0, 40)]));
    }
}
