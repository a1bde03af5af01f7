//! A heap for programs that use `alloc`: first fit in a list of free blocks that is sorted by
//! address, so that neighbours merge.
//!
//! Hides where its memory comes from: at first an array of the program's, then what
//! [`grow`] gets. Running out is an error to whoever asked, as always with `alloc`.
//!
//! Invariants: a block in the list is memory of the heap that nobody uses, at least [`UNIT`] bytes, at a
//! multiple of that; blocks are in rising order and do not touch.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering};

use heliox_abi::ThreadId;

use crate::bare::{schedule, sigma0};

/// Every block is a multiple of this many bytes.
const UNIT: usize = 32;
/// Bytes that the heap has from the start.
const FIRST_BYTES: usize = 256 << 10;

#[repr(C, align(4096))]
struct FirstMemory(UnsafeCell<[u8; FIRST_BYTES]>);

// SAFETY: only the heap reaches it, under its lock.
unsafe impl Sync for FirstMemory {}

static FIRST: FirstMemory = FirstMemory(UnsafeCell::new([0; FIRST_BYTES]));

/// A free block's header.
struct Free {
    bytes: usize,
    next: *mut Free,
}

struct List {
    first: *mut Free,
    begun: bool,
}

struct Heap {
    locked: AtomicBool,
    list: UnsafeCell<List>,
}

// SAFETY: the list is reached under the lock only.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap {
    locked: AtomicBool::new(false),
    list: UnsafeCell::new(List { first: ptr::null_mut(), begun: false }),
};

impl Heap {
    fn with<T>(&self, use_list: impl FnOnce(&mut List) -> T) -> T {
        while self.locked.swap(true, Ordering::Acquire) {
            schedule::thread_switch(ThreadId::NIL);
        }
        // SAFETY: the lock is held.
        let list = unsafe { &mut *self.list.get() };
        if !list.begun {
            list.begun = true;
            let memory = FIRST.0.get().cast::<u8>();
            // SAFETY: the array is the heap's, and given to it once.
            unsafe { list.insert(memory, FIRST_BYTES) };
        }
        let result = use_list(list);
        self.locked.store(false, Ordering::Release);
        result
    }
}

impl List {
    /// Puts a block into the list and merges it with its neighbours.
    ///
    /// # Safety
    ///
    /// The block is the heap's, nobody uses it, and it is aligned to and a multiple of [`UNIT`].
    unsafe fn insert(&mut self, block: *mut u8, bytes: usize) {
        let block = block.cast::<Free>();
        let mut before: *mut Free = ptr::null_mut();
        let mut after = self.first;
        while !after.is_null() && after < block {
            before = after;
            // SAFETY: blocks in the list are headers.
            after = unsafe { (*after).next };
        }
        // SAFETY: the block is free memory; `before` and `after` are blocks of the list.
        unsafe {
            block.write(Free { bytes, next: after });
            if !after.is_null() && block.byte_add(bytes) == after {
                (*block).bytes += (*after).bytes;
                (*block).next = (*after).next;
            }
            if before.is_null() {
                self.first = block;
            } else if before.byte_add((*before).bytes) == block {
                (*before).bytes += (*block).bytes;
                (*before).next = (*block).next;
            } else {
                (*before).next = block;
            }
        }
    }

    /// Takes `bytes` bytes, a multiple of [`UNIT`], at a multiple of `alignment`.
    fn take(&mut self, bytes: usize, alignment: usize) -> Option<NonNull<u8>> {
        let mut before: *mut Free = ptr::null_mut();
        let mut block = self.first;
        while !block.is_null() {
            let start = block as usize;
            // SAFETY: blocks in the list are headers.
            let (size, next) = unsafe { ((*block).bytes, (*block).next) };
            let at = start.next_multiple_of(alignment);
            let lead = at - start;
            if lead + bytes <= size {
                // SAFETY: `before` is a block of the list, or there is none.
                unsafe {
                    if before.is_null() {
                        self.first = next;
                    } else {
                        (*before).next = next;
                    }
                }
                let address = block.cast::<u8>();
                // SAFETY: both ends lie in the block, which was taken out.
                unsafe {
                    if lead > 0 {
                        self.insert(address, lead);
                    }
                    let rest = size - lead - bytes;
                    if rest > 0 {
                        self.insert(address.add(lead + bytes), rest);
                    }
                    return NonNull::new(address.add(lead));
                }
            }
            before = block;
            block = next;
        }
        None
    }
}

fn units(layout: Layout) -> (usize, usize) {
    (layout.size().max(1).next_multiple_of(UNIT), layout.align().max(UNIT))
}

// SAFETY: `take` hands out memory that is in no block and no other allocation, of the size and alignment
// that were asked for; `dealloc` computes the same size.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (bytes, alignment) = units(layout);
        self.with(|list| list.take(bytes, alignment)).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let (bytes, _) = units(layout);
        // SAFETY: the caller gives back what `alloc` handed out.
        self.with(|list| unsafe { list.insert(block, bytes) });
    }
}

/// Asks sigma0 for `1 << bits` bytes for the heap; whether it gave them.
pub fn grow(bits: u32) -> bool {
    let Ok(region) = sigma0::any_memory(bits) else { return false };
    let (start, bytes) = (region.start() as *mut u8, region.bytes() as usize);
    // SAFETY: sigma0 gave the memory to this program alone, and the region is not used otherwise.
    HEAP.with(|list| unsafe { list.insert(start, bytes) });
    true
}
