//! How parsers reach physical memory, ranges of its bytes, and fields of structures in it.
//!
//! Invariant: a [`PhysicalRange`] never runs past the end of physical addresses, so the frames
//! that cover it always exist.

use core::fmt;

use heliox_types::{FrameRange, PHYSICAL_BITS, PhysicalAddress};

/// Some byte of the range that was asked for cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where the read began.
    pub address: PhysicalAddress,
    /// How many bytes were asked for.
    pub bytes: u64,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot read {} bytes at physical address {}", self.bytes, self.address)
    }
}

impl core::error::Error for Unreadable {}

/// Physical memory as something that can be read but is not mapped.
///
/// The kernel implements it with a temporary mapping, tests with a vector of bytes.
pub trait PhysicalMemory {
    /// Copies `buffer.len()` bytes from `address` on into `buffer`.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] if any of the bytes cannot be read; `buffer` then holds anything.
    fn read(&mut self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), Unreadable>;
}

impl<M: PhysicalMemory + ?Sized> PhysicalMemory for &mut M {
    fn read(&mut self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read(address, buffer)
    }
}

/// Consecutive bytes of physical memory, none of which is past the end of physical addresses.
/// May be empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PhysicalRange {
    start: PhysicalAddress,
    bytes: u64,
}

impl PhysicalRange {
    /// The range without bytes, at address 0.
    pub const EMPTY: Self = Self { start: PhysicalAddress::ZERO, bytes: 0 };

    /// The `bytes` bytes from `start` on, or `None` if they run past the end of physical
    /// addresses (2^52).
    #[must_use]
    pub const fn new(start: u64, bytes: u64) -> Option<Self> {
        match (PhysicalAddress::new(start), start.checked_add(bytes)) {
            (Some(start), Some(end)) if end <= 1 << PHYSICAL_BITS => Some(Self { start, bytes }),
            _ => None,
        }
    }

    /// Address of the first byte (of an empty range, where it would begin).
    #[must_use]
    pub const fn start(self) -> PhysicalAddress {
        self.start
    }

    /// Number one past the address of the last byte; at most 2^52.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.get() + self.bytes
    }

    /// Number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// Whether there is no byte in the range.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.bytes == 0
    }

    /// Whether some byte is in both ranges.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        !self.is_empty()
            && !other.is_empty()
            && self.start.get() < other.end()
            && other.start.get() < self.end()
    }

    /// The `bytes` bytes that begin `offset` bytes into this range, or `None` if they are not all
    /// in this range.
    #[must_use]
    pub const fn part(self, offset: u64, bytes: u64) -> Option<Self> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Self::new(self.start.get() + offset, bytes),
            _ => None,
        }
    }

    /// The frames that the bytes lie in.
    #[must_use]
    pub const fn frames(self) -> FrameRange {
        match FrameRange::covering(self.start, self.bytes) {
            Some(frames) => frames,
            // Not reached: the range ends at 2^52 or before.
            None => FrameRange::EMPTY,
        }
    }
}

impl fmt::Debug for PhysicalRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PhysicalRange({self})")
    }
}

impl fmt::Display for PhysicalRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}..{:#x}", self.start.get(), self.end())
    }
}

/// Reads the `N` bytes that begin `offset` bytes into `range`.
///
/// # Errors
///
/// [`Unreadable`] if they are not all in `range`, or memory cannot be read there.
pub(crate) fn read_array<const N: usize>(
    memory: &mut impl PhysicalMemory,
    range: PhysicalRange,
    offset: u64,
) -> Result<[u8; N], Unreadable> {
    let Some(part) = range.part(offset, N as u64) else {
        return Err(Unreadable { address: range.start, bytes: offset.saturating_add(N as u64) });
    };
    let mut bytes = [0; N];
    memory.read(part.start, &mut bytes)?;
    Ok(bytes)
}

/// The `SIZE` bytes at `OFFSET` of a structure; that they are there is checked at compile time.
fn field<const OFFSET: usize, const SIZE: usize, const N: usize>(
    structure: &[u8; N],
) -> [u8; SIZE] {
    const { assert!(OFFSET <= N && SIZE <= N - OFFSET, "field outside structure") }
    match structure.get(OFFSET..).and_then(<[u8]>::first_chunk::<SIZE>) {
        Some(bytes) => *bytes,
        // Not reached: see the assertion.
        None => [0; SIZE],
    }
}

