//! TIME: periods and points; CLOCK: the clock.

use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::{Time, Timeouts, raw, system_clock};

use crate::case::{Checked, at_least, at_most, cases, equal, fail, holds};
use crate::stage::Stage;
use crate::steps::{
    MessageOutput, NEVER, NIL, RECEIVE_TIMEOUT, SEND_TIMEOUT, ZERO, clock, ipc, milliseconds,
    receive, send, sleep, tag,
};

cases! {
    "TIME-1" => periods_are_as_long_as_they_say,
    "TIME-2" => never,
    "TIME-3" => every_zero_is_zero,
    "TIME-4" => points_are_when_they_say,
    "TIME-5" => points_that_have_passed,
    "TIME-6" => halves_of_the_word,
    "TIME-7" => receive_periods_begin_with_the_receive_phase,
    "TIME-8" => receive_points_stay,
    "TIME-9" => nothing_ends_early,
    "TIME-10" => what_can_be_done_is_done,
    "TIME-11" => wakeups_are_precise,
}

/// By how much a wait may be longer when other things of this machine's host go on, in
/// microseconds.
const TOLERANCE: u64 = 200_000;

fn periods_are_as_long_as_they_say(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for (mantissa, exponent) in [(1, 0), (1023, 0), (500, 1), (3, 10), (1, 13), (20, 10)] {
        let time = Time(exponent << 10 | mantissa);
        let (output, took) = stage.timed(probe, sleep(probe.id(), time))?;
        output.failed("a sleep", RECEIVE_TIMEOUT)?;
        let length = u64::from(mantissa) << exponent;
        at_least("how long it took", length, took)?;
        at_most("how long it took", length + TOLERANCE, took)?;
    }
    Ok(())
}

fn never(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.go(probe, &[sleep(probe.id(), Time(0))])?;
    stage.block_receiving(probe)?;
    stage.let_run(30_000)?;
    holds("it still waits", !stage.is_done(probe)?)
}

fn every_zero_is_zero(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for exponent in 1..32 {
        let (output, took) = stage.timed(probe, sleep(probe.id(), Time(exponent << 10)))?;
        output.failed("no sleep", RECEIVE_TIMEOUT)?;
        at_most("how long it took", TOLERANCE, took)?;
    }
    Ok(())
}

/// The point `at`, which is `ahead` microseconds from now, in the way of the rules; a multiple of
/// 2^`exponent`.
fn point(at: u64, exponent: u16) -> Time {
    let carry = (at >> (exponent + 10) & 1) as u16;
    let mantissa = (at >> exponent & 0x3ff) as u16;
    Time(1 << 15 | exponent << 11 | carry << 10 | mantissa)
}

fn points_are_when_they_say(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let try_point = |stage: &mut Stage, at: u64, exponent| {
        let step = sleep(probe.id(), point(at, exponent));
        stage.go(probe, &[step, clock()])?;
        let after = stage.finish(probe)?.registers.rax;
        probe.memory().output(0).failed("a sleep to a point", RECEIVE_TIMEOUT)?;
        at_least("the clock afterwards", at >> exponent << exponent, after)?;
        at_most("the clock afterwards", at + TOLERANCE, after)
    };
    for exponent in 0..6 {
        // Not so far that the mantissa does not reach it.
        for eighth in [2, 5, 7] {
            let ahead = (1_u64 << (exponent + 10)) * eighth / 8;
            try_point(stage, system_clock() + ahead, exponent)?;
        }
    }
    // Over the boundary where the carry bit changes.
    for _ in 0..3 {
        let mut boundary = ((system_clock() >> 13) + 1) << 13;
        // 1,023 units of 8 microseconds reach it.
        if boundary + 1000 - system_clock() > 7_000 {
            stage.let_run(4_000)?;
            boundary = ((system_clock() >> 13) + 1) << 13;
        }
        try_point(stage, boundary + 1000, 3)?;
    }
    Ok(())
}

