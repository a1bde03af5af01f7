//! The heap of the environment: memory for kernel objects.
//!
//! The boot sets a range of environment pages aside; which of them the heap uses, and when, is
//! decided above the HAL (they are the page allocator's zone `xen`). A page that is lent to the
//! heap holds objects of one size class after another; an object is a [`Box`], which frees its
//! memory when it is dropped. Nothing here moves, and nothing can be freed twice.
//!
//! Invariants:
//!
//! - K1: a page is lent to the heap, or handed out by [`Heap::words`], at most once; only pages
//!   of the range set aside are.
//! - K2: a slot is on the free list of its size or belongs to one box. Slots of one size do not
//!   overlap, and a slot is only ever cut into smaller ones.
//! - U1: one CPU runs kernel code, so one reference to the heap exists at a time.

use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::{fmt, mem};

use heliox_types::{FrameRange, PAGE_BYTES};

use super::cpu::CpuOwned;

/// Log2 of the smallest and of the largest slot.
const SMALLEST: u32 = 6;
const LARGEST: u32 = 12;
const CLASSES: usize = (LARGEST - SMALLEST) as usize + 1;

static HEAP: CpuOwned<Heap> = CpuOwned::new(Heap {
    free: [ptr::null_mut(); CLASSES],
    range: FrameRange::EMPTY,
    start: ptr::null_mut(),
    lent: &mut [],
});

/// A free slot: the next one of its size.
struct Slot {
    next: *mut Slot,
}

/// Why the heap did not do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeapError {
    /// The heap has no slot that is large enough; a page must be lent to it first.
    NoSlot {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// The frames are not all in the range that was set aside, or one has been lent before.
    NotFree(FrameRange),
    /// No object can be this large.
    TooLarge {
        /// Bytes that were asked for.
        bytes: usize,
    },
}

impl fmt::Display for HeapError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlot { bytes } => {
                write!(formatter, "no room for a kernel object of {bytes} bytes")
            }
            Self::NotFree(frames) => write!(formatter, "{frames} are not free pages of the heap"),
            Self::TooLarge { bytes } => {
                write!(formatter, "a kernel object of {bytes} bytes is too large")
            }
        }
    }
}

impl core::error::Error for HeapError {}

/// The heap.
pub(super) struct Heap {
    free: [*mut Slot; CLASSES],
    /// The pages set aside, and where the first is mapped.
    range: FrameRange,
    start: *mut u8,
    /// A bit for each page of the range: whether it is in use.
    lent: &'static mut [u64],
}

impl Heap {
    /// Sets `range` aside for the heap; it is mapped at `start`.
    ///
    /// # Safety
    /// To be called once, at boot. Nothing else may use the range, which is environment memory
    /// that is mapped, readable and writable for good.
    pub(super) unsafe fn set_aside(range: FrameRange, start: *mut u8) {
        // The first pages hold the bits.
        let words = range.count().div_ceil(64);
        let own = (words * 8).div_ceil(PAGE_BYTES).min(range.count());
        // SAFETY: U1, and the caller: the words lie within the first `own` pages, which are
        // marked as lent at once.
        unsafe {
            let lent: *mut u64 = start.cast();
            for word in 0..words as usize {
                lent.add(word).write(0);
            }
            let heap = &mut *HEAP.get();
            heap.range = range;
            heap.start = start;
            heap.lent = core::slice::from_raw_parts_mut(lent, words as usize);
            if let Some(own) = FrameRange::new(range.start(), range.start() + own) {
                // Cannot fail: nothing has been lent yet.
                let _ = heap.take(own);
            }
        }
    }

    /// The pages set aside that are not in use.
    pub(super) fn free_frames() -> FrameRange {
        // SAFETY: U1.
        let heap = unsafe { &*HEAP.get() };
        let used = heap.range.iter().take_while(|frame| heap.is_lent(frame.number())).count();
        FrameRange::new(heap.range.start() + used as u64, heap.range.end())
            .unwrap_or(FrameRange::EMPTY)
    }

    /// Lends pages to the heap for objects.
    pub(super) fn lend(frames: FrameRange) -> Result<(), HeapError> {
        // SAFETY: U1.
        let heap = unsafe { &mut *HEAP.get() };
        let start = heap.take(frames)?;
        for page in 0..frames.count() as usize {
            // SAFETY: K1: the page was free until now and is the heap's from now on.
            unsafe { heap.put(start.add(page * PAGE_BYTES as usize), LARGEST) }
        }
        Ok(())
    }

