//! What a program asks of sigma0: memory, by physical address or any.

use heliox_abi::{Flexpage, FlexpageKind, IpcError, KernelLabel, ThreadId, Timeouts};

use crate::bare::memory::{PAGE_BITS, PART_BITS, PHYSICAL, Region};
use crate::bare::{ipc, raw};
use crate::message::{Acceptance, Item, Message};

/// Why sigma0 gave no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sigma0Error {
    /// It could not be asked.
    Ipc(IpcError),
    /// It has no such memory, or not for this thread.
    Refused,
    /// It answered something else than what was asked for.
    Answer(Flexpage),
    /// No page has that size, or the address is not a multiple of it.
    Size(u32),
    /// This memory is the program's heap.
    Heap(u64),
}

/// Asks for the `1 << bits` bytes at physical address `at`, a multiple of that.
///
/// # Errors
///
/// Sigma0 does not give them.
pub fn memory_at(at: u64, bits: u32) -> Result<Region, Sigma0Error> {
    if at >> PART_BITS != 0 || at & ((1 << bits.min(63)) - 1) != 0 {
        return Err(Sigma0Error::Size(bits));
    }
    request(at & !0x3ff, bits)
}

/// Asks for any `1 << bits` bytes.
///
/// # Errors
///
/// Sigma0 has none of that size.
pub fn any_memory(bits: u32) -> Result<Region, Sigma0Error> {
    request(!0x3ff, bits)
}

fn request(base: u64, bits: u32) -> Result<Region, Sigma0Error> {
    if !(PAGE_BITS..PART_BITS).contains(&bits) {
        return Err(Sigma0Error::Size(bits));
    }
    let wanted = Flexpage(base | u64::from(bits) << 4);
    let message = Message::of(KernelLabel::Sigma0.label(0), &[wanted.0, 0]);
    // Each byte goes to its physical address plus PHYSICAL.
    let mut window = Acceptance::into_window(Flexpage::memory(PHYSICAL, PART_BITS, 0));
    let sigma0: ThreadId = raw::page().sigma0_id();
    let answer =
        ipc::call_with(sigma0, Timeouts::NEVER, &message, &mut window).map_err(Sigma0Error::Ipc)?;
    let item = answer.items().find_map(|item| match item {
        Item::Map(item) => Some(item),
        _ => None,
    });
    let item = item.ok_or(Sigma0Error::Refused)?;
    match item.page.kind() {
        FlexpageKind::Nothing => Err(Sigma0Error::Refused),
        FlexpageKind::Memory { base: at, bits: given }
            if given == bits
                && at >> PART_BITS == 0
                && item.base() == at
                && (base == !0x3ff || base == at) =>
        {
            #[cfg(feature = "heap")]
            if crate::bare::heap::has(at, bits) {
                return Err(Sigma0Error::Heap(at));
            }
            Ok(Region::physical(at, bits))
        }
        _ => Err(Sigma0Error::Answer(item.page)),
    }
}

/// Physical memory that sigma0 gave, of any length and at any address: to be read.
#[derive(Debug)]
pub struct PhysicalBytes {
    start: u64,
    bytes: u64,
}

impl PhysicalBytes {
    /// Gets the pages that `bytes` bytes at physical address `start` lie in.
    ///
    /// # Errors
    ///
    /// Sigma0 does not give one of them, or there are no such addresses.
    pub fn get(start: u64, bytes: u64) -> Result<Self, Sigma0Error> {
        let end = start.checked_add(bytes).filter(|end| end >> PART_BITS == 0);
        let end = end.ok_or(Sigma0Error::Size(PART_BITS))?;
        let mut at = start >> PAGE_BITS << PAGE_BITS;
        while at < end {
            // The largest power of two from here on that lies within the pages that are wanted.
            let pages_end = end.next_multiple_of(1 << PAGE_BITS);
            let mut bits = at.trailing_zeros().min(PART_BITS - 1);
            while at + (1 << bits) > pages_end {
                bits -= 1;
            }
            // Sigma0 may have it in smaller pieces only.
            loop {
                match memory_at(at, bits) {
                    Ok(_) => break,
                    Err(Sigma0Error::Refused) if bits > PAGE_BITS => bits -= 1,
                    Err(error) => return Err(error),
                }
            }
            at += 1 << bits;
        }
        Ok(Self { start, bytes })
    }

    /// Number of bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Copies the bytes at `offset` into `buffer`; whether they are all there.
    #[must_use]
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let inside = offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.bytes);
        if inside {
            Region::whole(PHYSICAL, PART_BITS).read_bytes(self.start + offset, buffer);
        }
        inside
    }
}

/// Asks for `1 << bits` ports around `first`; whether sigma0 gave them.
#[must_use]
pub fn ask_ports(first: u16, bits: u32) -> bool {
    let wanted = Flexpage::ports(first, bits, Flexpage::READ | Flexpage::WRITE);
    let message = Message::of(KernelLabel::Sigma0.label(0), &[wanted.0, 0]);
    let mut window = Acceptance::into_window(Flexpage::ports(0, 16, 0));
    let sigma0 = raw::page().sigma0_id();
    let answer = ipc::call_with(sigma0, Timeouts::NEVER, &message, &mut window);
    answer.is_ok_and(|answer| {
        let mut items = answer.items();
        items.any(|item| matches!(item, Item::Map(item) if item.page == wanted))
    })
}

/// Sends sigma0 its extended request: `operation` 1 sets how much it says, 2 has it print what it
/// has.
///
/// # Errors
///
/// It could not be sent, or sigma0 did not answer although `value` asked it to.
pub fn extended(operation: u64, value: u64) -> Result<(), IpcError> {
    let label = (-1001_i64 << 4) as u64 & 0xffff_ffff_ffff;
    let message = Message::of(label, &[operation, value]);
    let sigma0 = raw::page().sigma0_id();
    if operation == 2 && value != 0 {
        ipc::call(sigma0, &message).map(|_| ())
    } else {
        ipc::send(sigma0, &message)
    }
}
