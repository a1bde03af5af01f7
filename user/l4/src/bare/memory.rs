//! Memory that does not belong to Rust: regions of the address space, and pages that are shared.
//!
//! The address space of a program that uses these bindings: the file at its link address; from
//! [`RESERVED`] on, regions that [`Region::reserve`] hands out, each once; from [`PHYSICAL`] on,
//! physical memory that sigma0 gave, each byte at its physical address plus that.
//!
//! Touching a part of a region that has no memory is a page fault, which the pager may answer.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use heliox_abi::{Flexpage, MapItem, UnmapControl};

use crate::bare::raw::{self, Registers};
use crate::bare::start::{self, Role};
use crate::bare::utcb;
use crate::kip::SystemCall;
use crate::message::{Acceptance, Mapping};

/// Where reserved regions begin.
pub const RESERVED: u64 = 0x1000_0000_0000;
/// Where physical memory begins.
pub const PHYSICAL: u64 = 0x2000_0000_0000;
/// Log2 of the size of each of these two parts of the address space.
pub const PART_BITS: u32 = 44;
/// Log2 of the size of a page.
pub const PAGE_BITS: u32 = 12;
/// Bytes of a page.
pub const PAGE_BYTES: u64 = 1 << PAGE_BITS;

/// The next address that was not reserved.
static NEXT: AtomicU64 = AtomicU64::new(RESERVED);

/// `1 << bits` bytes of the address space in which nothing of Rust's lies, at a multiple of that.
/// Others may write there at any time.
#[derive(Debug, PartialEq, Eq)]
pub struct Region {
    start: u64,
    bits: u32,
}

impl Region {
    /// A region of `1 << bits` bytes that was not reserved before, without memory. At least a page.
    #[must_use]
    pub fn reserve(bits: u32) -> Option<Self> {
        let bits = bits.max(PAGE_BITS);
        if bits >= PART_BITS {
            return None;
        }
        let size = 1 << bits;
        let mut start = 0;
        let reserve = |next: u64| {
            start = next.checked_next_multiple_of(size)?;
            (start + size <= RESERVED + (1 << PART_BITS)).then_some(start + size)
        };
        NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).ok()?;
        Some(Self { start, bits })
    }

    /// Physical memory that was just received at its place in the part for physical memory.
    pub(crate) const fn physical(address: u64, bits: u32) -> Self {
        Self { start: PHYSICAL + address, bits }
    }

    /// A whole part of the address space, to reach into what was received there.
    pub(crate) const fn whole(start: u64, bits: u32) -> Self {
        Self { start, bits }
    }

    /// Its first address.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Log2 of its size.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        1 << self.bits
    }

    /// The physical address, if it is physical memory that sigma0 gave.
    #[must_use]
    pub const fn physical_address(&self) -> Option<u64> {
        self.start.checked_sub(PHYSICAL)
    }

    /// Two halves.
    #[must_use]
    pub fn split(self) -> (Self, Self) {
        let bits = self.bits.saturating_sub(1);
        assert!(bits >= PAGE_BITS, "a page cannot be split");
        (Self { start: self.start, bits }, Self { start: self.start + (1 << bits), bits })
    }

    /// The part of `1 << bits` bytes at `offset`, a multiple of that, to be mapped to others with
    /// `rights` at `send_base`.
    ///
    /// # Panics
    ///
    /// If there is no such part.
    #[must_use]
    pub fn map(&self, offset: u64, bits: u32, rights: u64, send_base: u64) -> Mapping {
        assert!(bits <= self.bits && offset < self.bytes() && offset.trailing_zeros() >= bits);
        let page = Flexpage::memory(self.start + offset, bits, rights);
        Mapping::new(MapItem::map(page, send_base))
    }

    /// All of it, as a receive window.
    #[must_use]
    pub fn window(&self) -> Acceptance<'static> {
        Acceptance::into_window(Flexpage::memory(self.start, self.bits, 0))
    }

    /// A part of it, as a receive window.
    ///
    /// # Panics
    ///
    /// If there is no such part.
    #[must_use]
    pub fn window_at(&self, offset: u64, bits: u32) -> Acceptance<'static> {
        assert!(bits <= self.bits && offset < self.bytes() && offset.trailing_zeros() >= bits);
        Acceptance::into_window(Flexpage::memory(self.start + offset, bits, 0))
    }

    /// Takes `rights` from all to whom a part was mapped, and with `flush` from this program; how
    /// it was used.
    ///
    /// # Panics
    ///
    /// If there is no such part.
    pub fn unmap(&self, offset: u64, bits: u32, rights: u64, flush: bool) -> u64 {
        assert!(bits <= self.bits && offset < self.bytes() && offset.trailing_zeros() >= bits);
        let page = Flexpage::memory(self.start + offset, bits, rights);
        // SAFETY: nothing of Rust's is in the region (W1).
        unsafe { unmap_raw(page, flush) }.rights()
    }

    fn address(&self, offset: u64, bytes: u64) -> u64 {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes());
        assert!(inside, "{bytes} bytes at {offset:#x} are not in the region");
        self.start + offset
    }

    /// Reads the word at a byte offset, a multiple of 8.
    ///
    /// # Panics
    ///
    /// If it is not in the region.
    #[must_use]
    pub fn read(&self, offset: u64) -> u64 {
        let address = self.address(offset & !7, 8) as *const u64;
        // SAFETY: the word is in the region, and aligned; others may write it, hence volatile (W2).
        unsafe { address.read_volatile() }
    }

    /// Writes the word at a byte offset, a multiple of 8.
    ///
    /// # Panics
    ///
    /// If it is not in the region.
    pub fn write(&self, offset: u64, value: u64) {
        let address = self.address(offset & !7, 8) as *mut u64;
        // SAFETY: the word is in the region, where nothing of Rust's is (W2).
        unsafe { address.write_volatile(value) }
    }

    /// Copies bytes out of the region.
    ///
    /// # Panics
    ///
    /// If they are not in the region.
    pub fn read_bytes(&self, offset: u64, buffer: &mut [u8]) {
        let from = self.address(offset, buffer.len() as u64);
        // SAFETY: the source is in the region; the copy is opaque to the compiler (W2).
        unsafe { copy(from, buffer.as_mut_ptr() as u64, buffer.len()) }
    }

    /// Copies bytes into the region.
    ///
    /// # Panics
    ///
    /// If they do not fit.
    pub fn write_bytes(&self, offset: u64, bytes: &[u8]) {
        let to = self.address(offset, bytes.len() as u64);
        // SAFETY: the target is in the region, where nothing of Rust's is (W2).
        unsafe { copy(bytes.as_ptr() as u64, to, bytes.len()) }
    }

    /// Copies bytes from another region.
    ///
    /// # Panics
    ///
    /// If they do not fit, or are not in the other region.
    pub fn copy_from(&self, offset: u64, other: &Self, other_offset: u64, bytes: u64) {
        let (to, from) = (self.address(offset, bytes), other.address(other_offset, bytes));
        // SAFETY: both are in regions, where nothing of Rust's is (W2).
        unsafe { copy(from, to, bytes as usize) }
    }

    /// Fills a part with zeros.
    ///
    /// # Panics
    ///
    /// If it is not in the region.
    pub fn clear(&self, offset: u64, bytes: u64) {
        let to = self.address(offset, bytes);
        // SAFETY: the part is in the region, where nothing of Rust's is (W2).
        unsafe {
            asm!("rep stosb", inout("rdi") to => _, inout("rcx") bytes => _, in("al") 0_u8,
                options(nostack, preserves_flags));
        }
    }
}

