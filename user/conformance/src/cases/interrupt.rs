//! INTERRUPT: interrupts. The one that is used is COM1's, which says that it can send more: it
//! comes when it is switched on, at any time that is wanted.

use heliox_l4::kip::SystemCall;
use heliox_l4::message::Mapping;
use heliox_l4::probe::{self, Action, Step, Target};
use heliox_l4::{ThreadId, Timeouts, control, port, raw, utcb};

use crate::case::{Checked, cases, equal, holds};
use crate::stage::{Probe, Stage, refused};
use crate::steps::{
    ANY, KEEP, MessageOutput, NEVER, NIL, RECEIVE_TIMEOUT, SEND_NO_PARTNER, SEND_TIMEOUT, ZERO,
    action, ipc, milliseconds, receive, send, tag, thread_control,
};

cases! {
    "INTERRUPT-1 INTERRUPT-2" => handlers_are_set_and_removed,
    "INTERRUPT-3" => handlers_that_are_none,
    "INTERRUPT-4" => the_message,
    "INTERRUPT-5" => the_message_is_held,
    "INTERRUPT-6 INTERRUPT-7" => acknowledging,
    "INTERRUPT-8" => acknowledging_and_waiting,
    "INTERRUPT-9" => nothing_to_acknowledge,
    "INTERRUPT-10" => messages_of_others,
    "INTERRUPT-11" => receives_of_others,
    "INTERRUPT-12" => another_handler,
    "INTERRUPT-13" => the_handler_is_lost,
    "INTERRUPT-14" => before_senders_that_wait,
    "INTERRUPT-15" => handlers_preempt,
}

/// COM1's interrupt.
pub(crate) const LINE: u32 = 4;
const COM1: u16 = 0x3f8;
/// Which interrupts are on; bit 1: the transmitter is empty.
const ENABLE: u16 = COM1 + 1;
/// Which one it is; reading this ends the one of the transmitter.
const IDENTIFY: u16 = COM1 + 2;
const CONTROL: u16 = COM1 + 4;
/// What connects the device to the line, besides the usual signals.
const OUT2: u8 = 1 << 3;

/// COM1's interrupt with a handler, until it is dropped.
pub(crate) struct Line(());

impl Line {
    /// Gives it a handler.
    pub(crate) fn associate(handler: ThreadId) -> Checked<Self> {
        let line = Self(());
        line.quieten();
        port::write8(CONTROL, port::read8(CONTROL) | OUT2);
        refused("a handler", control::associate_interrupt(LINE, handler))?;
        Ok(line)
    }

    /// The interrupt's identifier.
    pub(crate) fn id(&self) -> ThreadId {
        ThreadId(u64::from(LINE) << 32 | 1)
    }

    /// Has it interrupt.
    pub(crate) fn raise(&self) {
        self.quieten();
        port::write8(ENABLE, 2);
    }

    /// Ends the device's wish.
    pub(crate) fn quieten(&self) {
        port::write8(ENABLE, 0);
        let _ = port::read8(IDENTIFY);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.quieten();
        // Nobody needs it any more; if it has no handler, that is right too.
        let _ = control::deassociate_interrupt(LINE);
    }
}

const INTERRUPT: u64 = 0xffff_ffff_fff0_0000;

/// Has a probe receive the interrupt.
fn takes(stage: &mut Stage, line: &Line, probe: Probe, from: ThreadId) -> Checked {
    let output = stage.run(probe, receive(from, milliseconds(500)))?.succeeded("the interrupt")?;
    equal("its tag", INTERRUPT, output.registers.r9)?;
    equal("its sender", line.id().0, output.from().0)
}

/// Fails if the probe receives an interrupt within 10 ms.
fn takes_nothing(stage: &mut Stage, line: &Line, probe: Probe) -> Checked {
    let output = stage.run(probe, receive(line.id(), milliseconds(10)))?;
    output.failed("no interrupt", RECEIVE_TIMEOUT)
}

fn acknowledges(stage: &mut Stage, line: &Line, probe: Probe) -> Checked {
    stage.run(probe, send(line.id(), ZERO, &[0]))?.succeeded("an acknowledgement").map(|_| ())
}

