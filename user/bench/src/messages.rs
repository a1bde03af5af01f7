//! Messages there and back, between a client and a server.
//!
//! The client is measured; it calls the server in a loop of a few instructions. The server answers in such a
//! loop, and receives from this client only (closed), or from anybody (open); then other clients have
//! been there before.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use heliox_l4::message::Message;
use heliox_l4::thread::{Stack, Thread};
use heliox_l4::{ThreadId, call, measure as loops, send, system_clock, wait};

use crate::marks;
use crate::plan::{Extent, Plan, Under};
use crate::serving::{Failure, PRIORITY, Served, report, say, start_elsewhere, start_here};

/// The server's priority where it is to have another than its clients.
const HIGH_PRIORITY: u8 = 120;
/// Label that ends the server's loop.
const END: u64 = 1;
/// Messages before those that are measured: memory is mapped then.
const WARM: u64 = 3;
/// Clients of an open server that are not measured.
const OTHERS: usize = 3;
const OTHER_ROUNDS: u64 = 5;

/// A way of sending messages.
#[derive(Clone, Copy)]
struct Way {
    same_space: bool,
    local: bool,
    open: bool,
}

const WAYS: [Way; 6] = [
    Way { same_space: false, local: false, open: false },
    Way { same_space: false, local: false, open: true },
    Way { same_space: true, local: false, open: false },
    Way { same_space: true, local: false, open: true },
    Way { same_space: true, local: true, open: false },
    Way { same_space: true, local: true, open: true },
];

/// What the threads are to do: their argument is an index into [`WAYS`], and the rest is here.
static SERVER: AtomicU64 = AtomicU64::new(0);
static FLOATING_POINT: AtomicBool = AtomicBool::new(false);
static OTHERS_DONE: AtomicU64 = AtomicU64::new(0);

static SERVER_STACK: Stack<16384> = Stack::new();
static CLIENT_STACK: Stack<16384> = Stack::new();
static OTHER_STACKS: [Stack<16384>; OTHERS] = [const { Stack::new() }; OTHERS];

/// Measures all ways.
pub(crate) fn measure(plan: &Plan, same_space: bool) -> Result<(), Failure> {
    plan.extent.publish();
    FLOATING_POINT.store(plan.under == Under::FloatingPoint, Ordering::Relaxed);
    for (index, way) in (0..).zip(&WAYS) {
        if way.same_space && !same_space {
            continue;
        }
        measure_way(plan, index, *way)?;
    }
    Ok(())
}

type Start = fn(u32, u8, &'static Stack<16384>, fn(u64), u64) -> Result<Thread, Failure>;

fn measure_way(plan: &Plan, index: u64, way: Way) -> Result<(), Failure> {
    let priority = if plan.under == Under::Priorities { HIGH_PRIORITY } else { PRIORITY };
    let start: Start = if way.same_space { start_here } else { start_elsewhere };
    let server = start(0, priority, &SERVER_STACK, server, index)?;
    SERVER.store(server.id().word(), Ordering::Relaxed);
    OTHERS_DONE.store(0, Ordering::Relaxed);
    let mut others: [Option<Thread>; OTHERS] = [const { None }; OTHERS];
    if way.open {
        for (offset, (other, stack)) in (2..).zip(others.iter_mut().zip(&OTHER_STACKS)) {
            *other = Some(start_here(offset, PRIORITY, stack, other_client, index)?);
        }
    }
    let client = start_here(1, PRIORITY, &CLIENT_STACK, client, index)?;
    let result = Served { page: None }.serve();
    for thread in others.into_iter().flatten().chain([client, server]) {
        thread.delete()?;
    }
    result
}

fn prepare() {
    if FLOATING_POINT.load(Ordering::Relaxed) {
        loops::use_floating_point();
    }
}

fn server(index: u64) {
    let Some(way) = WAYS.get(index as usize) else { return };
    prepare();
    // Whoever comes first is the client that is measured, if the server is closed.
    let Ok(first) = wait() else { return };
    if send(first.from, &Message::new(0)).is_ok() {
        // It ends with the client's last message.
        let _ = if way.open { loops::serve(way.local) } else { loops::pong(first.from, way.local) };
    }
}

/// Makes the server's acquaintance: the name by which it is to be called.
fn partner(way: Way) -> Result<ThreadId, Failure> {
    let global = ThreadId(SERVER.load(Ordering::Relaxed));
    // Within a space the answer comes from a local name.
    let local = call(global, &Message::new(0))?.from;
    Ok(if way.local { local } else { global })
}

/// A client that is not measured.
fn other_client(index: u64) {
    let Some(way) = WAYS.get(index as usize) else { return };
    let done = partner(*way).and_then(|partner| {
        loops::ping(partner, 0, OTHER_ROUNDS, way.local).map_err(Failure::from)
    });
    if done.is_ok() {
        OTHERS_DONE.fetch_add(1, Ordering::Relaxed);
    }
}

fn client(index: u64) {
    if let Some(way) = WAYS.get(index as usize) {
        report(measure_lengths(*way));
    }
}

fn measure_lengths(way: Way) -> Result<(), Failure> {
    let extent = Extent::published();
    prepare();
    let partner = partner(way)?;
    while way.open && OTHERS_DONE.load(Ordering::Relaxed) < OTHERS as u64 {
        heliox_l4::yield_now();
    }
    for words in extent.lengths() {
        let ping = |rounds| loops::ping(partner, words as usize, rounds, way.local);
        ping(WARM)?;
        let (ticks, clock) = (loops::time_stamp(), system_clock());
        ping(extent.rounds)?;
        let (ticks_after, clock_after) = (loops::time_stamp(), system_clock());
        if extent.traced > 0 {
            marks::trace_begin();
            ping(extent.traced)?;
            marks::trace_end();
        }
        say(format_args!(
            "bench: ipc call={} words={words} space={} receive={} rounds={} ticks={} microseconds={}",
            if way.local { "lipc" } else { "call" },
            if way.same_space { "same" } else { "other" },
            if way.open { "open" } else { "closed" },
            extent.rounds,
            ticks_after - ticks,
            clock_after - clock,
        ))?;
    }
    send(ThreadId(SERVER.load(Ordering::Relaxed)), &Message::new(END))?;
    Ok(())
}
