//! SCHEDULE: Schedule, and who runs; SWITCH: ThreadSwitch.

use core::sync::atomic::{AtomicBool, Ordering};

use heliox_l4::abi::ThreadState;
use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::kip::SystemCall;
use heliox_l4::probe::{self, Action};
use heliox_l4::raw::{self, Registers};
use heliox_l4::{GlobalId, KernelLabel, ThreadId, Time, control, measure, system_clock, utcb};

use crate::case::{Checked, at_least, at_most, cases, equal, fail, holds};
use crate::stage::{Probe, Stage, refused};
use crate::steps::{
    ANY, KEEP, MessageOutput, NEVER, NIL, RECEIVE_TIMEOUT, ZERO, action, clock, milliseconds,
    receive, schedule, send, sleep, thread_switch,
};

cases! {
    "SCHEDULE-1" => nobody,
    "SCHEDULE-2" => threads_that_do_not_run,
    "SCHEDULE-3" => threads_that_run,
    "SCHEDULE-4 SCHEDULE-5" => threads_that_wait,
    "SCHEDULE-6" => system_numbers,
    "SCHEDULE-7" => only_the_schedulers_space,
    "SCHEDULE-8" => the_scheduler_is_gone,
    "SCHEDULE-9" => times_that_are_none,
    "SCHEDULE-10 SCHEDULE-11" => priorities_above_the_callers,
    "SCHEDULE-12" => processors_that_are_none,
    "SCHEDULE-13" => failures_change_nothing,
    "SCHEDULE-14" => what_stays,
    "SCHEDULE-15" => old_times,
    "SCHEDULE-16" => what_new_threads_have,
    "SCHEDULE-17" => the_highest_priority_runs,
    "SCHEDULE-18" => equal_priorities_take_turns,
    "SCHEDULE-19" => slices_without_end,
    "SCHEDULE-20" => a_quantum_is_used_up,
    "SCHEDULE-21" => the_message_waits,
    "SCHEDULE-22" => what_schedule_says_of_it,
    "SCHEDULE-23" => without_a_scheduler,
    "SCHEDULE-24" => discarding_the_message,
    "SCHEDULE-25" => deleting_and_renaming,
    "SCHEDULE-26" => registers_stay,
    "SCHEDULE-27" => only_running_counts,
    "SCHEDULE-28" => a_new_slice,
    "SCHEDULE-29" => lowering_oneself,
    "SCHEDULE-30" => raising_another,
    "SCHEDULE-31" => threads_that_wait_can_be_changed,
    "SCHEDULE-32" => roots_priority,
    "SCHEDULE-33" => wakeups_preempt,
    "SCHEDULE-34" => time_goes_along,
}

/// Whether root could give a thread priority 255, which the supervisor tries at the beginning of
/// each case.
pub(crate) static ROOT_IS_HIGHEST: AtomicBool = AtomicBool::new(false);

/// Schedule by this program, with RAX and RDX of the answer.
fn ask(thread: ThreadId, time: u64, processor: u64, priority: u64, preemption: u64) -> (u64, u64) {
    let registers = Registers {
        rdi: thread.0,
        rdx: time,
        r8: processor,
        rsi: priority,
        r9: preemption,
        ..Registers::default()
    };
    let answer = probe::system_call(SystemCall::Schedule, registers);
    (answer.rax, answer.rdx)
}

/// Fails unless Schedule fails with an ErrorCode.
fn is_refused(what: &'static str, code: u64, thread: ThreadId, words: [u64; 4]) -> Checked {
    utcb::set_control(ControlWord::ErrorCode, 0);
    let [time, processor, priority, preemption] = words;
    let (result, _) = ask(thread, time, processor, priority, preemption);
    equal(what, 0, result)?;
    equal(what, code, utcb::error_code())
}

const NO_CHANGE: [u64; 4] = [KEEP; 4];