fn points_that_have_passed(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for exponent in [4, 6] {
        let span = 1_u64 << (exponent + 10);
        // A little behind; and so far ahead that its mantissa would have to be larger.
        for distance in [0, 100, span / 2] {
            let now = system_clock();
            let time = point(now.saturating_sub(distance), exponent);
            let (output, took) = stage.timed(probe, sleep(probe.id(), time))?;
            output.failed("no sleep", RECEIVE_TIMEOUT)?;
            at_most("how long it took", span / 2 - 1, took)?;
        }
    }
    let (a, b) = (stage.probe()?, stage.probe()?);
    let past = point(system_clock().saturating_sub(2000), 4);
    let output = stage.run(a, send(b.id(), past, &[0]))?;
    output.failed("a send to one that is not ready", SEND_TIMEOUT)
}

fn halves_of_the_word(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let upper = 0xffff_ffff << 32;
    let zero = 0x400;
    let output = stage.run(a, ipc(b.id(), NIL, Timeouts(upper | zero << 16), &[0]))?;
    output.failed("bits 16 to 31 are the send timeout", SEND_TIMEOUT)?;
    let output = stage.run(a, ipc(NIL, b.id(), Timeouts(upper | zero), &[0]))?;
    output.failed("bits 0 to 15 are the receive timeout", RECEIVE_TIMEOUT)?;
    stage.go(a, &[ipc(b.id(), NIL, Timeouts(upper | zero), &[0])])?;
    stage.block_sending(a)?;
    stage.run(b, receive(a.id(), NEVER))?.succeeded("the receive")?;
    stage.finish(a)?.succeeded("a send without timeout").map(|_| ())
}

/// Has `a` send and then receive with `limit`, and `b` take the message only after 20 ms. Answers
/// how long it took, from the clock before it to the one after.
fn late_partner(stage: &mut Stage, limit: Time) -> Checked<u64> {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let step = ipc(b.id(), b.id(), Timeouts::new(NEVER, limit), &[tag(0, 0, 0)]);
    stage.go(a, &[clock(), step, clock()])?;
    stage.block_sending(a)?;
    stage.let_run(20_000)?;
    stage.run(b, receive(a.id(), NEVER))?.succeeded("the receive")?;
    stage.finish(a)?;
    let [before, step, after] = [0, 1, 2].map(|index| a.memory().output(index));
    step.failed("the receive phase", RECEIVE_TIMEOUT)?;
    Ok(after.registers.rax - before.registers.rax)
}

fn receive_periods_begin_with_the_receive_phase(stage: &mut Stage) -> Checked {
    let took = late_partner(stage, milliseconds(10))?;
    at_least("send phase and receive phase", 30_000, took)
}

fn receive_points_stay(stage: &mut Stage) -> Checked {
    // Passes while the message waits.
    let time = point(system_clock() + 10_000, 4);
    let took = late_partner(stage, time)?;
    at_least("the send phase", 20_000, took)?;
    // Is still to come.
    let at = system_clock() + 60_000;
    let (a, b) = (stage.probe()?, stage.probe()?);
    let step = ipc(b.id(), b.id(), Timeouts::new(NEVER, point(at, 7)), &[tag(0, 0, 0)]);
    stage.go(a, &[step, clock()])?;
    stage.block_sending(a)?;
    stage.let_run(10_000)?;
    stage.run(b, receive(a.id(), NEVER))?.succeeded("the receive")?;
    let after = stage.finish(a)?.registers.rax;
    at_least("the clock afterwards", at >> 7 << 7, after)?;
    at_most("the clock afterwards", at + TOLERANCE, after)
}

fn nothing_ends_early(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let mut length = 1;
    while length < 40_000 {
        let time = Time::from_period(length);
        let (output, took) = stage.timed(a, send(b.id(), time, &[0]))?;
        output.failed("a send", SEND_TIMEOUT)?;
        at_least("how long it took", length, took)?;
        let (output, took) = stage.timed(a, receive(b.id(), time))?;
        output.failed("a receive", RECEIVE_TIMEOUT)?;
        at_least("how long it took", length, took)?;
        length = length * 3 + 1;
    }
    Ok(())
}

