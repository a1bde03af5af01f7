//! Operations of the kernel other than ordinary messages.
//!
//! One thread, the driver, does most of them and measures. Others are there to be done something to: a partner
//! in another space, who gets mappings and strings; a thread that faults; one that handles interrupts; and
//! one of the driver's own space. What is measured of a message ends when its receiver has it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use heliox_l4::control::{self, Space};
use heliox_l4::memory::{PAGE_BITS, Region};
use heliox_l4::message::{Acceptance, Message};
use heliox_l4::schedule::{self, Parameters};
use heliox_l4::thread::{Stack, Thread};
use heliox_l4::{
    Flexpage, GlobalId, IpcError, IpcErrorCode, Phase, ThreadId, Time, Timeouts, call, call_with,
    ipc, measure as loops, port, raw, receive_with, reply_wait, send, sigma0, system_clock,
    thread_switch, utcb, wait,
};

use crate::marks;
use crate::plan::{Extent, Plan};
use crate::serving::{
    Failure, KERNEL_INTERFACE_PAGE, PRIORITY, Served, UTCB_AREA, main_thread, report, say,
    start_elsewhere, start_here, take_back, thread_id,
};

/// Rounds before those that count.
const WARM: u64 = 2;
/// The priority of the interrupt handler.
const HANDLER_PRIORITY: u8 = 150;

/// Offsets of thread numbers.
const DRIVER: u32 = 0;
const NEIGHBOUR: u32 = 1;
const PARTNER: u32 = 2;
const FAULTER: u32 = 3;
const HANDLER: u32 = 4;
/// Of the thread that is made and deleted.
const PASSING: u32 = 20;

/// Labels of messages to the partner: an item is in them, and with GIVE_BACK it is to be given back.
const TAKE: u64 = 1;
const GIVE_BACK: u64 = 2;
/// Labels of messages to the faulter: what to do.
const FAULT: u64 = 3;
const EXCEPTION: u64 = 4;

/// The serial port: its interrupt can be asked for by writing to a port.
const COM1: u16 = 0x3f8;
const COM1_LINE: u32 = 4;
/// Offset of the port that says which events interrupt, and the event that there is at once: the
/// transmitter is empty.
const INTERRUPT_ENABLE: u16 = 1;
const TRANSMITTER_EMPTY: u8 = 2;
/// Offset of the port whose reading ends the interrupt, and of the one that connects it to the line.
const INTERRUPT_IDENTITY: u16 = 2;
const MODEM_CONTROL: u16 = 4;
const CONNECTED: u8 = 0x0b;
/// How long to wait for an interrupt, in microseconds of sleep for each look.
const INTERRUPT_WAIT: u64 = 100;

const STRING_BYTES: usize = 4096;

static DRIVER_STACK: Stack<32768> = Stack::new();
static NEIGHBOUR_STACK: Stack<8192> = Stack::new();
static PARTNER_STACK: Stack<32768> = Stack::new();
static FAULTER_STACK: Stack<16384> = Stack::new();
static HANDLER_STACK: Stack<16384> = Stack::new();

static STRING: [u8; STRING_BYTES] = [0x5a; STRING_BYTES];

/// When the receiver had it; 0 if it does not have it yet.
static ARRIVED: AtomicU64 = AtomicU64::new(0);
/// Ticks of all rounds that the faulter did.
static FAULTER_TICKS: AtomicU64 = AtomicU64::new(0);
/// Interrupts that the handler got.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
/// Whether the neighbour is to give the processor back, and not to wait.
static SWITCHING: AtomicBool = AtomicBool::new(false);
/// Where the faulter faults.
static FAULT_ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Marks the end of a round, by who received something.
fn arrived() {
    ARRIVED.store(loops::time_stamp(), Ordering::Relaxed);
    marks::trace_rest();
}

/// Measures everything.
pub(crate) fn measure(plan: &Plan) -> Result<(), Failure> {
    plan.extent.publish();
    let page = sigma0::any_memory(PAGE_BITS)?;
    let threads: [Thread; 5] = [
        start_here(NEIGHBOUR, PRIORITY, &NEIGHBOUR_STACK, neighbour, 0)?,
        start_elsewhere(PARTNER, PRIORITY, &PARTNER_STACK, partner, 0)?,
        start_elsewhere(FAULTER, PRIORITY, &FAULTER_STACK, faulter, 0)?,
        start_elsewhere(HANDLER, HANDLER_PRIORITY, &HANDLER_STACK, handler, 0)?,
        start_here(DRIVER, PRIORITY, &DRIVER_STACK, driver, 0)?,
    ];
    let result = Served { page: Some((&page, &FAULT_ADDRESS)) }.serve();
    for thread in threads {
        thread.delete()?;
    }
    result
}

fn driver(_: u64) {
    report(drive());
}

