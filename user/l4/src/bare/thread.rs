//! Threads of this program: each begins in a function, with a stack of its own (W3).
//!
//! A program whose space is privileged makes them itself; others ask root.

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use heliox_abi::{GlobalId, ThreadId};

use crate::bare::control::{self, Refused};
use crate::bare::{memory, root, start, utcb};
use crate::message::Message;

/// A stack for one thread at a time: `BYTES` bytes, a multiple of 16.
#[repr(C, align(4096))]
pub struct Stack<const BYTES: usize> {
    memory: UnsafeCell<[u8; BYTES]>,
    taken: AtomicBool,
}

impl<const BYTES: usize> core::fmt::Debug for Stack<BYTES> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "Stack({BYTES} bytes)")
    }
}

// SAFETY: the memory is reached only by who set `taken`, and by the thread that runs on it.
unsafe impl<const BYTES: usize> Sync for Stack<BYTES> {}

impl<const BYTES: usize> Default for Stack<BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const BYTES: usize> Stack<BYTES> {
    const LARGE_ENOUGH: () = assert!(BYTES >= 4096 && BYTES.is_multiple_of(16));

    /// A free stack.
    #[must_use]
    pub const fn new() -> Self {
        let () = Self::LARGE_ENOUGH;
        Self { memory: UnsafeCell::new([0; BYTES]), taken: AtomicBool::new(false) }
    }

    /// Takes the stack and prepares it for a thread; the stack pointer that it begins with.
    fn prepare(&'static self, entry: fn(u64), argument: u64) -> Option<u64> {
        if self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        let end = self.memory.get().cast::<u8>().wrapping_add(BYTES);
        let words = end.cast::<u64>().wrapping_sub(2);
        // SAFETY: the two words are the last of the stack, which is this call's alone.
        unsafe {
            words.write(entry as usize as u64);
            words.wrapping_add(1).write(argument);
        }
        Some(words as u64)
    }
}

/// A thread of this program, and its stack.
#[derive(Debug)]
pub struct Thread {
    id: GlobalId,
    stack: &'static AtomicBool,
}

/// Why there is no new thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// Another thread has the stack.
    StackTaken,
    /// The kernel refused.
    Refused(Refused),
    /// Root refused, for this reason.
    Root(u64),
}

/// Threads that run this program's Rust code in its own space, by number; 0 is a free place.
static OWN: [AtomicU32; 16] = [const { AtomicU32::new(0) }; 16];