fn what_can_be_done_is_done(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let past = point(system_clock().saturating_sub(1000), 4);
    for time in [ZERO, Time(7 << 10), past] {
        stage.go(b, &[receive(a.id(), NEVER)])?;
        stage.block_receiving(b)?;
        stage.run(a, send(b.id(), time, &[tag(1, 0, 0)]))?.succeeded("a send")?;
        stage.finish(b)?.succeeded("the receive")?;
        stage.go(a, &[send(b.id(), NEVER, &[tag(1, 0, 0)])])?;
        stage.block_sending(a)?;
        stage.run(b, receive(a.id(), time))?.succeeded("a receive")?;
        stage.finish(a)?.succeeded("the send")?;
    }
    Ok(())
}

fn wakeups_are_precise(stage: &mut Stage) -> Checked {
    let probe = stage.probe_at(200)?;
    let precision = raw::page().wakeup_precision();
    // The host may be busy at any one time, but not always.
    let mut least = u64::MAX;
    for _ in 0..20 {
        let (_, took) = stage.timed(probe, sleep(probe.id(), Time(1000)))?;
        least = least.min(took - 1000);
    }
    at_most("the least delay of 20 wakeups", precision + 500, least)?;
    if least > precision + 500 {
        return fail("a precise wakeup", least);
    }
    let output = stage.run(probe, clock())?;
    equal("ErrorCode after them", RECEIVE_TIMEOUT, output.word(ControlWord::ErrorCode as isize))
}

/// CLOCK.
pub(crate) mod clock {
    use heliox_l4::{measure, raw, system_clock};

    use crate::case::{Checked, at_least, at_most, cases};
    use crate::stage::Stage;
    use crate::steps::{clock, milliseconds, sleep};

    cases! {
        "CLOCK-1" => it_counts_microseconds,
        "CLOCK-2" => it_never_goes_back,
        "CLOCK-3" => sleeps_agree_with_it,
        "CLOCK-4" => it_agrees_with_the_time_stamps,
    }

    fn it_counts_microseconds(stage: &mut Stage) -> Checked {
        let before = system_clock();
        at_least("the clock", 1, before)?;
        // An hour is more than a run may take.
        at_most("the clock", 3_600_000_000, before)?;
        stage.let_run(10_000)?;
        at_least("the clock after 10 ms", before + 10_000, system_clock())
    }

    fn it_never_goes_back(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        let mut last = 0;
        for round in 0..200 {
            let probe = if round % 2 == 0 { a } else { b };
            let now = stage.run(probe, clock())?.registers.rax;
            at_least("the clock", last, now)?;
            last = now;
            let now = system_clock();
            at_least("the clock", last, now)?;
            last = now;
        }
        Ok(())
    }

    fn sleeps_agree_with_it(stage: &mut Stage) -> Checked {
        let probe = stage.probe()?;
        let (_, took) = stage.timed(probe, sleep(probe.id(), milliseconds(25)))?;
        at_least("a sleep of 25 ms", 25_000, took)
    }

    fn it_agrees_with_the_time_stamps(stage: &mut Stage) -> Checked {
        // The closer of several tries: between two looks the host may do something else.
        let mut least = u64::MAX;
        for _ in 0..5 {
            let (stamp, clock) = (measure::time_stamp(), system_clock());
            stage.let_run(20_000)?;
            let (stamp, clock) = (measure::time_stamp() - stamp, system_clock() - clock);
            let by_stamp = stamp * 1000 / raw::page().frequency().max(1);
            least = least.min(by_stamp.abs_diff(clock) * 1000 / clock.max(1));
        }
        at_most("the difference in thousandths", 10, least)
    }
}