fn drive() -> Result<(), Failure> {
    let own = utcb::global_id();
    let nothing = || Ok(());
    let (neighbour, partner): (ThreadId, ThreadId) =
        (thread_id(NEIGHBOUR)?.into(), thread_id(PARTNER)?.into());

    // A call of Ipc that neither sends nor receives.
    operation(
        "null-system-call",
        nothing,
        || {
            let nobody = ThreadId::NIL;
            let nothing = &mut Acceptance::NOTHING.clone();
            ipc(nobody, nobody, Timeouts::NEVER, &Message::new(0), nothing)?;
            Ok(())
        },
        nothing,
    )?;
    operation(
        "system-clock",
        nothing,
        || {
            let _ = system_clock();
            Ok(())
        },
        nothing,
    )?;
    operation(
        "thread-switch",
        nothing,
        || {
            thread_switch(own);
            Ok(())
        },
        nothing,
    )?;
    SWITCHING.store(true, Ordering::Relaxed);
    send(neighbour, &Message::new(0))?;
    operation(
        "thread-switch-and-back",
        nothing,
        || {
            thread_switch(neighbour);
            Ok(())
        },
        nothing,
    )?;
    SWITCHING.store(false, Ordering::Relaxed);
    thread_switch(neighbour);
    operation(
        "exchange-registers",
        nothing,
        || Ok(control::inspect(neighbour).map(|_| ())?),
        nothing,
    )?;
    operation(
        "schedule",
        nothing,
        || {
            // Main schedules all threads, and it is of this space.
            Ok(schedule::schedule(neighbour, Parameters::KEEP).map(|_| ())?)
        },
        nothing,
    )?;
    operation(
        "failed-receive",
        nothing,
        || match receive_with(partner, Time::ZERO, &mut Acceptance::NOTHING.clone()) {
            Err(IpcError { phase: Phase::Receive, code: IpcErrorCode::Timeout, .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(received) => Err(unexpected(received.from, received.label())),
        },
        nothing,
    )?;

    let page = sigma0::any_memory(PAGE_BITS)?;
    let mut mapping = Message::new(TAKE);
    let mut granting = Message::new(GIVE_BACK);
    let item = page.map(0, PAGE_BITS, Flexpage::ALL, 0);
    // Empty messages have room for an item.
    let _ = mapping.push_mapping(item);
    let _ = granting.push_mapping(item.granted());
    let map = || Ok(call(partner, &mapping).map(|_| ())?);
    let unmap = || {
        page.unmap(0, PAGE_BITS, Flexpage::ALL, false);
        Ok(())
    };
    operation("map", nothing, map, unmap)?;
    operation("unmap", map, unmap, nothing)?;
    let grant = || {
        call_with(partner, Timeouts::NEVER, &granting, &mut page.window())?;
        Ok(())
    };
    operation("grant", nothing, grant, nothing)?;

    let mut string = Message::new(TAKE);
    let _ = string.push_string(&STRING);
    operation("string-4k", nothing, || Ok(call(partner, &string).map(|_| ())?), nothing)?;

    faults("page-fault", FAULT)?;
    faults("exception", EXCEPTION)?;
    let passing = thread_id(PASSING)?;
    operation("create-and-delete", nothing, || create_and_delete(passing, own), nothing)?;
    // Last, since the driver uses ports from then on.
    interrupts()
}

fn unexpected(from: ThreadId, label: u64) -> Failure {
    Failure::Message { from, label }
}

/// A thread in a space of its own, active, and nothing of it left.
fn create_and_delete(id: GlobalId, own: ThreadId) -> Result<(), Failure> {
    let space = Space::create(id, own)?;
    space.configure(KERNEL_INTERFACE_PAGE, UTCB_AREA, ThreadId::ANY)?;
    let utcb = 0xbf00_0000;
    space.thread(id, own, own, utcb)?;
    control::delete(id)?;
    Ok(())
}

/// Measures an operation: does `before` and `after` around each round, which do not count. If somebody else's
/// having received something is the end of the round, it calls [`arrived`].
fn operation(
    name: &str,
    mut before: impl FnMut() -> Result<(), Failure>,
    mut round: impl FnMut() -> Result<(), Failure>,
    mut after: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let extent = Extent::published();
    let mut all = |rounds: u64, marked: bool| {
        let mut ticks = 0;
        for _ in 0..rounds {
            before()?;
            ARRIVED.store(0, Ordering::Relaxed);
            if marked {
                marks::trace_round();
            }
            let start = loops::time_stamp();
            round()?;
            let end = loops::time_stamp();
            if marked {
                marks::trace_rest();
            }
            ticks += match ARRIVED.load(Ordering::Relaxed) {
                0 => end - start,
                arrived => arrived - start,
            };
            after()?;
        }
        Ok::<_, Failure>(ticks)
    };
    all(WARM, false)?;
    let ticks = all(extent.rounds, false)?;
    if extent.traced > 0 {
        marks::trace_begin();
        all(extent.traced, true)?;
        marks::trace_end();
    }
    print(name, extent.rounds, ticks)
}

fn print(name: &str, rounds: u64, ticks: u64) -> Result<(), Failure> {
    // The frequency is in kHz.
    let microseconds = ticks.saturating_mul(1000) / raw::page().frequency().max(1);
    say(format_args!(
        "bench: operation name={name} rounds={rounds} ticks={ticks} microseconds={microseconds}"
    ))
}

/// Gives the processor back to the driver whenever it gets it, while it is told to. Otherwise it waits:
/// a thread that can always run would be in the way of others.
fn neighbour(_: u64) {
    let Ok(driver) = thread_id(DRIVER) else { return };
    while wait().is_ok() {
        while SWITCHING.load(Ordering::Relaxed) {
            thread_switch(driver.into());
        }
    }
}

/// Receives what it is sent, and gives back what it is to give back.
fn partner(_: u64) {
    let Some(window) = Region::reserve(PAGE_BITS) else { return };
    let mut buffer = [0; STRING_BYTES];
    let mut acceptance = window.window();
    if acceptance.push_buffer(&mut buffer).is_err() {
        return;
    }
    let mut to = ThreadId::NIL;
    let mut answer = Message::new(0);
    loop {
        let Ok(received) = ipc(to, ThreadId::ANY, Timeouts::NEVER, &answer, &mut acceptance) else {
            return;
        };
        arrived();
        to = received.from;
        answer = Message::new(0);
        if received.label() == GIVE_BACK {
            let _ = answer.push_mapping(window.map(0, PAGE_BITS, Flexpage::ALL, 0).granted());
        }
    }
}

/// Measures what the faulter does itself.
fn faults(name: &str, what: u64) -> Result<(), Failure> {
    let extent = Extent::published();
    let faulter: ThreadId = thread_id(FAULTER)?.into();
    let rounds = |rounds: u64, marked: bool| {
        FAULTER_TICKS.store(0, Ordering::Relaxed);
        let answer = call(faulter, &Message::of(what, &[rounds, u64::from(marked)]))?;
        match answer.word(1) {
            0 => Ok(FAULTER_TICKS.load(Ordering::Relaxed)),
            error => Err(Failure::Reported(error)),
        }
    };
    rounds(WARM, false)?;
    let ticks = rounds(extent.rounds, false)?;
    if extent.traced > 0 {
        marks::trace_begin();
        rounds(extent.traced, true)?;
        marks::trace_end();
    }
    print(name, extent.rounds, ticks)
}

fn faulter(_: u64) {
    utcb::set_exception_handler(main_thread());
    let Some(page) = Region::reserve(PAGE_BITS) else { return };
    FAULT_ADDRESS.store(page.start(), Ordering::Relaxed);
    let Ok(mut received) = wait() else { return };
    loop {
        let (rounds, marked) = (received.word(1), received.word(2) != 0);
        let error = match fault(&page, received.label(), rounds, marked) {
            Ok(()) => 0,
            Err(Failure::Ipc(error)) => error.word(),
            Err(_) => u64::MAX,
        };
        match reply_wait(received.from, &Message::of(0, &[error])) {
            Ok(next) => received = next,
            Err(_) => return,
        }
    }
}

fn fault(page: &Region, what: u64, rounds: u64, marked: bool) -> Result<(), Failure> {
    for _ in 0..rounds {
        if marked {
            marks::trace_round();
        }
        let start = loops::time_stamp();
        if what == EXCEPTION {
            loops::invalid_instruction();
        } else {
            let _ = page.read(0);
        }
        let end = loops::time_stamp();
        if marked {
            marks::trace_rest();
        }
        FAULTER_TICKS.fetch_add(end - start, Ordering::Relaxed);
        if what != EXCEPTION {
            take_back()?;
        }
    }
    Ok(())
}

/// Measures interrupts of the serial port, if this program can have them.
fn interrupts() -> Result<(), Failure> {
    let handler: ThreadId = thread_id(HANDLER)?.into();
    let skipped = |why: &str| say(format_args!("bench: skipped name=interrupt why={why}"));
    if control::associate_interrupt(COM1_LINE, handler).is_err() {
        return skipped("line-refused");
    }
    let nothing = || Ok(());
    let quiet = || {
        port::write8(COM1 + INTERRUPT_ENABLE, 0);
        let _ = port::read8(COM1 + INTERRUPT_IDENTITY);
        Ok(())
    };
    let interrupt = || {
        port::write8(COM1 + INTERRUPT_ENABLE, TRANSMITTER_EMPTY);
        Ok(())
    };
    port::write8(COM1 + MODEM_CONTROL, CONNECTED);
    // Whether there are any, before their cost is measured.
    interrupt()?;
    heliox_l4::sleep(Time::from_period(INTERRUPT_WAIT));
    quiet()?;
    let came = INTERRUPTS.load(Ordering::Relaxed) > 0;
    let result =
        if came { operation("interrupt", nothing, interrupt, quiet) } else { skipped("none-came") };
    control::deassociate_interrupt(COM1_LINE)?;
    result
}

/// Receives interrupts, and acknowledges each when it waits for the next.
fn handler(_: u64) {
    let Some(line) = GlobalId::new(COM1_LINE, 1).map(ThreadId::from) else { return };
    let Ok(_) = wait() else { return };
    loop {
        arrived();
        INTERRUPTS.fetch_add(1, Ordering::Relaxed);
        if call(line, &Message::new(0)).is_err() {
            return;
        }
    }
}
