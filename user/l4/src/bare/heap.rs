//! A heap for programs that use `alloc`: a list of free blocks behind a lock.
//!
//! Hides where its memory comes from: at first an array of the program's, then what
//! [`grow`] gets. Running out is an error to whoever asked, as always with `alloc`.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use heliox_abi::ThreadId;

use crate::bare::{schedule, sigma0};
use crate::free_list::{FreeList, UNIT};

/// Bytes that the heap has from the start.
const FIRST_BYTES: usize = 256 << 10;

#[repr(C, align(4096))]
struct FirstMemory(UnsafeCell<[u8; FIRST_BYTES]>);

// SAFETY: only the heap reaches it, under its lock.
unsafe impl Sync for FirstMemory {}

static FIRST: FirstMemory = FirstMemory(UnsafeCell::new([0; FIRST_BYTES]));

struct List {
    free: FreeList,
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
    list: UnsafeCell::new(List { free: FreeList::new(), begun: false }),
};

impl Heap {
    fn with<T>(&self, use_list: impl FnOnce(&mut FreeList) -> T) -> T {
        while self.locked.swap(true, Ordering::Acquire) {
            schedule::thread_switch(ThreadId::NIL);
        }
        // SAFETY: the lock is held.
        let list = unsafe { &mut *self.list.get() };
        if !list.begun {
            list.begun = true;
            let memory = FIRST.0.get().cast::<u8>();
            // SAFETY: the array is the heap's, and given to it once.
            unsafe { list.free.insert(memory, FIRST_BYTES) };
        }
        let result = use_list(&mut list.free);
        self.locked.store(false, Ordering::Release);
        result
    }
}

fn units(layout: Layout) -> (usize, usize) {
    (layout.size().max(1).next_multiple_of(UNIT), layout.align().max(UNIT))
}

// SAFETY: `take` hands out memory that is in no block and no other allocation, of the size and
// alignment that were asked for; `dealloc` computes the same size.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (bytes, alignment) = units(layout);
        self.with(|list| list.take(bytes, alignment)).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let (bytes, _) = units(layout);
        // SAFETY: the caller gives back what `alloc` handed out.
        self.with(|list| unsafe { list.insert(block, bytes) });
    }
}

/// Physical memory that the heap has from sigma0: first address and log2 of the size of each piece.
static PIECES: [[AtomicU64; 2]; 16] = [const { [const { AtomicU64::new(0) }; 2] }; 16];

/// Whether some of `1 << bits` bytes at physical address `at` are the heap's: they are no region.
pub(crate) fn has(at: u64, bits: u32) -> bool {
    PIECES.iter().any(|[start, size]| {
        let (start, size) = (start.load(Ordering::Acquire), size.load(Ordering::Acquire));
        let bits = u64::from(bits).max(size);
        size != 0 && start >> bits == at >> bits
    })
}

/// Asks sigma0 for `1 << bits` bytes for the heap; whether it gave them.
///
/// # Panics
///
/// If this was done 16 times before.
pub fn grow(bits: u32) -> bool {
    let Ok(region) = sigma0::any_memory(bits) else { return false };
    let (address, bytes) = (region.start(), region.bytes() as usize);
    let free = |[_, size]: &&[AtomicU64; 2]| size.load(Ordering::Acquire) == 0;
    let Some([start, size]) = PIECES.iter().find(free) else {
        panic!("the heap has {} pieces", PIECES.len());
    };
    start.store(region.physical_address().unwrap_or(0), Ordering::Release);
    size.store(u64::from(bits), Ordering::Release);
    // SAFETY: sigma0 gave the memory to this program alone; the region is not used otherwise, and no
    // other region is made of it: it is noted.
    HEAP.with(|list| unsafe { list.insert(address as *mut u8, bytes) });
    true
}
