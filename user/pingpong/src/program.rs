//! The program itself.

use core::sync::atomic::{AtomicU64, Ordering};

use heliox_l4::message::Message;
use heliox_l4::protocol::kernel_label;
use heliox_l4::start::{Role, role};
use heliox_l4::thread::{
    Home, Place, SpawnError, Stack, Thread, share_page, spawn, spawn_by_root, spawn_in_second_space,
};
use heliox_l4::{
    Flexpage, GlobalId, KernelLabel, ThreadId, call, command_line, measure, println, raw,
    reply_wait, schedule, send, system_clock, utcb, wait,
};

/// Untyped words of a message, at most.
const MOST_WORDS: usize = 63;
/// Label by which ping ends the answering loop of pong, and reports to the main thread.
const END: u64 = 1;
/// The priority of ping and pong.
const PRIORITY: u8 = 100;
/// Where a second space has UTCBs and the kernel interface page, when this program is root.
const UTCB_AREA: Flexpage = Flexpage::memory(0xbf00_0000, 18, 0);
const KERNEL_INTERFACE_PAGE: Flexpage = Flexpage::memory(0xbff0_0000, 12, 0);

/// A way of sending messages.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    second_space: bool,
    local: bool,
}

const WAYS: [Way; 3] = [
    Way { name: "Ipc between spaces", second_space: true, local: false },
    Way { name: "Ipc within a space", second_space: false, local: false },
    Way { name: "Lipc within a space", second_space: false, local: true },
];

/// What was measured for a way and a length: ticks and microseconds for all rounds together.
struct Cell {
    ticks: AtomicU64,
    microseconds: AtomicU64,
}

/// All threads have this memory, also the one in a second space.
static RESULTS: [[Cell; MOST_WORDS + 1]; WAYS.len()] = [const {
    [const { Cell { ticks: AtomicU64::new(0), microseconds: AtomicU64::new(0) } }; MOST_WORDS + 1]
}; WAYS.len()];
static ROUNDS: AtomicU64 = AtomicU64::new(1000);
static STEP: AtomicU64 = AtomicU64::new(4);
static MAIN: AtomicU64 = AtomicU64::new(0);
static PONG: AtomicU64 = AtomicU64::new(0);

static PING_STACK: Stack<16384> = Stack::new();
static PONG_STACK: Stack<16384> = Stack::new();

pub(crate) fn main() -> u8 {
    let mut buffer = [0; 256];
    for word in command_line(&mut buffer).split(' ').skip(1) {
        let number = |prefix| {
            let number: Option<u64> = word.strip_prefix(prefix)?.parse().ok();
            number.filter(|number| *number > 0)
        };
        if let Some(rounds) = number("rounds=") {
            ROUNDS.store(rounds, Ordering::Relaxed);
        } else if let Some(step) = number("step=") {
            STEP.store(step, Ordering::Relaxed);
        } else {
            println!("unknown argument `{word}`: use rounds=N and step=N");
            return 1;
        }
    }
    MAIN.store(utcb::global_id().0, Ordering::Relaxed);
    for (index, way) in WAYS.iter().enumerate() {
        if let Err(reason) = run(index, way) {
            println!("{}: {reason}", way.name);
            return 1;
        }
    }
    print_table();
    0
}

/// Why a way could not be measured.
enum Failure {
    /// A thread could not be made.
    Spawn(SpawnError),
    /// There is no such thread number.
    Number(u32),
    /// Ping reported this error.
    Ipc(u64),
    /// The main thread cannot receive.
    Lost,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Spawn(error) => write!(formatter, "a thread could not be made: {error:?}"),
            Self::Number(number) => write!(formatter, "there is no thread number {number}"),
            Self::Ipc(word) => write!(formatter, "a message failed with ErrorCode {word:#x}"),
            Self::Lost => write!(formatter, "the report of the measuring thread did not come"),
        }
    }
}

/// Measures one way: makes pong and ping, serves pong's page faults if this program is root, and
/// waits for ping's report.
fn run(index: usize, way: &Way) -> Result<(), Failure> {
    let threads = if role() == Role::Root {
        make_threads(index, way)?
    } else {
        ask_for_threads(index, way).map_err(Failure::Spawn)?
    };
    let report = serve_until_report();
    for thread in threads {
        if role() == Role::Root {
            // The thread exists, and this program may.
            let _ = thread.delete();
        } else {
            thread.delete_by_root();
        }
    }
    match report? {
        0 => Ok(()),
        error => Err(Failure::Ipc(error)),
    }
}

/// Makes the threads through root.
fn ask_for_threads(index: usize, way: &Way) -> Result<[Thread; 2], SpawnError> {
    let home = if way.second_space { Home::Second } else { Home::Same };
    let argument = index as u64;
    let pong = spawn_by_root(home, PRIORITY, &PONG_STACK, pong, argument)?;
    PONG.store(pong.id().word(), Ordering::Relaxed);
    let ping = spawn_by_root(Home::Same, PRIORITY, &PING_STACK, ping, argument)?;
    Ok([pong, ping])
}