fn set_scheduler(thread: Probe, scheduler: ThreadId) -> Checked {
    let registers = crate::steps::thread_control(thread.id(), thread.id(), scheduler, NIL, KEEP);
    equal("another scheduler", 1, probe::system_call(SystemCall::ThreadControl, registers).rax)
}

/// A moment of the time-stamp counter so many microseconds from now.
fn stamp_in(microseconds: u64) -> u64 {
    measure::time_stamp() + microseconds * raw::page().frequency() / 1000
}

fn nobody(stage: &mut Stage) -> Checked {
    for id in [NIL, stage.spare(0).into(), ThreadId(0x1240), ThreadId(0x3_ffff_0000_0001)] {
        utcb::set_control(ControlWord::ErrorCode, 0x77);
        let (result, _) = ask(id, KEEP, KEEP, KEEP, KEEP);
        equal("the result", 1, result)?;
        equal("ErrorCode stays", 0x77, utcb::error_code())?;
    }
    Ok(())
}

fn threads_that_do_not_run(stage: &mut Stage) -> Checked {
    let id = stage.spare(0);
    refused("a thread", control::Space::create(id, stage.driver()))?;
    equal("one that is not active", 2, ask(id.into(), KEEP, KEEP, KEEP, KEEP).0)?;
    let a = stage.probe()?;
    stage.go(a, &[a.spin()])?;
    stage.let_run(1000)?;
    refused("halting it", control::stop(a.id()))?;
    equal("one that is halted", 2, ask(a.id(), KEEP, KEEP, KEEP, KEEP).0)
}

fn threads_that_run(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    equal("the caller", 3, ask(stage.driver(), KEEP, KEEP, KEEP, KEEP).0)?;
    for probe in [a, b] {
        stage.go(probe, &[probe.spin()])?;
    }
    equal("one that did not run yet", 3, ask(b.id(), KEEP, KEEP, KEEP, KEEP).0)?;
    stage.let_run(2000)?;
    for probe in [a, b] {
        equal("one that could run", 3, ask(probe.id(), KEEP, KEEP, KEEP, KEEP).0)?;
    }
    Ok(())
}

fn threads_that_wait(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.go(a, &[send(b.id(), NEVER, &[0]), receive(b.id(), NEVER)])?;
    stage.let_run(2000)?;
    equal("one that waits to send", 4, ask(a.id(), KEEP, KEEP, KEEP, KEEP).0)?;
    stage.run(b, receive(a.id(), NEVER))?;
    stage.let_run(2000)?;
    equal("one that waits to receive", 6, ask(a.id(), KEEP, KEEP, KEEP, KEEP).0)
}

fn system_numbers(_: &mut Stage) -> Checked {
    let page = raw::page();
    for number in [0, 4, page.system_base() - 1, page.system_base(), page.user_base() - 1] {
        let id = ThreadId(u64::from(number) << 32 | 1);
        is_refused("a number of the system", 2, id, NO_CHANGE)?;
    }
    Ok(())
}

fn only_the_schedulers_space(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let step = schedule(b.id(), KEEP, KEEP, KEEP, KEEP);
    let output = stage.run(a, step.with_word(-9, 0))?;
    equal("another's thread", 0, output.registers.rax)?;
    equal("ErrorCode", 1, output.error())?;
    let step = schedule(a.id(), KEEP, KEEP, 10, KEEP);
    let output = stage.run(a, step.with_word(-9, 0))?;
    equal("itself", 0, output.registers.rax)?;
    equal("ErrorCode", 1, output.error())?;
    // A thread beside the scheduler may.
    let beside = stage.probe_beside(a)?;
    set_scheduler(b, a.id())?;
    for by in [a, beside] {
        let output = stage.run(by, schedule(b.id(), KEEP, KEEP, 50, KEEP))?;
        equal("in the scheduler's space", 6, output.registers.rax)?;
    }
    // And this program may not any more, though it is root.
    is_refused("root", 1, b.id(), NO_CHANGE)
}

