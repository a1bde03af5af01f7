//! PREEMPTION: preemption control.
//!
//! In each case a *worker* of priority 100 computes, and a *waker* of priority 110 sleeps for 5 ms
//! and then wants to run. How long the waker really took tells when the worker was preempted.

use heliox_l4::abi::ThreadState;
use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::probe::{Action, Step};
use heliox_l4::{KernelLabel, ThreadId, raw, system_clock};

use crate::case::{Checked, at_least, at_most, cases, equal, fail, holds};
use crate::stage::{Event, Probe, Stage};
use crate::steps::{
    ANY, MessageOutput, NEVER, NIL, RECEIVE_TIMEOUT, ZERO, action, clock, milliseconds, receive,
    sleep, thread_switch,
};

cases! {
    "PREEMPTION-1" => a_preemption_is_held_back,
    "PREEMPTION-2" => the_longest_delay,
    "PREEMPTION-3" => the_exception_at_the_limit,
    "PREEMPTION-4" => the_exception_without_handler,
    "PREEMPTION-5" => the_message_of_a_preemption,
    "PREEMPTION-6" => the_message_is_dropped,
    "PREEMPTION-7" => the_message_without_handler,
    "PREEMPTION-8" => above_the_sensitive_priority,
    "PREEMPTION-9" => no_delay_and_a_signal,
    "PREEMPTION-10" => no_delay_and_no_signal,
    "PREEMPTION-11" => the_end_of_a_slice,
    "PREEMPTION-12" => giving_way,
    "PREEMPTION-13" => clearing_delay,
    "PREEMPTION-14" => clearing_signal,
    "PREEMPTION-15" => waiting_is_not_preempted,
}

const FLAGS: isize = ControlWord::Flags as isize;
const HANDLER: isize = ControlWord::ExceptionHandler as isize;
const SIGNAL: u64 = 0x20;
const DELAY: u64 = 0x40;
const PENDING: u64 = 0x80;

/// Worker and waker. The worker's slice has no end; its sensitive priority and longest delay in
/// microseconds are given.
fn two(stage: &mut Stage, sensitive: u64, delay: u64) -> Checked<(Probe, Probe)> {
    let (worker, waker) = (stage.probe()?, stage.probe_at(110)?);
    stage.set_time(worker, NEVER, NEVER)?;
    stage.set_preemption(worker, sensitive, delay)?;
    Ok((worker, waker))
}

/// A step that computes for so many microseconds.
fn compute(probe: Probe, microseconds: u64) -> Step {
    let ticks = microseconds * raw::page().frequency() / 1000;
    action(Action::SpinFor, probe.scratch_address(0), ticks, 0)
}

/// Has the waker sleep for 5 ms.
fn wake(stage: &mut Stage, waker: Probe) -> Checked {
    stage.go(waker, &[clock(), sleep(waker.id(), milliseconds(5)), clock()])
}

/// How long the waker took, in microseconds.
fn took(waker: Probe) -> u64 {
    let [before, after] = [0, 2].map(|index| waker.memory().output(index).registers.rax);
    after - before
}

/// The next event of a probe, which must be the message of a preemption: the clock in it.
fn preempted(stage: &mut Stage, probe: Probe) -> Checked<u64> {
    let event = stage.event("the message of a preemption", probe)?;
    equal("its tag", 0xffff_ffff_ffd0_0002, event.words.tag().0)?;
    equal("its second word", 0, event.words.word(2))?;
    Ok(event.words.word(1))
}

/// The next event of a probe, which must be a preemption exception.
fn exception(stage: &mut Stage, probe: Probe) -> Checked<Event> {
    let event = stage.event("a preemption exception", probe)?;
    match event.kind() {
        Some((KernelLabel::PreemptionException, 0)) => Ok(event),
        _ => fail("a preemption exception, not the tag", event.words.tag().0),
    }
}

fn a_preemption_is_held_back(stage: &mut Stage) -> Checked {
    let (worker, waker) = two(stage, 200, 60_000)?;
    wake(stage, waker)?;
    stage.go(worker, &[compute(worker, 30_000).with_word(FLAGS, DELAY)])?;
    let output = stage.finish(worker)?;
    equal("delay and pending", DELAY | PENDING, output.word(FLAGS) & 0xff)?;
    stage.finish(waker)?;
    at_least("the waker waits until the worker has done", 25_000, took(waker))
}

