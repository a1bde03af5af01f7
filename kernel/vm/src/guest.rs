//! Guests' names for things: domains, and frames of guest-physical memory.
//!
//! Hides how they are numbered. Invariants: a [`GuestFrame`] is below 2^40, as a machine's frame
//! is; an [`Extent`] is aligned to its size, and so wraps nowhere; an [`Order`] is at most
//! [`Order::MAX`].

use core::fmt;

use heliox_types::Frame;

use crate::error::Error;

/// A domain, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(u16);

impl DomainId {
    /// One past the largest number of a domain. Grant entries have 16 bits for it, of which Xen's
    /// interface reserves the values from here on.
    pub const LIMIT: u16 = 0x7ff0;

    /// Domain `number`, or `None` if it is not below [`DomainId::LIMIT`].
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < Self::LIMIT { Some(Self(number)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number of a 4 KiB page of guest-physical memory; always below 2^40.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestFrame(u64);

impl GuestFrame {
    /// Frame `number`, or `None` if it is not below 2^40.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number < Frame::LIMIT { Some(Self(number)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for GuestFrame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}", self.0)
    }
}

/// The size of a block of pages: 2^order, order at most [`Order::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u8);

impl Order {
    /// One page.
    pub const PAGE: Self = Self(0);
    /// The largest block: 2^18 pages, 1 GiB.
    pub const MAX: Self = Self(18);

    /// Order `number`, or `None` above [`Order::MAX`].
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX.0 as u32 { Some(Self(number as u8)) } else { None }
    }

    /// The order as a number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// Pages in a block of this order.
    #[must_use]
    pub const fn pages(self) -> u64 {
        1 << self.0
    }
}

impl fmt::Display for Order {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A block of guest-physical memory: 2^order frames from one on whose number is a multiple of
/// that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    start: GuestFrame,
    order: Order,
}

impl Extent {
    /// The block of `order` that starts at frame `start`: both as a guest gave them.
    ///
    /// # Errors
    /// [`Error::OrderTooLarge`] above `most`; [`Error::OutsideMap`] if the block does not end at
    /// or before `limit`, a number of frames; [`Error::Misaligned`].
    pub const fn new(start: u64, order: u32, most: Order, limit: u64) -> Result<Self, Error> {
        let order = match Order::new(order) {
            Some(known) if known.0 <= most.0 => known,
            _ => return Err(Error::OrderTooLarge { order, most: most.number() }),
        };
        let outside = Error::OutsideMap { guest: start, limit };
        match (GuestFrame::new(start), start.checked_add(order.pages())) {
            (Some(guest), Some(end)) if end <= limit => {
                if start & (order.pages() - 1) != 0 {
                    return Err(Error::Misaligned { guest: start, order: order.number() });
                }
                Ok(Self { start: guest, order })
            }
            _ => Err(outside),
        }
    }

    /// The page at `start`.
    #[must_use]
    pub const fn page(start: GuestFrame) -> Self {
        Self { start, order: Order::PAGE }
    }

    /// The block of `order` that `guest` lies in.
    #[must_use]
    pub const fn around(guest: GuestFrame, order: Order) -> Self {
        Self { start: GuestFrame(guest.0 & !(order.pages() - 1)), order }
    }

    /// The first frame.
    #[must_use]
    pub const fn start(self) -> GuestFrame {
        self.start
    }

    /// The order.
    #[must_use]
    pub const fn order(self) -> Order {
        self.order
    }

    /// How many frames.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.order.pages()
    }

    /// Number one past the last frame.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.0 + self.pages()
    }

    /// Whether `guest` lies in the block.
    #[must_use]
    pub const fn contains(self, guest: GuestFrame) -> bool {
        self.start.0 <= guest.0 && guest.0 < self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_parsed_once() {
        let most = Order::new(9).unwrap();
        let extent = Extent::new(512, 9, most, 1024).unwrap();
        assert_eq!((extent.start().number(), extent.end()), (512, 1024));
        let order = |order| Error::OrderTooLarge { order, most: 9 };
        assert_eq!(Extent::new(0, 10, most, 1 << 30), Err(order(10)));
        assert_eq!(Extent::new(0, u32::MAX, most, 1 << 30), Err(order(u32::MAX)));
        let misaligned = Error::Misaligned { guest: 256, order: 9 };
        assert_eq!(Extent::new(256, 9, most, 1024), Err(misaligned));
        for guest in [1024, 513, u64::MAX, u64::MAX - 511, 1 << 40] {
            let outside = Error::OutsideMap { guest, limit: 1024 };
            assert_eq!(Extent::new(guest, 9, most, 1024), Err(outside), "{guest}");
        }
        let far = Error::OutsideMap { guest: 1 << 40, limit: u64::MAX };
        assert_eq!(Extent::new(1 << 40, 0, most, u64::MAX), Err(far));
    }

    #[test]
    fn blocks_around_a_frame() {
        let guest = GuestFrame::new(1027).unwrap();
        let block = Extent::around(guest, Order::new(9).unwrap());
        assert_eq!((block.start().number(), block.end()), (1024, 1536));
        assert!(block.contains(guest));
        assert!(!block.contains(GuestFrame::new(1536).unwrap()));
    }
}