fn the_scheduler_is_gone(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    set_scheduler(b, a.id())?;
    stage.delete(a)?;
    is_refused("its scheduler is deleted", 5, b.id(), NO_CHANGE)?;
    set_scheduler(b, stage.driver())?;
    equal("with another one", 6, ask(b.id(), KEEP, KEEP, KEEP, KEEP).0)
}

fn times_that_are_none(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    const SOME: u64 = 0x1388;
    for word in [0x400, 0x800, 0x8000, 0x8123, 0xfffe] {
        is_refused("a slice", 5, a.id(), [word << 16 | SOME, KEEP, KEEP, KEEP])?;
        is_refused("a quantum", 5, a.id(), [SOME << 16 | word, KEEP, KEEP, KEEP])?;
    }
    // Both without end.
    equal("never", 6, ask(a.id(), 0, KEEP, KEEP, KEEP).0)
}

fn priorities_above_the_callers(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let own = u64::from(crate::supervisor::WORKER_PRIORITY);
    is_refused("a priority above the caller's", 5, a.id(), [KEEP, KEEP, own + 1, KEEP])?;
    is_refused("a sensitive one above", 5, a.id(), [KEEP, KEEP, KEEP, (own + 1) << 16])?;
    equal("the caller's own", 6, ask(a.id(), KEEP, KEEP, own, KEEP).0)?;
    equal("as the sensitive one", 6, ask(a.id(), KEEP, KEEP, KEEP, own << 16).0)?;
    equal("the lowest", 6, ask(a.id(), KEEP, KEEP, 0, 0).0)
}

fn processors_that_are_none(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let count = (raw::page().word(0x198) & 0xffff) + 1;
    is_refused("a processor that there is not", 5, a.id(), [KEEP, count, KEEP, KEEP])?;
    is_refused("another one", 5, a.id(), [KEEP, 0xfffe, KEEP, KEEP])?;
    equal("the first", 6, ask(a.id(), KEEP, 0, KEEP, KEEP).0)
}

fn failures_change_nothing(stage: &mut Stage) -> Checked {
    let (a, low) = (stage.probe_at(90)?, stage.probe_at(80)?);
    let time = 0x1388_u64 << 16 | 0x1388;
    for words in [
        [time, KEEP, 255, KEEP],
        [time, KEEP, 10, 251 << 16],
        [time, 0xfffe, 10, KEEP],
        [0x400 << 16 | 0x1388, KEEP, 10, KEEP],
    ] {
        is_refused("one word that is wrong", 5, a.id(), words)?;
    }
    equal("the total quantum is as it was", 0, ask(a.id(), KEEP, KEEP, KEEP, KEEP).1 & 0xffff)?;
    // And the priority: still above the other.
    stage.go(low, &[clock()])?;
    stage.go(a, &[clock()])?;
    stage.finish(a)?;
    stage.finish(low)?;
    let (first, second) = (a.memory().output(0).after, low.memory().output(0).before);
    holds("the priority is as it was", first < second)
}

fn what_stays(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let slice = Time::from_period(7_000);
    let total = Time::from_period(900_000);
    stage.set_time(a, slice, total)?;
    let look = || ask(a.id(), KEEP, KEEP, KEEP, KEEP).1;
    let lengths = |word: u64| {
        let length = |time: u64| Time(time as u16).period().unwrap_or(u64::MAX);
        (length(word >> 16 & 0xffff), length(word & 0xffff))
    };
    equal("the slice that was set", 7_000, lengths(look()).0)?;
    let (_, left) = lengths(look());
    holds("the quantum that was set", (890_000..=901_000).contains(&left))?;
    // One half of the time control alone.
    ask(a.id(), 0xffff_u64 << 16 | u64::from(Time::from_period(50_000).0), KEEP, KEEP, KEEP);
    equal("the slice stays", 7_000, lengths(look()).0)?;
    holds("the quantum is new", lengths(look()).1 <= 51_000)?;
    ask(a.id(), u64::from(Time::from_period(3_000).0) << 16 | 0xffff, KEEP, KEEP, KEEP);
    equal("the slice is new", 3_000, lengths(look()).0)?;
    holds("the quantum stays", lengths(look()).1 <= 51_000)?;
    // Fields of the preemption control alone are accepted; so is everything at once.
    for preemption in [0xff_0005, 0x05_ffff, KEEP] {
        equal("preemption control", 6, ask(a.id(), KEEP, KEEP, KEEP, preemption).0)?;
    }
    Ok(())
}