fn the_longest_delay(stage: &mut Stage) -> Checked {
    let (worker, waker) = two(stage, 200, 20_000)?;
    wake(stage, waker)?;
    stage.go(worker, &[compute(worker, 80_000).with_word(FLAGS, DELAY)])?;
    stage.finish(waker)?;
    at_least("the waker waits for the longest delay", 24_000, took(waker))?;
    at_most("and no longer", 60_000, took(waker))?;
    let output = stage.finish(worker)?;
    equal("delay and pending are clear", 0, output.word(FLAGS) & 0xff)?;
    holds("no message", stage.is_silent(worker)?)?;
    // The end of a slice comes before it.
    let (worker, waker) = two(stage, 200, 60_000)?;
    stage.set_time(worker, milliseconds(15), NEVER)?;
    wake(stage, waker)?;
    stage.go(worker, &[compute(worker, 80_000).with_word(FLAGS, DELAY)])?;
    stage.finish(waker)?;
    at_most("the waker waits for the slice", 45_000, took(waker))
}

fn the_exception_at_the_limit(stage: &mut Stage) -> Checked {
    let (worker, waker) = two(stage, 200, 10_000)?;
    wake(stage, waker)?;
    let mut step = compute(worker, 60_000).with_word(FLAGS, DELAY | SIGNAL);
    step.registers_mut().r15 = 0x1515;
    stage.go(worker, &[step])?;
    let event = exception(stage, worker)?;
    equal("its tag", 0xffff_ffff_ffc0_0014, event.words.tag().0)?;
    equal("its number", 0, event.words.word(19))?;
    equal("R15 in it", 0x1515, event.words.word(7))?;
    stage.require_state("the worker waits for the answer", worker, ThreadState::Running)?;
    stage.finish(waker)?;
    at_least("the waker waited for the limit", 14_000, took(waker))?;
    let mut words = [0; 20];
    for (index, word) in words.iter_mut().enumerate() {
        *word = event.words.word(index + 1);
    }
    // R15 is the seventh word.
    words[6] = 0x5151;
    stage.tell(worker, &heliox_l4::message::Message::of(event.words.label(), &words))?;
    let output = stage.finish(worker)?;
    equal("the answer loads registers", 0x5151, output.registers.r15)?;
    equal("delay and pending are clear", SIGNAL, output.word(FLAGS) & 0xff)
}

fn the_exception_without_handler(stage: &mut Stage) -> Checked {
    let (worker, waker) = two(stage, 200, 5_000)?;
    wake(stage, waker)?;
    let step = compute(worker, 500_000).with_word(FLAGS, DELAY | SIGNAL).with_word(HANDLER, 0);
    stage.go(worker, &[step])?;
    stage.finish(waker)?;
    stage.let_run(20_000)?;
    stage.require_state("it halts", worker, ThreadState::Inactive)
}

fn the_message_of_a_preemption(stage: &mut Stage) -> Checked {
    let (worker, waker) = two(stage, 100, 0)?;
    let begin = system_clock();
    wake(stage, waker)?;
    stage.go(worker, &[compute(worker, 30_000).with_word(FLAGS, SIGNAL)])?;
    stage.finish(waker)?;
    at_most("the waker does not wait", 25_000, took(waker))?;
    let at = preempted(stage, worker)?;
    at_least("the clock at the preemption", begin + 5_000, at)?;
    let woken = waker.memory().output(2).registers.rax;
    at_most("the clock at the preemption", woken, at)?;
    // No answer is needed.
    let output = stage.finish(worker)?;
    equal("signal stays", SIGNAL, output.word(FLAGS) & 0xff)
}

fn the_message_is_dropped(stage: &mut Stage) -> Checked {
    let (worker, waker) = two(stage, 100, 0)?;
    let handler = stage.probe()?;
    wake(stage, waker)?;
    let step = compute(worker, 30_000).with_word(FLAGS, SIGNAL);
    stage.go(worker, &[step.with_word(HANDLER, handler.id().0)])?;
    stage.finish(waker)?;
    stage.finish(worker)?;
    let output = stage.run(handler, receive(ANY, ZERO))?;
    output.failed("the handler has nothing", RECEIVE_TIMEOUT)
}

fn the_message_without_handler(stage: &mut Stage) -> Checked {
    for handler in [NIL, stage.spare(0).into(), ThreadId(20 << 32 | 1)] {
        let (worker, waker) = two(stage, 100, 0)?;
        wake(stage, waker)?;
        let step = compute(worker, 20_000).with_word(FLAGS, SIGNAL).with_word(HANDLER, handler.0);
        stage.go(worker, &[step])?;
        stage.finish(waker)?;
        stage.finish(worker)?;
        holds("no message", stage.is_silent(worker)?)?;
    }
    Ok(())
}

