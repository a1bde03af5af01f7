//! The first thread: runs each case in a thread of its own, watches it, and cleans up.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::Ordering;

use heliox_l4::message::{Acceptance, Message, Received};
use heliox_l4::once::SetOnce;
use heliox_l4::protocol::{TEXT_BYTES, TextWords, kernel_label};
use heliox_l4::thread::{Place, Stack, Thread, spawn};
use heliox_l4::{
    GlobalId, IpcErrorCode, ThreadId, Time, command_line, control, memory, println, raw,
    receive_with, schedule, send_with, sigma0, system_clock, utcb,
};

use crate::case::{Case, Failure};
use crate::cases::GROUPS;
use crate::stage::{FIRST_PROBE, Memory, PROBES, SPARE_NUMBERS, Stage, WORKER, case_version};

/// Labels of a case's report.
const PASSED: u64 = 0x7001;
const FAILED: u64 = 0x7002;
/// How long a case may take, in microseconds.
const LIMIT: u64 = 10_000_000;
/// The priority of the thread that runs a case; probes have less.
pub(crate) const WORKER_PRIORITY: u8 = 250;

static STACK: Stack<{ 256 << 10 }> = Stack::new();
/// Memory that cases map around.
pub(crate) static MEMORY: SetOnce<Memory> = SetOnce::new();

pub(crate) fn main() -> u8 {
    let mut buffer = [0; 256];
    let line = command_line(&mut buffer);
    let mut list = false;
    let mut wanted = "";
    for word in line.split(' ').skip(1) {
        match word.strip_prefix("only=") {
            Some(only) => wanted = only,
            None if word == "list" => list = true,
            None => {
                println!("unknown argument `{word}`: use only=GROUP, only=RULE and list");
                return 1;
            }
        }
    }
    memory::touch_image();
    match Memory::get() {
        Ok(memory) => {
            MEMORY.set(memory);
        }
        Err(error) => {
            println!("sigma0 does not give the memory for the cases: {error:?}");
            return 1;
        }
    }
    heliox_l4::start::set_panic_hook(report_panic);
    crate::cases::servers::find();
    let (mut all, mut failed, mut version) = (0, 0, 0);
    let begin = system_clock();
    for (group, cases) in GROUPS {
        let (mut group_passed, mut group_failed) = (0, 0);
        for case in cases.iter().filter(|case| case.is_of(wanted)) {
            version += 1;
            if list {
                println!("{} {}", case.rules, case.name);
            }
            let passed = run(case, version);
            group_passed += u32::from(passed);
            group_failed += u32::from(!passed);
        }
        if group_failed > 0 {
            println!("{group}: {group_passed} passed, {group_failed} FAILED");
        } else if group_passed > 0 {
            println!("{group}: {group_passed} passed");
        }
        all += group_passed + group_failed;
        failed += group_failed;
    }
    let seconds = (system_clock() - begin) / 1_000_000;
    println!("conformance: {all} cases, {failed} failed, {seconds} s");
    if all == 0 {
        println!("there is no group, rule or case `{wanted}`");
        return 1;
    }
    u8::from(failed > 0)
}

/// Runs a case; whether it passed.
fn run(case: &'static Case, version: u32) -> bool {
    let passed = match start(case, version) {
        Ok(worker) => {
            let passed = watch(case, worker.id());
            // It exists, and root may.
            let _ = worker.delete();
            passed
        }
        Err(reason) => {
            println!(
                "FAILED {} ({}): its thread cannot be made: {reason:?}",
                case.rules, case.name
            );
            false
        }
    };
    clean_up();
    passed
}

fn start(case: &'static Case, version: u32) -> Result<Thread, heliox_l4::thread::SpawnError> {
    let me = utcb::global_id();
    let number = raw::page().user_base() + WORKER;
    let id = GlobalId::new(number, case_version(version));
    let id = id.ok_or(heliox_l4::thread::SpawnError::Refused(control::Refused(2)))?;
    let place = Place { id, utcb: 1, scheduler: me, pager: me };
    // The version and the case's place in the table.
    let argument = u64::from(version) << 32 | place_of(case) as u64;
    let worker = spawn(place, &STACK, work, argument)?;
    // Until the supervisor waits, the worker cannot run.
    let highest = schedule::set_priority(id.into(), u8::MAX).is_ok();
    crate::cases::scheduling::ROOT_IS_HIGHEST.store(highest, Ordering::Relaxed);
    let _ = schedule::set_priority(id.into(), WORKER_PRIORITY);
    Ok(worker)
}