/// Notes a thread of this program's space.
pub(crate) fn note_own(number: u32) {
    let free = |slot: &&AtomicU32| {
        slot.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    if !is_own(number) && OWN.iter().find(free).is_none() {
        panic!("more than {} threads in one space", OWN.len());
    }
}

fn forget_own(number: u32) {
    for slot in &OWN {
        let _ = slot.compare_exchange(number, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Whether the thread with this number runs this program's Rust code in its own space.
#[must_use]
pub fn is_own(number: u32) -> bool {
    number != 0 && OWN.iter().any(|slot| slot.load(Ordering::Relaxed) == number)
}

/// Where a thread of a privileged program goes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its global identifier.
    pub id: GlobalId,
    /// Its place in the UTCB area, counted from that of the program's first thread.
    pub utcb: u64,
    /// Who schedules it.
    pub scheduler: ThreadId,
    /// Who serves its page faults, and starts it: the caller, for the time being.
    pub pager: ThreadId,
}

/// Runs at the beginning of a thread: the stack has the function and its argument.
#[unsafe(naked)]
unsafe extern "sysv64" fn begin() {
    naked_asm!(
        "pop rax",
        "pop rdi",
        "xor ebp, ebp",
        "mov rsi, rax",
        "call {begin}",
        "ud2",
        begin = sym begin_in_rust,
    )
}

extern "sysv64" fn begin_in_rust(argument: u64, entry: *const ()) -> ! {
    // SAFETY: `prepare` put a function of this type there.
    let entry = unsafe { core::mem::transmute::<*const (), fn(u64)>(entry) };
    start::adopt_exception_handler();
    entry(argument);
    rest()
}

/// Does nothing for ever.
pub fn rest() -> ! {
    loop {
        // Nobody is called nilthread, so nobody can end this receive but by aborting it.
        let _ = crate::bare::ipc::receive(utcb::global_id());
    }
}

/// The address at which threads begin.
fn entry_point() -> u64 {
    begin as *const () as usize as u64
}

/// Starts a thread in this program's space, as a privileged program.
///
/// # Errors
///
/// The stack is taken, or the kernel refuses.
pub fn spawn<const BYTES: usize>(
    place: Place,
    stack: &'static Stack<BYTES>,
    entry: fn(u64),
    argument: u64,
) -> Result<Thread, SpawnError> {
    let pointer = stack.prepare(entry, argument).ok_or(SpawnError::StackTaken)?;
    memory::touch_image();
    let utcb_address = start::first_utcb() + (place.utcb << heliox_abi::utcb::BITS);
    let me = utcb::global_id();
    let id = place.id.into();
    note_own(place.id.number());
    // SAFETY: the thread waits for its start message, which follows: `begin`, on a stack of its
    // own.
    let created =
        unsafe { control::thread_control(id, me, place.scheduler, place.pager, utcb_address) };
    let started = created.and_then(|()| {
        crate::bare::ipc::send(id, &Message::of(0, &[entry_point(), pointer]))
            .map_err(|error| Refused(error.word()))
    });
    match started {
        Ok(()) => Ok(Thread { id: place.id, stack: &stack.taken }),
        Err(refused) => {
            let _ = control::delete(place.id);
            forget_own(place.id.number());
            stack.taken.store(false, Ordering::Release);
            Err(SpawnError::Refused(refused))
        }
    }
}

/// Where root puts a new thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Home {
    /// The caller's space.
    Same = 0,
    /// A second space of the program, which has the same memory at the same addresses.
    Second = 1,
}

/// Starts a thread with a priority, by asking root.
///
/// # Errors
///
/// The stack is taken, or root refuses.
pub fn spawn_by_root<const BYTES: usize>(
    home: Home,
    priority: u8,
    stack: &'static Stack<BYTES>,
    entry: fn(u64),
    argument: u64,
) -> Result<Thread, SpawnError> {
    let pointer = stack.prepare(entry, argument).ok_or(SpawnError::StackTaken)?;
    match root::create_thread(home, entry_point(), pointer, priority) {
        Ok(id) => Ok(Thread { id, stack: &stack.taken }),
        Err(reason) => {
            stack.taken.store(false, Ordering::Release);
            Err(SpawnError::Root(reason))
        }
    }
}

impl Thread {
    /// Its global identifier.
    #[must_use]
    pub const fn id(&self) -> GlobalId {
        self.id
    }

    /// Ends the thread; its stack is free again. For privileged programs.
    ///
    /// # Errors
    ///
    /// The kernel refuses; the thread stays.
    pub fn delete(self) -> Result<(), Refused> {
        control::delete(self.id)?;
        forget_own(self.id.number());
        self.stack.store(false, Ordering::Release);
        Ok(())
    }
}

impl Thread {
    /// Ends a thread that root made; its stack is free again if root agrees.
    pub fn delete_by_root(self) {
        if root::delete_thread(self.id) {
            self.stack.store(false, Ordering::Release);
        }
    }
}

/// In a privileged program, the pager that shares this program's whole memory with a second space:
/// makes a thread there. The caller must serve its faults with [`share_page`].
///
/// # Errors
///
/// The stack is taken, or the kernel refuses.
pub fn spawn_in_second_space<const BYTES: usize>(
    place: Place,
    kernel_interface_page: heliox_abi::Flexpage,
    utcbs: heliox_abi::Flexpage,
    stack: &'static Stack<BYTES>,
    entry: fn(u64),
    argument: u64,
) -> Result<Thread, SpawnError> {
    let pointer = stack.prepare(entry, argument).ok_or(SpawnError::StackTaken)?;
    memory::touch_image();
    let heliox_abi::FlexpageKind::Memory { base, .. } = utcbs.kind() else {
        stack.taken.store(false, Ordering::Release);
        return Err(SpawnError::Refused(Refused(6)));
    };
    let started = control::Space::create(place.id, place.scheduler).and_then(|space| {
        space.configure(kernel_interface_page, utcbs, ThreadId::ANY)?;
        let utcb = base + (place.utcb << heliox_abi::utcb::BITS);
        let thread = space.thread(place.id, place.scheduler, place.pager, utcb)?;
        // The thread runs this program's code on a stack of its own, like one of its own space.
        thread.start_by_message(pointer, entry_point()).map_err(|error| Refused(error.word()))
    });
    match started {
        Ok(()) => Ok(Thread { id: place.id, stack: &stack.taken }),
        Err(refused) => {
            let _ = control::delete(place.id);
            stack.taken.store(false, Ordering::Release);
            Err(SpawnError::Refused(refused))
        }
    }
}

/// The page of this program around `address`, with all rights that the program itself has there,
/// for the answer to a fault of a thread that [`spawn_in_second_space`] made: in its space it
/// serves the same Rust program, as it does in this one. `None` if the address is not in the
/// program's file.
#[must_use]
pub fn share_page(address: u64) -> Option<crate::message::Mapping> {
    let page = address & !0xfff;
    start::image().contains(&page).then(|| {
        let page_of = heliox_abi::Flexpage::memory(page, 12, heliox_abi::Flexpage::ALL);
        crate::message::Mapping::new(heliox_abi::MapItem::map(page_of, page))
    })
}
