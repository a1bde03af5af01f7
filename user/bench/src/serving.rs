//! The main thread: it makes the threads that measure and are measured, and then serves them, as pager and
//! as exception handler, until one reports that all is done.
//!
//! Printing is left to a thread of its own: a thread that uses ports has more state for the kernel to see to,
//! and what is measured is to be without it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use heliox_l4::control::Refused;
use heliox_l4::memory::Region;
use heliox_l4::message::{Mapping, Message};
use heliox_l4::protocol::{TEXT_BYTES, TextWords, kernel_label};
use heliox_l4::sigma0::Sigma0Error;
use heliox_l4::thread::{
    Place, SpawnError, Stack, Thread, share_page, spawn, spawn_in_second_space,
};
use heliox_l4::{
    Flexpage, GlobalId, IpcError, KernelLabel, ThreadId, raw, reply_wait, schedule, send, utcb,
    wait,
};

/// Label by which a thread reports that all is done: word 1 is 0, or an ErrorCode.
const END: u64 = 1;
/// Label by which a thread asks that [`Served::page`] be taken from everybody else.
const TAKE_BACK: u64 = 2;

/// Offset of the printing thread's number.
const PRINTER: u32 = 7;
/// Label of messages to it: [`TextWords`].
const PRINT: u64 = 3;

static PRINTER_STACK: Stack<16384> = Stack::new();

/// The priority of threads, if nothing else is said.
pub(crate) const PRIORITY: u8 = 100;
/// Where a further space has UTCBs and the kernel interface page.
pub(crate) const UTCB_AREA: Flexpage = Flexpage::memory(0xbf00_0000, 18, 0);
pub(crate) const KERNEL_INTERFACE_PAGE: Flexpage = Flexpage::memory(0xbff0_0000, 12, 0);
/// Bytes of an invalid instruction.
const INVALID_INSTRUCTION_BYTES: u64 = 2;

static MAIN: AtomicU64 = AtomicU64::new(0);

/// Why something could not be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure {
    /// A thread could not be made.
    Spawn(SpawnError),
    /// The kernel refused something.
    Refused(Refused),
    /// There is no such thread number.
    Number(u32),
    /// A message failed.
    Ipc(IpcError),
    /// A thread reported this ErrorCode.
    Reported(u64),
    /// Sigma0 gave no memory.
    Memory(Sigma0Error),
    /// Somebody sent what nobody understands.
    Message {
        /// The sender.
        from: ThreadId,
        /// The label.
        label: u64,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(error) => write!(formatter, "a thread could not be made: {error:?}"),
            Self::Refused(error) => write!(formatter, "the kernel refused: {error:?}"),
            Self::Number(number) => write!(formatter, "there is no thread number {number}"),
            Self::Ipc(error) => write!(formatter, "a message failed: {error:?}"),
            Self::Reported(error) => {
                write!(formatter, "a thread reported ErrorCode {error:#x}")
            }
            Self::Memory(error) => write!(formatter, "sigma0 gave no memory: {error:?}"),
            Self::Message { from, label } => {
                write!(formatter, "{from:?} sent a message with label {label:#x}")
            }
        }
    }
}

impl From<SpawnError> for Failure {
    fn from(error: SpawnError) -> Self {
        Self::Spawn(error)
    }
}

impl From<Refused> for Failure {
    fn from(error: Refused) -> Self {
        Self::Refused(error)
    }
}

impl From<IpcError> for Failure {
    fn from(error: IpcError) -> Self {
        Self::Ipc(error)
    }
}

impl From<Sigma0Error> for Failure {
    fn from(error: Sigma0Error) -> Self {
        Self::Memory(error)
    }
}

/// The thread number `offset` behind those that the system itself has.
pub(crate) fn thread_id(offset: u32) -> Result<GlobalId, Failure> {
    let number = raw::page().user_base() + 3 + offset;
    GlobalId::new(number, 1).ok_or(Failure::Number(number))
}

/// The main thread.
pub(crate) fn main_thread() -> ThreadId {
    ThreadId(MAIN.load(Ordering::Relaxed))
}

fn place(offset: u32, utcb: u64) -> Result<Place, Failure> {
    let me = utcb::global_id();
    MAIN.store(me.0, Ordering::Relaxed);
    Ok(Place { id: thread_id(offset)?, utcb, scheduler: me, pager: me })
}

/// Makes the thread number `offset` in this program's own space.
pub(crate) fn start_here<const BYTES: usize>(
    offset: u32,
    priority: u8,
    stack: &'static Stack<BYTES>,
    entry: fn(u64),
    argument: u64,
) -> Result<Thread, Failure> {
    let thread = spawn(place(offset, 1 + u64::from(offset))?, stack, entry, argument)?;
    schedule::set_priority(thread.id().into(), priority)?;
    Ok(thread)
}