fn old_times(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    stage.set_time(a, NEVER, NEVER)?;
    equal("both without end", 0, ask(a.id(), KEEP, KEEP, KEEP, KEEP).1)?;
    stage.set_time(a, milliseconds(50), milliseconds(500))?;
    stage.go(a, &[action(Action::SpinUntil, a.scratch_address(0), stamp_in(20_000), 0)])?;
    stage.finish(a)?;
    let word = ask(a.id(), KEEP, KEEP, KEEP, KEEP).1;
    let length = |time: u64| Time(time as u16).period().unwrap_or(u64::MAX);
    let (slice, total) = (length(word >> 16 & 0xffff), length(word & 0xffff));
    at_most("what is left of the slice", 50_000, slice)?;
    at_most("what is left of the quantum", 485_000, total)?;
    at_least("what is left of the quantum", 1, total)?;
    // Used up.
    stage.set_time(a, milliseconds(10), milliseconds(5))?;
    stage.go(a, &[a.spin()])?;
    exhausted(stage, a)?;
    equal("nothing left", 0x400, ask(a.id(), KEEP, KEEP, KEEP, KEEP).1 & 0xffff)
}

/// Waits for the message that a quantum is used up: the clock in it.
fn exhausted(stage: &mut Stage, probe: Probe) -> Checked<u64> {
    let event = stage.event("a message that the quantum is used up", probe)?;
    match event.kind() {
        Some((KernelLabel::Preemption, 0)) => {}
        _ => return fail("that message, not the tag", event.words.tag().0),
    }
    equal("the tag", 0xffff_ffff_ffd0_0002, event.words.tag().0)?;
    equal("the second word", 0, event.words.word(2))?;
    Ok(event.words.word(1))
}

fn what_new_threads_have(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    equal("no end of the quantum", 0, ask(a.id(), KEEP, KEEP, KEEP, KEEP).1 & 0xffff)?;
    // Priority 100: between 99 and 101.
    let (low, high) = (stage.probe_at(99)?, stage.probe_at(101)?);
    for probe in [low, a, high] {
        stage.go(probe, &[clock()])?;
    }
    for probe in [low, a, high] {
        stage.finish(probe)?;
    }
    let stamp = |probe: Probe| probe.memory().output(0).after;
    holds("101 runs first", stamp(high) < stamp(a))?;
    holds("99 runs last", stamp(a) < stamp(low))?;
    // A slice of 10 ms: as long one waits for the other.
    let until = stamp_in(80_000);
    for probe in [a, b] {
        stage.go(probe, &[action(Action::SpinUntil, probe.scratch_address(0), until, 0)])?;
    }
    let gap = stage.finish(a)?.registers.rax;
    let gap = gap.max(stage.finish(b)?.registers.rax) * 1000 / raw::page().frequency();
    at_least("how long one waits for the other", 9_500, gap)?;
    at_most("how long one waits for the other", 60_000, gap)
}

fn the_highest_priority_runs(stage: &mut Stage) -> Checked {
    let (low, high) = (stage.probe_at(50)?, stage.probe_at(60)?);
    for probe in [low, high] {
        stage.go(probe, &[probe.spin()])?;
    }
    stage.let_run(50_000)?;
    holds("the higher one runs", high.count(0) > 0)?;
    equal("the lower one does not", 0, low.count(0))?;
    high.stop_spinning();
    stage.finish(high)?;
    stage.let_run(5_000)?;
    holds("now the lower one runs", low.count(0) > 0)
}

