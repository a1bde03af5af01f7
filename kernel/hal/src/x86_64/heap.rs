//! The heap of the environment: memory for kernel objects.
//!
//! The boot sets a range of environment pages aside; which of them the heap uses, and when, is
//! decided above the HAL (they are the page allocator's zone `xen`). A page that is lent to the
//! heap holds objects of one size class after another; an object is a [`Box`], which frees its
//! memory when it is dropped. Nothing here moves, and nothing can be freed twice.
//!
//! Invariants:
//!
//! - K1: a page is lent to the heap, or made into a table by [`slice`], at most once; only pages of the
//!   range set aside are. The range is mapped, readable and writable for good, and used by nobody
//!   else. Its first pages have a bit for each page: whether it is in use.
//! - K2: a slot is on the free list of its size or belongs to one box. Slots of one size do not
//!   overlap, and a slot is only ever cut into smaller ones. The first word of a free slot is the
//!   address of the next one.
//! - U1: one CPU runs kernel code, so nothing here happens twice at a time.

use super::memory::{environment_address, fill, word};
use super::*;

/// Log2 of the smallest and of the largest slot.
const SMALLEST: u32 = 6;
const LARGEST: u32 = 12;

/// For each size, the address of the first free slot; 0 for none.
static FREE: [AtomicU64; 7] = [const { AtomicU64::new(0) }; (LARGEST - SMALLEST) as usize + 1];

/// The range set aside: first frame, and one past the last.
static RANGE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn range() -> FrameRange {
    let [start, end] = RANGE.each_ref().map(|frame| frame.load(Relaxed));
    FrameRange::new(start, end).unwrap_or(FrameRange::EMPTY)
}

/// Sets `frames` aside for the heap; those that are not needed for the bits. Only the boot does that,
/// with pages as K1 wants them.
pub(super) fn set_aside(frames: FrameRange) -> FrameRange {
    let [start, end] = &RANGE;
    start.store(frames.start(), Relaxed);
    end.store(frames.end(), Relaxed);
    let own = frames.count().div_ceil(8 * PAGE_BYTES).min(frames.count());
    // SAFETY: K1: these are the pages with the bits.
    unsafe { fill(environment_address(frames.start()) as *mut u8, 0, (own * PAGE_BYTES) as usize) }
    let own = FrameRange::new(frames.start(), frames.start() + own).unwrap_or(FrameRange::EMPTY);
    // Cannot fail, since nothing has been lent.
    let _ = claim(own);
    frames.without(own).1
}

/// The word and the bit that say whether `frame`, one of the range, is in use.
fn bit(frame: Frame) -> (&'static AtomicU64, u64) {
    let number = frame.number() - range().start();
    // SAFETY: K1: the range begins with a bit for each of its pages.
    let word = unsafe { word(environment_address(range().start()) + number / 64 * 8) };
    (word, 1 << (number % 64))
}

fn is_free(frame: Frame) -> bool {
    let (word, bit) = bit(frame);
    word.load(Relaxed) & bit == 0
}

/// Takes pages into use; the address of the first.
fn claim(frames: FrameRange) -> Result<u64, HeapError> {
    if frames.is_empty() || !range().contains_range(frames) || !frames.iter().all(is_free) {
        return Err(HeapError::NotFree(frames));
    }
    for (word, bit) in frames.iter().map(bit) {
        word.fetch_or(bit, Relaxed);
    }
    Ok(environment_address(frames.start()))
}

/// Makes a table of `count` objects in pages that it takes into use for good.
pub(super) fn slice<T>(
    frames: FrameRange,
    count: usize,
    mut make: impl FnMut(usize) -> T,
) -> Result<&'static mut [T], HeapError> {
    const { assert!(align_of::<T>() <= PAGE_BYTES as usize) }
    let bytes = count.saturating_mul(size_of::<T>());
    if bytes as u64 > frames.bytes() {
        return Err(HeapError::TooLarge { bytes });
    }
    let start = claim(frames)? as *mut T;
    for index in 0..count {
        // SAFETY: K1: the pages are the table's from now on; it lies within them, and is aligned.
        unsafe { start.add(index).write(make(index)) }
    }
    // SAFETY: K1; all objects were made.
    Ok(unsafe { slice::from_raw_parts_mut(start, count) })
}

/// Puts a slot of `1 << bits` bytes, which belongs to nobody, on its free list (K2).
fn put(slot: u64, bits: u32) {
    if let Some(list) = FREE.get((bits - SMALLEST) as usize) {
        // SAFETY: K2: the slot is the list's from now on.
        unsafe { word(slot) }.store(list.swap(slot, Relaxed), Relaxed);
    }
}

/// Takes a slot of `1 << bits` bytes, cutting up a larger one if need be.
fn get(bits: u32) -> Option<u64> {
    let mut lists = (SMALLEST..).zip(&FREE).skip((bits - SMALLEST) as usize);
    let (found, list) = lists.find(|(_, list)| list.load(Relaxed) != 0)?;
    let slot = list.load(Relaxed);
    // SAFETY: K2: what is on the list is a free slot, with the next one's address.
    list.store(unsafe { word(slot) }.load(Relaxed), Relaxed);
    (bits..found).for_each(|bits| put(slot + (1 << bits), bits));
    Some(slot)
}

/// A kernel object in the environment heap. Its memory is freed when it is dropped.
pub struct Box<T>(NonNull<T>, PhantomData<T>);

impl<T> Box<T> {
    /// Log2 of the slot for a `T`.
    const BITS: u32 = {
        let (size, alignment) = (size_of::<T>(), align_of::<T>());
        let bytes = if size > alignment { size } else { alignment };
        let bits = bytes.next_power_of_two().trailing_zeros();
        if bits < SMALLEST { SMALLEST } else { bits }
    };

    pub(super) fn new(object: T) -> Result<Self, (T, HeapError)> {
        const { assert!(Self::BITS <= LARGEST, "no object is larger than a page") }
        let Some(slot) = get(Self::BITS).and_then(|slot| NonNull::new(slot as *mut T)) else {
            return Err((object, HeapError::NoSlot { bytes: size_of::<T>() }));
        };
        // SAFETY: K2: the slot is this box's alone, as large as its class and aligned to its size.
        unsafe { slot.write(object) }
        Ok(Self(slot, PhantomData))
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
        put(self.as_ptr() as u64, Self::BITS);
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

impl Heap for Hal {
    type Box<T> = Box<T>;

    fn new_box<T>(&mut self, object: T) -> Result<Box<T>, (T, HeapError)> {
        Box::new(object)
    }

    fn heap_frames(&self) -> FrameRange {
        let used = range().iter().take_while(|frame| !is_free(*frame)).count() as u64;
        FrameRange::new(range().start() + used, range().end()).unwrap_or(FrameRange::EMPTY)
    }

    fn grow_heap(&mut self, frames: FrameRange) -> Result<(), HeapError> {
        let start = claim(frames)?;
        (0..frames.count()).for_each(|page| put(start + page * PAGE_BYTES, LARGEST));
        Ok(())
    }

    fn place_slice<T: 'static>(
        &mut self,
        frames: FrameRange,
        count: usize,
        make: impl FnMut(usize) -> T,
    ) -> Result<&'static mut [T], HeapError> {
        slice(frames, count, make)
    }
}