    /// Hands out whole pages, zeroed, as words, for good.
    pub(super) fn words(frames: FrameRange) -> Result<&'static mut [u64], HeapError> {
        // SAFETY: U1; K1: the pages were free until now and are the caller's from now on.
        unsafe {
            let start: *mut u64 = (*HEAP.get()).take(frames)?.cast();
            let words = frames.bytes() / 8;
            super::environment::clear_words(start as u64, words);
            Ok(core::slice::from_raw_parts_mut(start, words as usize))
        }
    }

    fn is_lent(&self, frame: u64) -> bool {
        let bit = frame - self.range.start();
        self.lent.get((bit / 64) as usize).is_none_or(|word| word >> (bit % 64) & 1 != 0)
    }

    /// Marks pages as in use; where the first is mapped.
    fn take(&mut self, frames: FrameRange) -> Result<*mut u8, HeapError> {
        let free = self.range.contains_range(frames)
            && frames.iter().all(|frame| !self.is_lent(frame.number()));
        if !free || frames.is_empty() {
            return Err(HeapError::NotFree(frames));
        }
        for frame in frames {
            let bit = frame.number() - self.range.start();
            if let Some(word) = self.lent.get_mut((bit / 64) as usize) {
                *word |= 1 << (bit % 64);
            }
        }
        let offset = (frames.start() - self.range.start()) * PAGE_BYTES;
        // Inside the range, so inside its mapping.
        Ok(self.start.wrapping_add(offset as usize))
    }

    /// Puts a slot of `1 << bits` bytes on its free list.
    ///
    /// # Safety
    /// The slot must be the heap's, aligned to its size, and belong to nobody (K2).
    unsafe fn put(&mut self, slot: *mut u8, bits: u32) {
        if let Some(list) = self.free.get_mut((bits - SMALLEST) as usize) {
            let slot: *mut Slot = slot.cast();
            // SAFETY: K2: nobody else uses the slot, which is large enough for the link.
            unsafe { slot.write(Slot { next: *list }) }
            *list = slot;
        }
    }

    /// Takes a slot of `1 << bits` bytes, cutting up a larger one if need be.
    fn get(&mut self, bits: u32) -> Option<*mut u8> {
        let mut at = (bits..=LARGEST).find(|&at| {
            self.free.get((at - SMALLEST) as usize).is_some_and(|list| !list.is_null())
        })?;
        let list = self.free.get_mut((at - SMALLEST) as usize)?;
        let slot = *list;
        // SAFETY: K2: what is on the list is a free slot with a link.
        *list = unsafe { (*slot).next };
        while at > bits {
            at -= 1;
            // SAFETY: K2: the upper half of a slot that was just taken.
            unsafe { self.put(slot.cast::<u8>().add(1 << at), at) }
        }
        Some(slot.cast())
    }
}

/// Log2 of the slot for a `T`.
const fn class_of<T>() -> u32 {
    let bytes = if mem::size_of::<T>() > mem::align_of::<T>() {
        mem::size_of::<T>()
    } else {
        mem::align_of::<T>()
    };
    let bits = bytes.next_power_of_two().trailing_zeros();
    if bits < SMALLEST { SMALLEST } else { bits }
}

/// A kernel object in the environment heap. Its memory is freed when it is dropped.
pub struct Box<T> {
    object: NonNull<T>,
    owns: core::marker::PhantomData<T>,
}

impl<T> Box<T> {
    /// Moves `object` into the heap.
    ///
    /// # Errors
    /// [`HeapError::NoSlot`] or [`HeapError::TooLarge`], with the object.
    pub fn new(object: T) -> Result<Self, (T, HeapError)> {
        let bytes = mem::size_of::<T>();
        if class_of::<T>() > LARGEST {
            return Err((object, HeapError::TooLarge { bytes }));
        }
        // SAFETY: U1.
        let slot = unsafe { (*HEAP.get()).get(class_of::<T>()) };
        match slot.and_then(|slot| NonNull::new(slot.cast::<T>())) {
            Some(slot) => {
                // SAFETY: K2: the slot is this box's alone; it is as large as its class, and
                // aligned to its size.
                unsafe { slot.write(object) }
                Ok(Self { object: slot, owns: core::marker::PhantomData })
            }
            None => Err((object, HeapError::NoSlot { bytes })),
        }
    }
}

impl<T> Drop for Box<T> {
    fn drop(&mut self) {
        // SAFETY: K2: the object is this box's alone, and the slot is free once it is dropped; U1.
        unsafe {
            self.object.drop_in_place();
            (*HEAP.get()).put(self.object.as_ptr().cast(), class_of::<T>());
        }
    }
}

impl<T> Deref for Box<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: K2: the object lives as long as the box.
        unsafe { self.object.as_ref() }
    }
}

impl<T> DerefMut for Box<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and the box is borrowed for writing.
        unsafe { self.object.as_mut() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Box<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}