fn equal_priorities_take_turns(stage: &mut Stage) -> Checked {
    let probes = [stage.probe()?, stage.probe()?, stage.probe()?];
    for probe in probes {
        stage.set_time(probe, milliseconds(2), NEVER)?;
        stage.go(probe, &[probe.spin()])?;
    }
    for _ in 0..3 {
        let before = probes.map(|probe| probe.count(0));
        stage.let_run(40_000)?;
        for (probe, before) in probes.into_iter().zip(before) {
            holds("each of them runs", probe.count(0) > before)?;
        }
    }
    Ok(())
}

fn slices_without_end(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.set_time(a, NEVER, NEVER)?;
    stage.go(a, &[a.spin()])?;
    stage.go(b, &[b.spin()])?;
    stage.let_run(60_000)?;
    holds("it runs", a.count(0) > 0)?;
    equal("the other one does not", 0, b.count(0))?;
    a.stop_spinning();
    stage.finish(a)?;
    stage.let_run(5_000)?;
    holds("when it gives way, the other one does", b.count(0) > 0)
}

fn a_quantum_is_used_up(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    stage.set_time(a, milliseconds(5), milliseconds(20))?;
    let begin = system_clock();
    stage.go(a, &[a.spin()])?;
    let at = exhausted(stage, a)?;
    at_least("the clock in the message", begin + 19_000, at)?;
    at_most("the clock in the message", system_clock(), at)?;
    let count = a.count(0);
    stage.let_run(30_000)?;
    equal("it does not run", count, a.count(0))?;
    holds("and there is no other message", stage.is_silent(a)?)?;
    // Another quantum, and then one without end.
    stage.set_time(a, milliseconds(5), milliseconds(20))?;
    exhausted(stage, a)?;
    holds("it ran again", a.count(0) > count)?;
    stage.set_time(a, milliseconds(5), NEVER)?;
    a.stop_spinning();
    stage.finish(a).map(|_| ())
}

/// A spinning probe with little quantum, whose scheduler is another probe; when it is used up.
fn exhausted_for_another(stage: &mut Stage) -> Checked<(Probe, Probe)> {
    let (a, scheduler) = (stage.probe()?, stage.probe()?);
    stage.set_time(a, milliseconds(5), milliseconds(10))?;
    set_scheduler(a, scheduler.id())?;
    stage.go(a, &[a.spin()])?;
    stage.let_run(30_000)?;
    Ok((a, scheduler))
}

fn the_message_waits(stage: &mut Stage) -> Checked {
    let (a, scheduler) = exhausted_for_another(stage)?;
    let output = stage.run(scheduler, receive(a.id(), ZERO))?.succeeded("the message")?;
    equal("the tag", 0xffff_ffff_ffd0_0002, output.registers.r9)?;
    equal("the sender", a.id().0, output.from().0)?;
    let count = a.count(0);
    // No answer, but another quantum.
    let time = u64::from(milliseconds(5).0) << 16 | u64::from(NEVER.0);
    let output = stage.run(scheduler, schedule(a.id(), time, KEEP, KEEP, KEEP))?;
    equal("Schedule by its scheduler", 3, output.registers.rax)?;
    stage.let_run(5_000)?;
    holds("it runs", a.count(0) > count)
}

fn what_schedule_says_of_it(stage: &mut Stage) -> Checked {
    let (a, scheduler) = exhausted_for_another(stage)?;
    let output = stage.run(scheduler, schedule(a.id(), KEEP, KEEP, KEEP, KEEP))?;
    equal("while the message waits", 3, output.registers.rax)?;
    stage.run(scheduler, receive(a.id(), ZERO))?.succeeded("the message")?;
    let output = stage.run(scheduler, schedule(a.id(), KEEP, KEEP, KEEP, KEEP))?;
    equal("afterwards", 3, output.registers.rax)
}