/// Makes the threads as root.
fn make_threads(index: usize, way: &Way) -> Result<[Thread; 2], Failure> {
    let me = utcb::global_id();
    let base = raw::page().user_base() + 3;
    let place = |number: u32, utcb| {
        let id = GlobalId::new(number, 1).ok_or(Failure::Number(number))?;
        Ok(Place { id, utcb, scheduler: me, pager: me })
    };
    let argument = index as u64;
    let pong = if way.second_space {
        let (page, area) = (KERNEL_INTERFACE_PAGE, UTCB_AREA);
        spawn_in_second_space(place(base, 0)?, page, area, &PONG_STACK, pong, argument)
    } else {
        spawn(place(base, 1)?, &PONG_STACK, pong, argument)
    };
    let pong = pong.map_err(Failure::Spawn)?;
    PONG.store(pong.id().word(), Ordering::Relaxed);
    let ping = spawn(place(base + 1, 2)?, &PING_STACK, ping, argument).map_err(Failure::Spawn)?;
    for thread in [&pong, &ping] {
        // Equal to each other is all that matters.
        let _ = schedule::set_priority(thread.id().into(), PRIORITY);
    }
    Ok([pong, ping])
}

/// Serves page faults of the second space until ping reports; its report.
fn serve_until_report() -> Result<u64, Failure> {
    let mut received = wait().map_err(|_| Failure::Lost)?;
    loop {
        if received.label() == END {
            return Ok(received.word(1));
        }
        let page = match kernel_label(received.label()) {
            Some((KernelLabel::PageFault, _)) => share_page(received.word(1)),
            _ => None,
        };
        let Some(page) = page else {
            println!("{:?} sends {:x?}", received.from, received.untyped());
            return Err(Failure::Lost);
        };
        let mut answer = Message::new(0);
        // An empty message has room for an item.
        let _ = answer.push_mapping(page);
        received = reply_wait(received.from, &answer).map_err(|_| Failure::Lost)?;
    }
}

/// The thread that answers.
fn pong(index: u64) {
    let Some(way) = WAYS.get(index as usize) else { return };
    // Whoever comes first is ping.
    let Ok(first) = wait() else { return };
    if send(first.from, &Message::new(0)).is_ok() {
        // It ends with ping's last message.
        let _ = measure::pong(first.from, way.local);
    }
}

/// The thread that measures.
fn ping(index: u64) {
    let error = match measure_all(index as usize) {
        Ok(()) => 0,
        Err(error) => error.word(),
    };
    let main = ThreadId(MAIN.load(Ordering::Relaxed));
    // The main thread waits for it.
    let _ = send(main, &Message::of(END, &[error]));
}

fn measure_all(index: usize) -> Result<(), heliox_l4::IpcError> {
    let (Some(way), Some(results)) = (WAYS.get(index), RESULTS.get(index)) else { return Ok(()) };
    let global = ThreadId(PONG.load(Ordering::Relaxed));
    let local = call(global, &Message::new(0))?.from;
    let partner = if way.local { local } else { global };
    let rounds = ROUNDS.load(Ordering::Relaxed);
    for (words, cell) in results.iter().enumerate().filter(|(words, _)| is_measured(*words)) {
        // Once before it counts: memory is mapped, caches are warm.
        measure::ping(partner, words, 1, way.local)?;
        let (ticks, clock) = (measure::time_stamp(), system_clock());
        measure::ping(partner, words, rounds, way.local)?;
        let (ticks_after, clock_after) = (measure::time_stamp(), system_clock());
        cell.ticks.store(ticks_after - ticks, Ordering::Relaxed);
        cell.microseconds.store(clock_after - clock, Ordering::Relaxed);
    }
    send(global, &Message::new(END))
}

fn is_measured(words: usize) -> bool {
    words == MOST_WORDS || (words as u64).is_multiple_of(STEP.load(Ordering::Relaxed))
}

fn print_table() {
    let rounds = ROUNDS.load(Ordering::Relaxed);
    println!("one way, averages of {rounds} messages there and back:");
    println!("         {:>21}   {:>21}   {:>21}", WAYS[0].name, WAYS[1].name, WAYS[2].name);
    println!("  words  {0:>10}{1:>11}   {0:>10}{1:>11}   {0:>10}{1:>11}", "ticks", "us");
    for words in (0..=MOST_WORDS).filter(|words| is_measured(*words)) {
        let [first, second, third] = [0, 1, 2].map(|index| {
            let cell = &RESULTS[index][words];
            let messages = 2 * rounds;
            let ticks = cell.ticks.load(Ordering::Relaxed) / messages;
            // In thousandths.
            let time = cell.microseconds.load(Ordering::Relaxed) * 1000 / messages;
            (ticks, time / 1000, time % 1000)
        });
        println!(
            "  {words:>5}  {:>10}{:>7}.{:03}   {:>10}{:>7}.{:03}   {:>10}{:>7}.{:03}",
            first.0, first.1, first.2, second.0, second.1, second.2, third.0, third.1, third.2
        );
    }
}