fn above_the_sensitive_priority(stage: &mut Stage) -> Checked {
    for signal in [0, SIGNAL] {
        let (worker, waker) = two(stage, 105, 60_000)?;
        wake(stage, waker)?;
        stage.go(worker, &[compute(worker, 40_000).with_word(FLAGS, DELAY | signal)])?;
        stage.finish(waker)?;
        at_most("the waker does not wait", 30_000, took(waker))?;
        if signal != 0 {
            preempted(stage, worker)?;
        }
        stage.finish(worker)?;
        holds("no other message", stage.is_silent(worker)?)?;
    }
    Ok(())
}

fn no_delay_and_a_signal(stage: &mut Stage) -> Checked {
    let (worker, waker) = two(stage, 200, 0)?;
    wake(stage, waker)?;
    stage.go(worker, &[compute(worker, 40_000).with_word(FLAGS, DELAY | SIGNAL)])?;
    let event = exception(stage, worker)?;
    equal("its tag", 0xffff_ffff_ffc0_0014, event.words.tag().0)?;
    stage.finish(waker)?;
    at_most("the waker does not wait", 30_000, took(waker))?;
    let mut words = [0; 20];
    for (index, word) in words.iter_mut().enumerate() {
        *word = event.words.word(index + 1);
    }
    stage.tell(worker, &heliox_l4::message::Message::of(event.words.label(), &words))?;
    let output = stage.finish(worker)?;
    equal("pending is clear", 0, output.word(FLAGS) & PENDING)
}

fn no_delay_and_no_signal(stage: &mut Stage) -> Checked {
    let (worker, waker) = two(stage, 200, 0)?;
    wake(stage, waker)?;
    stage.go(worker, &[compute(worker, 40_000).with_word(FLAGS, DELAY)])?;
    stage.finish(waker)?;
    at_most("the waker does not wait", 30_000, took(waker))?;
    let output = stage.finish(worker)?;
    equal("pending is clear", 0, output.word(FLAGS) & PENDING)?;
    holds("no message", stage.is_silent(worker)?)
}

fn the_end_of_a_slice(stage: &mut Stage) -> Checked {
    let worker = stage.probe()?;
    stage.set_time(worker, milliseconds(5), NEVER)?;
    // The slice after the switch begins with signal set.
    stage.go(worker, &[thread_switch(NIL).with_word(FLAGS, SIGNAL), worker.spin()])?;
    let mut last = system_clock();
    for _ in 0..4 {
        let at = preempted(stage, worker)?;
        at_least("the clock goes on", last, at)?;
        last = at;
    }
    worker.stop_spinning();
    stage.finish(worker).map(|_| ())
}

fn giving_way(stage: &mut Stage) -> Checked {
    let (worker, waker) = two(stage, 200, 65_000)?;
    wake(stage, waker)?;
    let steps = [
        compute(worker, 20_000).with_word(FLAGS, DELAY | SIGNAL),
        thread_switch(NIL),
        compute(worker, 20_000),
    ];
    stage.go(worker, &steps)?;
    stage.finish(waker)?;
    at_least("the waker waits", 15_000, took(waker))?;
    at_most("until the worker gives way", 38_000, took(waker))?;
    stage.finish(worker)?;
    holds("no message", stage.is_silent(worker)?)
}

/// The worker sets its flags to `flags` while a preemption is pending; the waker must run at the
/// old limit.
fn changing_flags(stage: &mut Stage, flags: u64) -> Checked<Probe> {
    let (worker, waker) = two(stage, 200, 40_000)?;
    wake(stage, waker)?;
    let steps = [
        compute(worker, 15_000).with_word(FLAGS, DELAY | SIGNAL),
        compute(worker, 75_000).with_word(FLAGS, flags),
    ];
    stage.go(worker, &steps)?;
    stage.finish(waker)?;
    at_least("the waker waits for the old limit", 43_000, took(waker))?;
    at_most("and no longer", 80_000, took(waker))?;
    Ok(worker)
}

fn clearing_delay(stage: &mut Stage) -> Checked {
    let worker = changing_flags(stage, SIGNAL)?;
    preempted(stage, worker)?;
    stage.finish(worker).map(|_| ())
}

fn clearing_signal(stage: &mut Stage) -> Checked {
    for flags in [DELAY, 0] {
        let worker = changing_flags(stage, flags)?;
        stage.finish(worker)?;
        holds("no message", stage.is_silent(worker)?)?;
    }
    Ok(())
}

fn waiting_is_not_preempted(stage: &mut Stage) -> Checked {
    let (worker, waker) = two(stage, 100, 0)?;
    wake(stage, waker)?;
    let step = receive(worker.id(), milliseconds(15)).with_word(FLAGS, SIGNAL);
    stage.go(worker, &[step])?;
    stage.finish(waker)?;
    stage.finish(worker)?;
    holds("no message", stage.is_silent(worker)?)
}
