//! The heap of the environment: memory for kernel objects.
//!
//! The boot sets a range of environment pages aside; which of them the heap uses, and when, is
//! decided above the HAL (they are the page allocator's zone `xen`). A page that is lent to the
//! heap holds objects of one size class after another; an object is a [`Box`], which frees its
//! memory when it is dropped. Nothing here moves, and nothing can be freed twice.
//!
//! Invariants:
//!
//! - K1: a page is lent to the heap, or handed out by [`zeroed`], at most once; only pages of the
//!   range set aside are. The range is mapped, readable and writable for good, and used by nobody
//!   else. Its first pages have a bit for each page: whether it is in use.
//! - K2: a slot is on the free list of its size or belongs to one box. Slots of one size do not
//!   overlap, and a slot is only ever cut into smaller ones. The first word of a free slot is the
//!   address of the next one.
//! - U1: one CPU runs kernel code, so nothing here happens twice at a time.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::{fmt, mem, slice};

use heliox_types::{Frame, FrameRange, HeapError, PAGE_BYTES};

use super::memory::{self, environment_address};

/// Log2 of the smallest and of the largest slot.
const SMALLEST: u32 = 6;
const LARGEST: u32 = 12;

/// The range set aside: first frame, and one past the last.
static RANGE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// For each size, the address of the first free slot; 0 for none.
static FREE: [AtomicU64; (LARGEST - SMALLEST) as usize + 1] = [const { AtomicU64::new(0) }; 7];

/// The word at an address of the heap.
fn word(address: u64) -> &'static AtomicU64 {
    // SAFETY: K1, K2: callers pass addresses of the bits, and of free slots.
    unsafe { &*(address as *const AtomicU64) }
}

fn range() -> FrameRange {
    let [start, end] = &RANGE;
    FrameRange::new(start.load(Relaxed), end.load(Relaxed)).unwrap_or(FrameRange::EMPTY)
}

/// The word and the bit that say whether `frame`, one of the range, is in use.
fn bit(frame: Frame) -> (&'static AtomicU64, u64) {
    let number = frame.number() - range().start();
    (word(environment_address(range().start()) + number / 64 * 8), 1 << (number % 64))
}

fn is_free(frame: Frame) -> bool {
    let (word, bit) = bit(frame);
    word.load(Relaxed) & bit == 0
}

/// Sets `frames` aside for the heap. Only the boot does that, with pages as K1 wants them.
pub(super) fn set_aside(frames: FrameRange) {
    let [start, end] = &RANGE;
    start.store(frames.start(), Relaxed);
    end.store(frames.end(), Relaxed);
    let own = frames.count().div_ceil(8 * PAGE_BYTES).min(frames.count());
    for number in 0..own * PAGE_BYTES / 8 {
        word(environment_address(frames.start()) + number * 8).store(0, Relaxed);
    }
    // The pages with the bits themselves; cannot fail, since nothing has been lent.
    let _ = FrameRange::new(frames.start(), frames.start() + own).map(claim);
}

/// The pages set aside that are not in use, at the start.
pub(super) fn free_frames() -> FrameRange {
    let used = range().iter().take_while(|frame| !is_free(*frame)).count() as u64;
    FrameRange::new(range().start() + used, range().end()).unwrap_or(FrameRange::EMPTY)
}

/// Takes pages into use; the address of the first.
fn claim(frames: FrameRange) -> Result<u64, HeapError> {
    if frames.is_empty() || !range().contains_range(frames) || !frames.iter().all(is_free) {
        return Err(HeapError::NotFree(frames));
    }
    for frame in frames {
        let (word, bit) = bit(frame);
        word.fetch_or(bit, Relaxed);
    }
    Ok(environment_address(frames.start()))
}

/// Lends pages to the heap for objects.
pub(super) fn lend(frames: FrameRange) -> Result<(), HeapError> {
    let start = claim(frames)?;
    for page in 0..frames.count() {
        put(start + page * PAGE_BYTES, LARGEST);
    }
    Ok(())
}

/// Hands out whole pages for good, as many `T` as there is room for.
///
/// # Safety
/// Zeros must be a `T`.
pub(super) unsafe fn zeroed<T>(frames: FrameRange) -> Result<&'static mut [T], HeapError> {
    let start = claim(frames)? as *mut T;
    let bytes = frames.bytes() as usize;
    // SAFETY: K1: the pages were free until now and are the caller's from now on. They are aligned
    // for any `T`.
    unsafe {
        memory::fill(start.cast(), 0, bytes);
        Ok(slice::from_raw_parts_mut(start, bytes / size_of::<T>()))
    }
}

/// Puts a slot of `1 << bits` bytes, which belongs to nobody, on its free list (K2).
fn put(slot: u64, bits: u32) {
    if let Some(list) = FREE.get((bits - SMALLEST) as usize) {
        word(slot).store(list.load(Relaxed), Relaxed);
        list.store(slot, Relaxed);
    }
}

/// Takes a slot of `1 << bits` bytes, cutting up a larger one if need be.
fn get(bits: u32) -> Option<u64> {
    let lists = (SMALLEST..).zip(&FREE).skip((bits - SMALLEST) as usize);
    let (mut at, list) = lists.into_iter().find(|(_, list)| list.load(Relaxed) != 0)?;
    let slot = list.load(Relaxed);
    list.store(word(slot).load(Relaxed), Relaxed);
    while at > bits {
        at -= 1;
        put(slot + (1 << at), at);
    }
    Some(slot)
}

/// Log2 of the slot for a `T`.
const fn class_of<T>() -> u32 {
    let (size, alignment) = (mem::size_of::<T>(), mem::align_of::<T>());
    let bytes = if size > alignment { size } else { alignment };
    let bits = bytes.next_power_of_two().trailing_zeros();
    if bits < SMALLEST { SMALLEST } else { bits }
}

/// A kernel object in the environment heap. Its memory is freed when it is dropped.
pub struct Box<T>(NonNull<T>, PhantomData<T>);

impl<T> Box<T> {
    /// Moves `object` into the heap.
    pub(super) fn new(object: T) -> Result<Self, (T, HeapError)> {
        let bytes = mem::size_of::<T>();
        if class_of::<T>() > LARGEST {
            return Err((object, HeapError::TooLarge { bytes }));
        }
        let slot = get(class_of::<T>()).and_then(|slot| NonNull::new(slot as *mut T));
        match slot {
            Some(slot) => {
                // SAFETY: K2: the slot is this box's alone; it is as large as its class, and
                // aligned to its size.
                unsafe { slot.write(object) }
                Ok(Self(slot, PhantomData))
            }
            None => Err((object, HeapError::NoSlot { bytes })),
        }
    }

    /// Where the object is, for as long as the box exists.
    pub(super) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Box<T> {
    fn drop(&mut self) {
        // SAFETY: K2: the object is this box's alone.
        unsafe { ptr::drop_in_place(self.as_ptr()) }
        put(self.as_ptr() as u64, class_of::<T>());
    }
}

impl<T> Deref for Box<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: K2: the object lives as long as the box.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Box<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and the box is borrowed for writing.
        unsafe { self.0.as_mut() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Box<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}