/// The number of a case among all of them.
fn place_of(case: &'static Case) -> usize {
    let all = GROUPS.iter().flat_map(|(_, cases)| cases.iter());
    all.take_while(|other| !core::ptr::eq(*other, case)).count()
}

/// Runs in a thread of its own: does the case and reports.
fn work(argument: u64) {
    let (version, place) = ((argument >> 32) as u32, argument as u32 as usize);
    let case = GROUPS.iter().flat_map(|(_, cases)| cases.iter()).nth(place);
    let (Some(case), Some(memory)) = (case, MEMORY.get()) else { return };
    utcb::set_exception_handler(raw::page().root_id());
    let mut stage = Stage::new(version, memory);
    match (case.run)(&mut stage) {
        Ok(()) => report(PASSED, format_args!("")),
        Err(Failure { what, expected, found }) => {
            report(FAILED, format_args!("{what}: expected {expected:#x}, found {found:#x}"));
        }
    }
}

/// Text that is formatted into a message.
struct Text {
    bytes: [u8; TEXT_BYTES],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            if let Some(target) = self.bytes.get_mut(self.length) {
                *target = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

fn report(label: u64, text: core::fmt::Arguments<'_>) {
    let mut formatted = Text { bytes: [0; TEXT_BYTES], length: 0 };
    // Formatting into a text never fails.
    let _ = formatted.write_fmt(text);
    let words = TextWords::new(&formatted.bytes[..formatted.length]);
    // The supervisor waits for it.
    let _ = send_with(raw::page().root_id(), Time::NEVER, &Message::of(label, words.words()));
}

fn report_panic(info: &PanicInfo<'_>) {
    if utcb::global_id() == raw::page().root_id() {
        println!("{info}");
        heliox_l4::debug::end_machine(61);
    }
    report(FAILED, format_args!("{info}"));
}

/// Waits for the report of a case; whether it passed.
fn watch(case: &Case, worker: GlobalId) -> bool {
    let deadline = system_clock() + LIMIT;
    loop {
        let left = deadline.saturating_sub(system_clock());
        let limit = Time::from_period(left);
        match receive_with(ThreadId::ANY, limit, &mut Acceptance::NOTHING.clone()) {
            Ok(message) if is_from(&message, worker) => match message.label() {
                PASSED => return true,
                FAILED => {
                    let mut bytes = [0; TEXT_BYTES];
                    let count = TextWords::read(message.untyped(), &mut bytes);
                    let text = core::str::from_utf8(&bytes[..count]).unwrap_or("?");
                    println!("FAILED {} ({}): {text}", case.rules, case.name);
                    return false;
                }
                label => {
                    let what = kernel_label(label);
                    let words = message.untyped();
                    println!(
                        "FAILED {} ({}): the case's own thread: {what:?}, words {words:x?}",
                        case.rules, case.name
                    );
                    return false;
                }
            },
            // Whatever a probe sends to the supervisor is no report.
            Ok(_) => {}
            Err(error) if error.code == IpcErrorCode::Timeout => {
                println!("FAILED {} ({}): did not end within {LIMIT} us", case.rules, case.name);
                return false;
            }
            Err(_) => {}
        }
    }
}

/// Whether a message is from a thread of the own space: its local identifier is told.
fn is_from(message: &Received, worker: GlobalId) -> bool {
    message.from == worker.into()
        || control::inspect(worker.into()).is_ok_and(|found| found.thread == message.from)
}

/// Takes apart whatever a case has made.
fn clean_up() {
    let base = raw::page().user_base();
    for number in (FIRST_PROBE..FIRST_PROBE + PROBES as u32 + SPARE_NUMBERS).map(|n| base + n) {
        if let Some(id) = GlobalId::new(number, 1) {
            // Deleting one that does not exist succeeds.
            let _ = control::delete(id);
        }
    }
    if let Some(memory) = MEMORY.get() {
        memory.take_back();
    }
    let _ = control::deassociate_interrupt(crate::cases::interrupt::LINE);
    let _ = sigma0::extended(1, 0);
}