fn without_a_scheduler(stage: &mut Stage) -> Checked {
    let (a, scheduler) = (stage.probe()?, stage.probe()?);
    stage.set_time(a, milliseconds(5), milliseconds(10))?;
    set_scheduler(a, scheduler.id())?;
    stage.delete(scheduler)?;
    stage.go(a, &[a.spin()])?;
    stage.let_run(30_000)?;
    let found = refused("looking at it", control::inspect(a.id()))?;
    equal("it is halted", 1, found.control.0 & 1)?;
    let count = a.count(0);
    stage.let_run(10_000)?;
    equal("it does not run", count, a.count(0))
}

fn discarding_the_message(stage: &mut Stage) -> Checked {
    let (a, scheduler) = exhausted_for_another(stage)?;
    refused("aborting its send", control::abort_ipc(a.id(), true, false))?;
    let output = stage.run(scheduler, receive(a.id(), milliseconds(5)))?;
    output.failed("the message is gone", RECEIVE_TIMEOUT)?;
    let count = a.count(0);
    refused("halting it", control::stop(a.id()))?;
    refused("resuming it", control::resume(a.id()))?;
    stage.let_run(10_000)?;
    equal("it does not run", count, a.count(0))?;
    let time = u64::from(milliseconds(5).0) << 16 | u64::from(NEVER.0);
    let output = stage.run(scheduler, schedule(a.id(), time, KEEP, KEEP, KEEP))?;
    at_least("Schedule by its scheduler", 1, output.registers.rax)?;
    stage.let_run(5_000)?;
    holds("now it does", a.count(0) > count)
}

fn deleting_and_renaming(stage: &mut Stage) -> Checked {
    for takes in [false, true] {
        for rename in [false, true] {
            let (a, scheduler) = exhausted_for_another(stage)?;
            if takes {
                stage.run(scheduler, receive(a.id(), ZERO))?.succeeded("the message")?;
            }
            if rename {
                let id = GlobalId::new(a.global().number(), a.global().version() + 64);
                let new = id.map_or(NIL, ThreadId::from);
                let registers = crate::steps::thread_control(new, a.id(), NIL, NIL, KEEP);
                let result = probe::system_call(SystemCall::ThreadControl, registers).rax;
                equal("renaming it", 1, result)?;
            } else {
                stage.delete(a)?;
            }
            let output = stage.run(scheduler, receive(ANY, ZERO))?;
            output.failed("nothing of it is left", RECEIVE_TIMEOUT)?;
            if rename {
                let id = GlobalId::new(a.global().number(), 1).map_or(NIL, ThreadId::from);
                let registers = crate::steps::thread_control(id, NIL, NIL, NIL, KEEP);
                let result = probe::system_call(SystemCall::ThreadControl, registers).rax;
                equal("deleting it", 1, result)?;
            }
            stage.delete(scheduler)?;
        }
    }
    Ok(())
}

fn registers_stay(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    stage.set_time(a, milliseconds(5), milliseconds(10))?;
    let mut step = a.spin();
    for word in 0..64 {
        step = step.with_word(word, 0x9000 + word as u64);
    }
    step.registers_mut().r15 = 0x1515;
    step.registers_mut().rbx = 0xb0b0;
    stage.go(a, &[step.with_word(-9, 0x55)])?;
    for _ in 0..3 {
        exhausted(stage, a)?;
        stage.set_time(a, milliseconds(5), milliseconds(10))?;
    }
    exhausted(stage, a)?;
    a.stop_spinning();
    stage.set_time(a, milliseconds(5), NEVER)?;
    let output = stage.finish(a)?;
    equal("R15", 0x1515, output.registers.r15)?;
    equal("RBX", 0xb0b0, output.registers.rbx)?;
    equal("ErrorCode", 0x55, output.word(-9))?;
    for word in 0..64 {
        equal("a message register", 0x9000 + word as u64, output.word(word))?;
    }
    Ok(())
}