fn handlers_are_set_and_removed(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let line = Line::associate(a.id())?;
    line.raise();
    takes(stage, &line, a, line.id())?;
    line.quieten();
    refused("without handler", control::deassociate_interrupt(LINE))?;
    let output = stage.run(a, send(line.id(), ZERO, &[0]))?;
    output.failed("an acknowledgement of who was the handler", SEND_NO_PARTNER)?;
    line.raise();
    takes_nothing(stage, &line, a)?;
    refused("once more", control::deassociate_interrupt(LINE))
}

/// ThreadControl of an interrupt by this program: 0 for success, or ErrorCode.
fn associate(number: u64, handler: ThreadId) -> u64 {
    let id = ThreadId(number << 32 | 1);
    let registers = thread_control(id, id, NIL, handler, KEEP);
    match probe::system_call(SystemCall::ThreadControl, registers).rax {
        0 => utcb::error_code(),
        _ => 0,
    }
}

fn handlers_that_are_none(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    for handler in [stage.spare(0).into(), ANY, ThreadId(20 << 32 | 1), ThreadId(0x1240)] {
        equal("a handler that is none", 2, associate(u64::from(LINE), handler))?;
    }
    // The kernel's own timer, where the machine has it as a line; and lines that there are not.
    let system = u64::from(raw::page().system_base());
    equal("a line that there is not", 2, associate(system, a.id()))?;
    let id = ThreadId(u64::from(LINE) << 32 | 1);
    let step = Step::new(
        Target::Call(SystemCall::ThreadControl),
        thread_control(id, id, NIL, a.id(), KEEP),
    );
    let output = stage.run(a, step.with_word(-9, 0))?;
    equal("by a program without privilege", 0, output.registers.rax)?;
    equal("ErrorCode", 1, output.error())
}

fn the_message(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let line = Line::associate(a.id())?;
    // The handler waits for it, or for anybody.
    for from in [line.id(), ANY] {
        stage.go(a, &[receive(from, milliseconds(500))])?;
        stage.block_receiving(a)?;
        line.raise();
        let output = stage.finish(a)?.succeeded("the interrupt")?;
        equal("its tag", INTERRUPT, output.registers.r9)?;
        equal("its sender", line.id().0, output.from().0)?;
        line.quieten();
        acknowledges(stage, &line, a)?;
    }
    Ok(())
}

fn the_message_is_held(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let line = Line::associate(a.id())?;
    for from in [line.id(), ANY] {
        line.raise();
        stage.let_run(10_000)?;
        line.quieten();
        takes(stage, &line, a, from)?;
        acknowledges(stage, &line, a)?;
        takes_nothing(stage, &line, a)?;
    }
    Ok(())
}

fn acknowledging(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let line = Line::associate(a.id())?;
    for words in [&[0][..], &[tag(0x77, 3, 0), 1, 2, 3][..]] {
        line.raise();
        takes(stage, &line, a, line.id())?;
        // Another one is not delivered before the first is acknowledged.
        line.raise();
        takes_nothing(stage, &line, a)?;
        let output = stage.run(a, send(line.id(), ZERO, words))?;
        output.succeeded("an acknowledgement")?;
        takes(stage, &line, a, line.id())?;
        line.quieten();
        acknowledges(stage, &line, a)?;
    }
    Ok(())
}

fn acknowledging_and_waiting(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let line = Line::associate(a.id())?;
    line.raise();
    takes(stage, &line, a, line.id())?;
    for from in [line.id(), ANY] {
        line.quieten();
        let timeouts = Timeouts::new(ZERO, milliseconds(500));
        stage.go(a, &[ipc(line.id(), from, timeouts, &[0])])?;
        stage.block_receiving(a)?;
        line.raise();
        let output = stage.finish(a)?.succeeded("the next one")?;
        equal("its tag", INTERRUPT, output.registers.r9)?;
    }
    Ok(())
}

fn nothing_to_acknowledge(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let line = Line::associate(a.id())?;
    for time in [ZERO, milliseconds(5)] {
        let output = stage.run(a, send(line.id(), time, &[0]))?;
        output.failed("before any came", SEND_TIMEOUT)?;
    }
    line.raise();
    takes(stage, &line, a, line.id())?;
    line.quieten();
    acknowledges(stage, &line, a)?;
    stage.run(a, send(line.id(), ZERO, &[0]))?.failed("a second time", SEND_TIMEOUT)
}