/// Makes the thread number `offset` in a space of its own, with the memory of this program.
pub(crate) fn start_elsewhere<const BYTES: usize>(
    offset: u32,
    priority: u8,
    stack: &'static Stack<BYTES>,
    entry: fn(u64),
    argument: u64,
) -> Result<Thread, Failure> {
    let (page, utcbs) = (KERNEL_INTERFACE_PAGE, UTCB_AREA);
    let place = place(offset, 0)?;
    let thread = spawn_in_second_space(place, page, utcbs, stack, entry, argument)?;
    schedule::set_priority(thread.id().into(), priority)?;
    Ok(thread)
}

/// What the main thread gives to others when they fault on it.
pub(crate) struct Served<'memory> {
    /// A page, and the address at which others fault on it; 0 if they do not yet.
    pub(crate) page: Option<(&'memory Region, &'memory AtomicU64)>,
}

impl Served<'_> {
    /// What cures a page fault.
    fn cure(&self, address: u64) -> Option<Mapping> {
        let served = self.page.and_then(|(page, seen)| {
            let seen = seen.load(Ordering::Relaxed);
            (seen != 0 && address >> page.bits() == seen >> page.bits())
                .then(|| page.map(0, page.bits(), Flexpage::ALL, seen))
        });
        served.or_else(|| share_page(address))
    }

    /// Serves everybody until one reports; that report.
    pub(crate) fn serve(&self) -> Result<(), Failure> {
        let mut received = wait()?;
        loop {
            let mut answer = Message::new(0);
            match (received.label(), kernel_label(received.label())) {
                (END, _) => {
                    return match received.word(1) {
                        0 => Ok(()),
                        error => Err(Failure::Reported(error)),
                    };
                }
                (TAKE_BACK, _) => {
                    if let Some((page, _)) = self.page {
                        page.unmap(0, page.bits(), Flexpage::ALL, false);
                    }
                }
                (label, Some((KernelLabel::PageFault, _))) => {
                    let from = received.from;
                    let page =
                        self.cure(received.word(1)).ok_or(Failure::Message { from, label })?;
                    // An empty message has room for an item.
                    let _ = answer.push_mapping(page);
                }
                (_, Some((KernelLabel::Exception, _))) => {
                    let mut words = [0; 20];
                    for (word, received) in words.iter_mut().zip(received.untyped()) {
                        *word = *received;
                    }
                    words[0] += INVALID_INSTRUCTION_BYTES;
                    answer = Message::of(0, &words);
                }
                (label, _) => return Err(Failure::Message { from: received.from, label }),
            }
            received = reply_wait(received.from, &answer)?;
        }
    }
}

/// Makes the thread that prints.
pub(crate) fn start_printer() -> Result<(), Failure> {
    start_here(PRINTER, PRIORITY, &PRINTER_STACK, printer, 0)?;
    Ok(())
}

fn printer(_: u64) {
    let Ok(mut received) = wait() else { return };
    loop {
        let mut buffer = [0; TEXT_BYTES];
        let length = TextWords::read(received.untyped(), &mut buffer);
        if let Some(Ok(text)) = buffer.get(..length).map(core::str::from_utf8) {
            heliox_l4::println!("{text}");
        }
        match reply_wait(received.from, &Message::new(0)) {
            Ok(next) => received = next,
            Err(_) => return,
        }
    }
}

/// A line in the making; what does not fit is lost.
struct Line {
    bytes: [u8; TEXT_BYTES],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let rest = self.bytes.get_mut(self.length..).unwrap_or_default();
        let length = rest.len().min(text.len());
        for (target, byte) in rest.iter_mut().zip(text.bytes()) {
            *target = byte;
        }
        self.length += length;
        Ok(())
    }
}

/// Has a line printed. Only for threads of this space.
pub(crate) fn say(line: fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut text = Line { bytes: [0; TEXT_BYTES], length: 0 };
    // Writing never fails.
    let _ = text.write_fmt(line);
    let words = TextWords::new(text.bytes.get(..text.length).unwrap_or_default());
    heliox_l4::call(thread_id(PRINTER)?.into(), &Message::of(PRINT, words.words()))?;
    Ok(())
}

/// Reports to the main thread that all is done, or what went wrong. Only for threads of this space.
pub(crate) fn report(result: Result<(), Failure>) {
    let error = match result {
        Ok(()) => 0,
        Err(failure) => {
            // The report tells less, but comes.
            let _ = say(format_args!("{failure}"));
            match failure {
                Failure::Ipc(error) => error.word(),
                _ => u64::MAX,
            }
        }
    };
    // The main thread waits for it.
    let _ = send(main_thread(), &Message::of(END, &[error]));
}

/// Has the main thread take the page that it serves from everybody else.
pub(crate) fn take_back() -> Result<(), Failure> {
    heliox_l4::call(main_thread(), &Message::new(TAKE_BACK))?;
    Ok(())
}
