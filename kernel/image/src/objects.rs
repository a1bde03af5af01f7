//! How many kernel objects there are: what the heap, whose size the boot or the user chose, has
//! room for.

use heliox_hal::Hal;
use heliox_hal::execution::Heap;
use heliox_l4_kernel::{
    DatabaseParts, Deadline, EMPTY_BUCKET, Node, Objects, Space, Thread, Transfer, UtcbPage,
};

use crate::error::BootError;

/// For a thread there are so many bytes of the heap: for its registers, which are more than half
/// of that, its place in the table, and its part of the other tables.
const BYTES_PER_THREAD: u64 = 4096;
const FEWEST_THREADS: usize = 128;
const MOST_THREADS: usize = 1 << 16;

/// The database of mappings gets this part of the heap.
const MAPPINGS_PART: u64 = 4;
/// Mappings of ports.
const PORT_MAPPINGS: usize = 1024;

/// Makes all tables of kernel objects. What is left of the heap is for registers.
///
/// # Errors
/// [`BootError::Heap`].
pub(crate) fn make(hal: &mut Hal) -> Result<Objects<'static, Hal>, BootError> {
    let bytes = hal.heap_frames().bytes();
    let most = (bytes / BYTES_PER_THREAD).max(1);
    // Thread numbers are described by their number of bits.
    let threads = (1_usize << most.ilog2().min(16)).clamp(FEWEST_THREADS, MOST_THREADS);
    let node = size_of::<Node<heliox_l4_kernel::MemoryNote>>() as u64 + 8;
    let mappings = (bytes / MAPPINGS_PART / node) as usize;
    let objects = Objects {
        threads: hal.heap_slice(threads, |_| Thread::free())?,
        deadlines: hal.heap_slice(threads, |_| Deadline::default())?,
        checks: hal.heap_slice(threads, |_| 0)?,
        spaces: hal.heap_slice(threads / 4, |_| Space::free())?,
        utcb_pages: hal.heap_slice(threads / 2, |_| UtcbPage::free())?,
        transfers: hal.heap_slice(threads / 2 + 1, |_| Transfer::default())?,
        mappings: database(hal, mappings)?,
        port_mappings: database(hal, PORT_MAPPINGS)?,
    };
    let rest = hal.heap_frames();
    hal.grow_heap(rest)?;
    Ok(objects)
}

fn database<R: Copy + Default + 'static>(
    hal: &mut Hal,
    mappings: usize,
) -> Result<DatabaseParts<'static, R>, BootError> {
    let buckets = (mappings / 2).next_power_of_two();
    Ok(DatabaseParts {
        nodes: hal.heap_slice(mappings + 1, |_| Node::unused())?,
        by_place: hal.heap_slice(buckets, |_| EMPTY_BUCKET)?,
        by_object: hal.heap_slice(buckets, |_| EMPTY_BUCKET)?,
    })
}