fn messages_of_others(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let line = Line::associate(a.id())?;
    stage.run(b, send(line.id(), NEVER, &[0]))?.failed("before", SEND_NO_PARTNER)?;
    line.raise();
    takes(stage, &line, a, line.id())?;
    stage.run(b, send(line.id(), NEVER, &[0]))?.failed("after", SEND_NO_PARTNER)?;
    line.raise();
    takes_nothing(stage, &line, a)?;
    acknowledges(stage, &line, a)
}

fn receives_of_others(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let line = Line::associate(a.id())?;
    stage.go(b, &[receive(line.id(), milliseconds(30))])?;
    stage.block_receiving(b)?;
    line.raise();
    stage.finish(b)?.failed("another's receive", RECEIVE_TIMEOUT)?;
    takes(stage, &line, a, line.id())
}

fn another_handler(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let line = Line::associate(a.id())?;
    // The same again: what is pending stays.
    line.raise();
    stage.let_run(5_000)?;
    line.quieten();
    equal("the same handler", 0, associate(u64::from(LINE), a.id()))?;
    takes(stage, &line, a, line.id())?;
    acknowledges(stage, &line, a)?;
    // Another one: what is pending goes.
    line.raise();
    stage.let_run(5_000)?;
    line.quieten();
    equal("another handler", 0, associate(u64::from(LINE), b.id()))?;
    takes_nothing(stage, &line, a)?;
    takes_nothing(stage, &line, b)?;
    line.raise();
    takes(stage, &line, b, line.id())?;
    line.quieten();
    acknowledges(stage, &line, b)?;
    let output = stage.run(a, send(line.id(), ZERO, &[0]))?;
    output.failed("the first is no handler", SEND_NO_PARTNER)?;
    // What was delivered and not acknowledged does not keep the next handler waiting.
    line.raise();
    takes(stage, &line, b, line.id())?;
    line.quieten();
    equal("the first again", 0, associate(u64::from(LINE), a.id()))?;
    line.raise();
    takes(stage, &line, a, line.id())
}

fn the_handler_is_lost(stage: &mut Stage) -> Checked {
    for rename in [false, true] {
        let (a, b) = (stage.probe()?, stage.probe()?);
        let line = Line::associate(a.id())?;
        if rename {
            let id = heliox_l4::GlobalId::new(a.global().number(), a.global().version() + 64);
            let new = id.map_or(NIL, ThreadId::from);
            let registers = thread_control(new, a.id(), NIL, NIL, KEEP);
            equal("renaming", 1, probe::system_call(SystemCall::ThreadControl, registers).rax)?;
        } else {
            stage.delete(a)?;
        }
        line.raise();
        stage.let_run(5_000)?;
        line.quieten();
        // The line can be had by another, and what came meanwhile is nobody's.
        equal("another handler", 0, associate(u64::from(LINE), b.id()))?;
        takes_nothing(stage, &line, b)?;
        line.raise();
        takes(stage, &line, b, line.id())?;
    }
    Ok(())
}

fn before_senders_that_wait(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let line = Line::associate(a.id())?;
    stage.go(b, &[send(a.id(), NEVER, &[tag(1, 0, 0)])])?;
    stage.block_sending(b)?;
    line.raise();
    stage.let_run(5_000)?;
    line.quieten();
    takes(stage, &line, a, ANY)?;
    let output = stage.run(a, receive(ANY, ZERO))?.succeeded("the sender")?;
    equal("its tag", tag(1, 0, 0), output.registers.r9)
}

fn handlers_preempt(stage: &mut Stage) -> Checked {
    let (handler, low) = (stage.probe_at(150)?, stage.probe()?);
    let line = Line::associate(handler.id())?;
    stage.give_mapping(low, Mapping::ports(COM1, 3))?;
    stage.go(handler, &[receive(line.id(), milliseconds(1000))])?;
    stage.block_receiving(handler)?;
    // The less important one has the device interrupt, and goes on computing.
    stage.go(
        low,
        &[
            action(Action::Out8, ENABLE.into(), 0, 0),
            action(Action::In8, IDENTIFY.into(), 0, 0),
            action(Action::Out8, ENABLE.into(), 2, 0),
            action(Action::CountDown, 200_000, 0, 0),
        ],
    )?;
    stage.finish(low)?;
    stage.finish(handler)?.succeeded("the interrupt")?;
    let (taken, done) = (handler.memory().output(0).after, low.memory().output(3).after);
    holds("the handler runs before the other has done", taken < done)
}