fn only_running_counts(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    stage.set_time(a, milliseconds(5), milliseconds(30))?;
    stage.run(a, sleep(a.id(), milliseconds(60)))?.failed("a long sleep", RECEIVE_TIMEOUT)?;
    let left = ask(a.id(), KEEP, KEEP, KEEP, KEEP).1 & 0xffff;
    at_least("what is left", 20_000, Time(left as u16).period().unwrap_or(0))?;
    holds("no message", stage.is_silent(a)?)
}

fn a_new_slice(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let slice = || Time((ask(a.id(), KEEP, KEEP, KEEP, KEEP).1 >> 16) as u16).period();
    stage.set_time(a, milliseconds(40), NEVER)?;
    let spin = action(Action::SpinUntil, a.scratch_address(0), stamp_in(15_000), 0);
    // Asleep, it leaves its slice to nobody.
    stage.go(a, &[spin, sleep(a.id(), milliseconds(1))])?;
    stage.finish(a)?;
    at_most("what is left of the slice", 30_000, slice().unwrap_or(u64::MAX))?;
    // A quantum alone.
    ask(a.id(), 0xffff << 16 | u64::from(milliseconds(500).0), KEEP, KEEP, KEEP);
    at_least("what is left of a new one", 39_000, slice().unwrap_or(0))
}

fn time_goes_along(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for probe in [a, b] {
        stage.set_time(probe, milliseconds(40), NEVER)?;
    }
    let answer = send(a.id(), NEVER, &[0]);
    stage.go(b, &[receive(a.id(), NEVER), sleep(b.id(), milliseconds(1)), answer])?;
    stage.block_receiving(b)?;
    let spin = action(Action::SpinUntil, a.scratch_address(0), stamp_in(15_000), 0);
    stage.go(a, &[spin, crate::steps::ipc(b.id(), b.id(), heliox_l4::Timeouts::NEVER, &[0])])?;
    stage.finish(a)?;
    stage.finish(b)?;
    let left = |probe: Probe| {
        let time = Time((ask(probe.id(), KEEP, KEEP, KEEP, KEEP).1 >> 16) as u16);
        time.period().unwrap_or(u64::MAX)
    };
    at_most("what both have left", 66_000, left(a).saturating_add(left(b)))
}

fn lowering_oneself(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let other = stage.probe_at(80)?;
    set_scheduler(a, a.id())?;
    stage.go(other, &[clock()])?;
    stage.go(a, &[schedule(a.id(), KEEP, KEEP, 50, KEEP)])?;
    stage.finish(a)?;
    stage.finish(other)?;
    let (others, own) = (other.memory().output(0).after, a.memory().output(0).after);
    holds("the other one runs before the call returns", others < own)
}

fn raising_another(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let other = stage.probe_at(80)?;
    set_scheduler(other, a.id())?;
    stage.go(other, &[clock()])?;
    stage.go(
        a,
        &[
            schedule(other.id(), KEEP, KEEP, 101, KEEP).with_word(-9, 0),
            schedule(other.id(), KEEP, KEEP, 100, KEEP),
        ],
    )?;
    stage.finish(a)?;
    stage.finish(other)?;
    let outputs = [0, 1].map(|index| a.memory().output(index));
    equal("above the caller", 0, outputs[0].registers.rax)?;
    equal("ErrorCode", 5, outputs[0].error())?;
    equal("to the caller's", 3, outputs[1].registers.rax)?;
    holds("the caller goes on", outputs[1].after < other.memory().output(0).before)
}