/// The byte at `OFFSET` of a structure.
pub(crate) fn u8_at<const OFFSET: usize, const N: usize>(structure: &[u8; N]) -> u8 {
    let [byte] = field::<OFFSET, 1, N>(structure);
    byte
}

/// The little-endian 16-bit field at `OFFSET` of a structure.
pub(crate) fn u16_at<const OFFSET: usize, const N: usize>(structure: &[u8; N]) -> u16 {
    u16::from_le_bytes(field::<OFFSET, 2, N>(structure))
}

/// The little-endian 32-bit field at `OFFSET` of a structure.
pub(crate) fn u32_at<const OFFSET: usize, const N: usize>(structure: &[u8; N]) -> u32 {
    u32::from_le_bytes(field::<OFFSET, 4, N>(structure))
}

/// The little-endian 64-bit field at `OFFSET` of a structure.
pub(crate) fn u64_at<const OFFSET: usize, const N: usize>(structure: &[u8; N]) -> u64 {
    u64::from_le_bytes(field::<OFFSET, 8, N>(structure))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::vec::Vec;

    use super::*;

    /// Memory of the tests: bytes from one address on.
    #[derive(Clone, Debug)]
    pub(crate) struct TestMemory {
        pub(crate) start: u64,
        pub(crate) bytes: Vec<u8>,
    }

    impl TestMemory {
        pub(crate) fn zeroed(start: u64, bytes: usize) -> Self {
            Self { start, bytes: std::vec![0; bytes] }
        }

        /// Writes `bytes` at physical address `address`.
        pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) {
            let offset = usize::try_from(address - self.start).unwrap();
            self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    impl PhysicalMemory for TestMemory {
        fn read(&mut self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), Unreadable> {
            let error = Unreadable { address, bytes: buffer.len() as u64 };
            let offset = address.get().checked_sub(self.start).ok_or(error)?;
            let offset = usize::try_from(offset).map_err(|_| error)?;
            let source = self.bytes.get(offset..).ok_or(error)?;
            buffer.copy_from_slice(source.get(..buffer.len()).ok_or(error)?);
            Ok(())
        }
    }

    #[test]
    fn a_range_ends_at_the_end_of_physical_addresses_at_the_latest() {
        assert!(PhysicalRange::new((1 << 52) - 1, 1).is_some());
        assert_eq!(PhysicalRange::new((1 << 52) - 1, 2), None);
        assert_eq!(PhysicalRange::new(1 << 52, 0), None);
        assert_eq!(PhysicalRange::new(1, u64::MAX), None);
        let last = PhysicalRange::new((1 << 52) - 1, 1).unwrap();
        assert_eq!(last.frames().count(), 1);
    }

    #[test]
    fn parts_stay_inside() {
        let range = PhysicalRange::new(0x1000, 16).unwrap();
        assert_eq!(range.part(16, 0), PhysicalRange::new(0x1010, 0));
        assert_eq!(range.part(8, 8), PhysicalRange::new(0x1008, 8));
        assert_eq!(range.part(9, 8), None);
        assert_eq!(range.part(17, 0), None);
        assert_eq!(range.part(u64::MAX, 2), None);
    }

    #[test]
    fn an_empty_range_overlaps_nothing() {
        let range = PhysicalRange::new(0x1000, 16).unwrap();
        let inside = PhysicalRange::new(0x1008, 0).unwrap();
        assert!(!range.overlaps(inside) && !inside.overlaps(range));
        assert!(range.overlaps(PhysicalRange::new(0x100f, 1).unwrap()));
        assert!(!range.overlaps(PhysicalRange::new(0x1010, 1).unwrap()));
    }

    #[test]
    fn a_field_outside_its_range_is_unreadable() {
        let mut memory = TestMemory::zeroed(0x1000, 64);
        let range = PhysicalRange::new(0x1000, 16).unwrap();
        assert!(read_array::<8>(&mut memory, range, 8).is_ok());
        assert!(read_array::<8>(&mut memory, range, 9).is_err());
        let beyond = PhysicalRange::new(0x1000, 128).unwrap();
        assert!(read_array::<8>(&mut memory, beyond, 60).is_err());
    }
}