/// Copies bytes without the compiler knowing what they are.
///
/// # Safety
///
/// Both ranges are readable or regions; the target may be overwritten.
unsafe fn copy(from: u64, to: u64, bytes: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("rep movsb", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") bytes => _,
            options(nostack, preserves_flags));
    }
}

/// Unmap of one flexpage; how it was used.
///
/// # Safety
///
/// With `flush` nothing of Rust's may lie in the flexpage.
unsafe fn unmap_raw(page: Flexpage, flush: bool) -> Flexpage {
    let mut registers = Registers {
        rdx: UnmapControl::new(1, flush).0,
        rdi: utcb::local_id().0,
        r9: page.0,
        ..Registers::default()
    };
    // SAFETY: as the caller promises.
    unsafe { raw::system_call(SystemCall::Unmap, &mut registers) }
    Flexpage(registers.r9)
}

/// `1 << bits` bytes at `base` with all rights, to be mapped at the same address: for sigma0, which
/// has all memory by its physical addresses. `None` if the program's own file lies in them, or if it
/// is not sigma0.
#[must_use]
pub fn outside(base: u64, bits: u32) -> Option<Mapping> {
    let own = start::image();
    let end = base.checked_add(1_u64.checked_shl(bits)?)?;
    let is_outside = end <= own.start || base >= own.end;
    (is_outside && start::role() == Role::Sigma0).then(|| {
        let page = Flexpage::memory(base, bits, Flexpage::ALL);
        Mapping::new(MapItem::map(page, base))
    })
}

/// Touches every page of the program's file, so that its other threads find all of it mapped.
pub fn touch_image() {
    let own = start::image();
    for page in (own.start..own.end).step_by(PAGE_BYTES as usize) {
        // SAFETY: the page is the program's own; what is read does not matter.
        let _ = unsafe { (page as *const u8).read_volatile() };
    }
}

/// Takes a range of ports from all to whom it was mapped, and with `flush` from this program.
pub fn unmap_ports(first: u16, bits: u32, flush: bool) {
    // SAFETY: ports are no memory.
    let _ = unsafe { unmap_raw(Flexpage::ports(first, bits, Flexpage::ALL), flush) };
}

/// A page of the program's own memory that others may write: words that are read and written one by
/// one.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct SharedPage([AtomicU64; 512]);

impl Default for SharedPage {
    fn default() -> Self {
        Self::new()
    }
}

impl SharedPage {
    /// A page of zeros.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// A word, 0 to 511.
    ///
    /// # Panics
    ///
    /// If there is no such word.
    #[must_use]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        &self.0[index]
    }

    /// The page, to be mapped to others with `rights` at `send_base`.
    #[must_use]
    pub fn map(&'static self, rights: u64, send_base: u64) -> Mapping {
        let page = Flexpage::memory(self.address(), PAGE_BITS, rights);
        Mapping::new(MapItem::map(page, send_base))
    }
}