fn threads_that_wait_can_be_changed(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for probe in [a, b] {
        stage.go(probe, &[receive(probe.id(), milliseconds(10)), clock()])?;
        stage.block_receiving(probe)?;
    }
    // When both wake up, the second one is more important.
    stage.set_priority(b, 120)?;
    stage.set_time(a, milliseconds(3), NEVER)?;
    stage.require_state("it waits as before", a, ThreadState::Waiting)?;
    let busy = stage.probe_at(200)?;
    stage.go(busy, &[action(Action::SpinUntil, busy.scratch_address(0), stamp_in(40_000), 0)])?;
    for probe in [a, b, busy] {
        stage.finish(probe)?;
    }
    let stamp = |probe: Probe| probe.memory().output(1).before;
    holds("it runs first", stamp(b) < stamp(a))
}

fn roots_priority(_: &mut Stage) -> Checked {
    holds("root gives a thread 255", ROOT_IS_HIGHEST.load(Ordering::Relaxed))
}

fn wakeups_preempt(stage: &mut Stage) -> Checked {
    let (low, high) = (stage.probe()?, stage.probe_at(110)?);
    let until = stamp_in(60_000);
    stage.go(high, &[sleep(high.id(), milliseconds(10)), clock()])?;
    stage.go(low, &[action(Action::SpinUntil, low.scratch_address(0), until, 0)])?;
    stage.finish(high)?;
    stage.finish(low)?;
    let (woken, done) = (high.memory().output(1).after, low.memory().output(0).after);
    holds("by a timeout", woken < done && woken < until)
}

/// SWITCH.
pub(crate) mod switch {
    use super::*;

    cases! {
        "SWITCH-1" => to_nobody,
        "SWITCH-2" => to_somebody,
        "SWITCH-3" => to_oneself,
        "SWITCH-4" => to_somebody_who_cannot_run,
        "SWITCH-5" => until_somebody_more_important_wakes_up,
    }

    fn to_nobody(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        stage.go(a, &[thread_switch(NIL), clock()])?;
        stage.go(b, &[clock()])?;
        stage.finish(a)?;
        stage.finish(b)?;
        let (others, own) = (b.memory().output(0).after, a.memory().output(1).before);
        holds("another one of the same priority runs", others < own)
    }

    fn to_somebody(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        let low = stage.probe_at(50)?;
        for to in [low, b] {
            let third = if to.slot == low.slot { b } else { low };
            stage.go(a, &[thread_switch(to.id()), clock()])?;
            stage.go(third, &[clock()])?;
            stage.go(to, &[clock()])?;
            for probe in [a, b, low] {
                stage.finish(probe)?;
            }
            let stamp = |probe: Probe| probe.memory().output(0).after;
            holds("it runs before the caller", stamp(to) < a.memory().output(1).before)?;
            holds("it runs before others", stamp(to) < third.memory().output(0).before)?;
        }
        Ok(())
    }

    fn to_oneself(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        for name in [a.id(), a.local()] {
            stage.run(a, thread_switch(name))?;
        }
        Ok(())
    }

    fn to_somebody_who_cannot_run(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        for to in [b.id(), stage.spare(0).into(), ANY, ThreadId(4 << 32 | 1), ThreadId(0x1240)] {
            stage.run(a, thread_switch(to))?;
        }
        Ok(())
    }

    fn until_somebody_more_important_wakes_up(stage: &mut Stage) -> Checked {
        let (a, low, high) = (stage.probe()?, stage.probe_at(50)?, stage.probe_at(150)?);
        stage.set_time(a, milliseconds(1000), NEVER)?;
        stage.set_time(low, milliseconds(1000), NEVER)?;
        stage.go(high, &[sleep(high.id(), milliseconds(10)), clock()])?;
        stage.go(a, &[thread_switch(low.id()), clock()])?;
        stage.go(low, &[low.spin()])?;
        stage.finish(high)?;
        stage.finish(a)?;
        let (woken, own) = (high.memory().output(1).after, a.memory().output(1).before);
        holds("it ran", low.count(0) > 0)?;
        holds("until the other woke up", woken < own)?;
        let count = low.count(0);
        stage.let_run(20_000)?;
        holds("and runs again when all have done", low.count(0) > count)
    }
}
