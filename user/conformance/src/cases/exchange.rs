//! EXCHANGE: ExchangeRegisters.

use heliox_l4::abi::ThreadState;
use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::probe::{self, Action, Output};
use heliox_l4::{ThreadId, Timeouts, control};

use crate::case::{Checked, at_least, cases, equal, holds};
use crate::stage::{PLACE, Probe, Stage, refused};
use crate::steps::{
    ANY, MessageOutput, NEVER, NIL, R, RECEIVE_ABORTED, RECEIVE_CANCELLED, RECEIVE_TIMEOUT, RW,
    RWX, SEND_ABORTED, SEND_CANCELLED, SEND_TIMEOUT, ZERO, accepting, action, call, clock,
    exchange, ipc, milliseconds, page, receive, send, tag, unmap,
};

cases! {
    "EXCHANGE-1" => names_are_exchanged,
    "EXCHANGE-2" => threads_that_cannot_be_named,
    "EXCHANGE-3" => other_spaces,
    "EXCHANGE-4" => old_values,
    "EXCHANGE-5" => old_states,
    "EXCHANGE-6" => values_that_are_set,
    "EXCHANGE-7" => flags,
    "EXCHANGE-8" => halting,
    "EXCHANGE-9" => resuming,
    "EXCHANGE-10" => halting_without_the_other_bit,
    "EXCHANGE-11" => starting_without_a_message,
    "EXCHANGE-12" => aborting_a_receive,
    "EXCHANGE-13" => aborting_a_send,
    "EXCHANGE-14" => the_other_bit_does_nothing,
    "EXCHANGE-15" => aborting_a_transfer,
    "EXCHANGE-16" => aborting_a_fault,
    "EXCHANGE-17" => aborting_a_fault_of_a_transfer,
    "EXCHANGE-18" => itself,
    "EXCHANGE-19" => halted_threads_take_part_in_nothing,
    "EXCHANGE-20" => timeouts_of_halted_threads,
    "EXCHANGE-21" => halted_threads_go_on_where_they_were,
    "EXCHANGE-22" => impossible_instruction_pointers,
    "EXCHANGE-23" => another_pager,
    "EXCHANGE-24" => unknown_bits,
    "EXCHANGE-25" => nothing,
}

const H: u64 = 1 << 0;
const RECEIVE: u64 = 1 << 1;
const SEND: u64 = 1 << 2;
const STACK: u64 = 1 << 3;
const INSTRUCTION: u64 = 1 << 4;
const FLAGS: u64 = 1 << 5;
const HANDLE: u64 = 1 << 6;
const PAGER: u64 = 1 << 7;
const VALID: u64 = 1 << 8;
const DELIVER: u64 = 1 << 9;

/// ExchangeRegisters with a control word alone.
fn control_only(thread: ThreadId, control: u64) -> heliox_l4::probe::Step {
    exchange(thread, control, 0, 0, 0, 0, NIL)
}

/// Two probes in one space: one that acts, and one that is acted upon.
fn two(stage: &mut Stage) -> Checked<(Probe, Probe)> {
    let a = stage.probe()?;
    Ok((a, stage.probe_beside(a)?))
}

/// ExchangeRegisters by a probe, which must succeed.
fn change(stage: &mut Stage, by: Probe, step: heliox_l4::probe::Step) -> Checked<Output> {
    let output = stage.run(by, step)?;
    at_least("the result", 1, output.registers.rax)?;
    Ok(output)
}

fn names_are_exchanged(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    for probe in [a, b] {
        let output = change(stage, a, control_only(probe.id(), 0))?;
        equal("of a global id", probe.local().0, output.registers.rax)?;
        let output = change(stage, a, control_only(probe.local(), 0))?;
        equal("of a local id", probe.id().0, output.registers.rax)?;
    }
    Ok(())
}

fn is_refused(stage: &mut Stage, by: Probe, thread: ThreadId) -> Checked {
    for control in [0, DELIVER, VALID | H, 0x11e] {
        let output = stage.run(by, control_only(thread, control).with_word(-9, 0))?;
        equal("the result", 0, output.registers.rax)?;
        equal("ErrorCode", 2, output.error())?;
    }
    Ok(())
}

fn threads_that_cannot_be_named(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let idle = stage.spare(1);
    refused("a thread", control::Space::create(idle, stage.driver()))?;
    for id in [
        NIL,
        ANY,
        ThreadId::ANY_LOCAL,
        stage.spare(0).into(),
        idle.into(),
        ThreadId(a.local().0 + 1024),
        ThreadId(20 << 32 | 1),
        ThreadId(4 << 32 | 1),
    ] {
        is_refused(stage, a, id)?;
    }
    Ok(())
}

fn other_spaces(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    is_refused(stage, a, b.id())?;
    // `a` becomes the pager of `b`; then any thread of its space may.
    refused("the pager", control::set_pager_of(b.id(), a.id()))?;
    let beside = stage.probe_beside(a)?;
    for by in [a, beside] {
        let output = change(stage, by, control_only(b.id(), HANDLE))?;
        equal("the result", b.local().0, output.registers.rax)?;
    }
    // And the space of the old one may not, being another: it is root's, and still may not.
    let registers = heliox_l4::raw::Registers { rax: b.id().0, ..Default::default() };
    let answer = probe::system_call(heliox_l4::kip::SystemCall::ExchangeRegisters, registers);
    equal("the result for another space", 0, answer.rax)
}

fn old_values(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    stage.go(b, &[b.spin().with_flags(0x202 | 0x8d5)])?;
    stage.let_run(2000)?;
    change(stage, a, exchange(b.id(), HANDLE, 0, 0, 0, 0x1357, NIL))?;
    for control in [0, DELIVER] {
        let output = change(stage, a, control_only(b.id(), control))?.registers;
        let code = Action::Spin.address();
        holds("the instruction pointer", (code..code + 32).contains(&output.r8))?;
        equal("the stack pointer", b.memory().stack() - 32, output.rdx)?;
        equal("the flag for interrupts", 0x200, output.r9 & 0x3200)?;
        equal("the handle", 0x1357, output.r10)?;
        equal("the pager", stage.driver().0, output.rdi)?;
    }
    // What there was before, not what is set.
    let output = change(stage, a, exchange(b.id(), HANDLE, 0, 0, 0, 0x2468, NIL))?;
    equal("the old handle", 0x1357, output.registers.r10)?;
    let output = change(stage, a, control_only(b.id(), 0))?;
    equal("the new handle", 0x2468, output.registers.r10)?;
    b.stop_spinning();
    stage.finish(b).map(|_| ())
}

fn old_states(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let c = stage.probe()?;
    let state = |stage: &mut Stage| -> Checked<u64> {
        Ok(change(stage, a, control_only(b.id(), DELIVER))?.registers.rsi & 7)
    };
    stage.go(b, &[receive(c.id(), NEVER)])?;
    stage.block_receiving(b)?;
    equal("receiving", RECEIVE, state(stage)?)?;
    stage.reset(b)?;
    stage.go(b, &[send(c.id(), NEVER, &[0])])?;
    stage.block_sending(b)?;
    equal("sending", SEND, state(stage)?)?;
    // The state before the call, in which it is halted.
    let output = change(stage, a, control_only(b.id(), VALID | H))?;
    equal("sending, and not halted yet", SEND, output.registers.rsi & 7)?;
    equal("sending and halted", SEND | H, state(stage)?)?;
    change(stage, a, control_only(b.id(), VALID))?;
    stage.reset(b)?;
    stage.go(b, &[b.spin()])?;
    stage.let_run(1000)?;
    equal("running", 0, state(stage)?)?;
    change(stage, a, control_only(b.id(), VALID | H))?;
    equal("halted", H, state(stage)?)
}

fn values_that_are_set(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let c = stage.probe()?;
    stage.go(b, &[b.spin()])?;
    stage.let_run(1000)?;
    change(stage, a, control_only(b.id(), VALID | H))?;
    let before = change(stage, a, control_only(b.id(), 0))?.registers;
    // None of the values without its bit.
    change(stage, a, exchange(b.id(), 0, 0x1000, 0x2000, 0xed7, 0x77, c.id()))?;
    let after = change(stage, a, control_only(b.id(), 0))?.registers;
    equal("the stack pointer stays", before.rdx, after.rdx)?;
    equal("the instruction pointer stays", before.r8, after.r8)?;
    equal("the flags stay", before.r9, after.r9)?;
    equal("the handle stays", before.r10, after.r10)?;
    equal("the pager stays", before.rdi, after.rdi)?;
    // Each with its own bit alone.
    for (bit, index) in [(STACK, 0), (INSTRUCTION, 1), (HANDLE, 2), (PAGER, 3)] {
        let old = change(stage, a, control_only(b.id(), 0))?.registers;
        let values = exchange(b.id(), bit, 0x1_2000, 0x3_4000, 0x202, 0x56, c.id());
        change(stage, a, values)?;
        let new = change(stage, a, control_only(b.id(), 0))?.registers;
        let expected = |own: usize, old: u64, value: u64| if own == index { value } else { old };
        equal("the stack pointer", expected(0, old.rdx, 0x1_2000), new.rdx)?;
        equal("the instruction pointer", expected(1, old.r8, 0x3_4000), new.r8)?;
        equal("the handle", expected(2, old.r10, 0x56), new.r10)?;
        equal("the pager", expected(3, old.rdi, c.id().0), new.rdi)?;
    }
    Ok(())
}

fn flags(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    stage.go(b, &[b.spin()])?;
    stage.let_run(1000)?;
    change(stage, a, control_only(b.id(), VALID | H))?;
    // All that programs have; then everything.
    for (set, expected) in [(0x202 | 0x8d5, 0x202 | 0x8d5), (0, 0x202)] {
        change(stage, a, exchange(b.id(), FLAGS, 0, 0, set, 0, NIL))?;
        let found = change(stage, a, control_only(b.id(), 0))?.registers.r9;
        equal("the flags", expected, found & 0xffff)?;
    }
    // The trap flag apart.
    let everything = !(1 << 8);
    change(stage, a, exchange(b.id(), FLAGS, 0, 0, everything, 0, NIL))?;
    let found = change(stage, a, control_only(b.id(), 0))?.registers.r9;
    equal("the I/O privilege, and interrupts", 0x200, found & 0x3200)?;
    equal("nested tasks, virtual mode and what is above", 0, found & 0xffff_ffff_001a_4000)?;
    // It runs with them.
    change(stage, a, exchange(b.id(), FLAGS | VALID, 0, 0, 0x202, 0, NIL))?;
    b.stop_spinning();
    stage.finish(b).map(|_| ())
}

fn halting(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    stage.go(b, &[b.spin()])?;
    stage.let_run(5000)?;
    holds("it runs", b.count(0) > 0)?;
    change(stage, a, control_only(b.id(), VALID | H))?;
    let count = b.count(0);
    stage.require_state("it is halted", b, ThreadState::Inactive)?;
    stage.let_run(30_000)?;
    equal("it does nothing more", count, b.count(0))
}

fn resuming(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    stage.go(b, &[b.spin()])?;
    stage.let_run(2000)?;
    for _ in 0..3 {
        change(stage, a, control_only(b.id(), VALID | H))?;
        let count = b.count(0);
        change(stage, a, control_only(b.id(), VALID))?;
        stage.let_run(20_000)?;
        holds("it runs again", b.count(0) > count)?;
    }
    b.stop_spinning();
    stage.finish(b).map(|_| ())
}

fn halting_without_the_other_bit(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    stage.go(b, &[b.spin()])?;
    stage.let_run(2000)?;
    let count = b.count(0);
    change(stage, a, control_only(b.id(), H))?;
    stage.let_run(20_000)?;
    holds("it runs on", b.count(0) > count)?;
    change(stage, a, control_only(b.id(), VALID | H))?;
    change(stage, a, control_only(b.id(), 0))?;
    stage.require_state("it stays halted", b, ThreadState::Inactive)
}

fn starting_without_a_message(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.create(Some(a))?;
    stage.require_state("it waits for its start message", b, ThreadState::Waiting)?;
    // By a thread of its space that is not its pager.
    let (stack, entry) = (b.memory().stack(), probe::entry());
    change(stage, a, exchange(b.id(), 0x11e, stack, entry, 0, 0, NIL))?;
    stage.finish(b)?;
    stage.run(b, clock())?;
    // And by its pager.
    let c = stage.create(Some(a))?;
    stage.reset(c)?;
    stage.run(c, clock()).map(|_| ())
}

fn aborting_a_receive(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let c = stage.probe()?;
    for from in [c.id(), ANY, b.id()] {
        for time in [NEVER, milliseconds(1500)] {
            stage.go(b, &[receive(from, time)])?;
            stage.block_receiving(b)?;
            change(stage, a, control_only(b.id(), RECEIVE))?;
            stage.finish(b)?.failed("the receive", RECEIVE_CANCELLED)?;
        }
    }
    // The receive phase of a call.
    stage.go(c, &[receive(b.id(), NEVER)])?;
    stage.block_receiving(c)?;
    stage.go(b, &[call(c.id(), &[tag(1, 0, 0)])])?;
    stage.finish(c)?.succeeded("the call arrives")?;
    change(stage, a, control_only(b.id(), RECEIVE))?;
    stage.finish(b)?.failed("its receive phase", RECEIVE_CANCELLED)
}

fn aborting_a_send(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let c = stage.probe()?;
    for step in
        [send(c.id(), NEVER, &[0]), call(c.id(), &[0]), send(c.id(), milliseconds(1500), &[0])]
    {
        stage.go(b, &[step])?;
        stage.block_sending(b)?;
        change(stage, a, control_only(b.id(), SEND))?;
        stage.finish(b)?.failed("the send", SEND_CANCELLED)?;
    }
    stage.run(c, receive(ANY, ZERO))?.failed("nobody sends any more", RECEIVE_TIMEOUT)
}

fn the_other_bit_does_nothing(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let c = stage.probe()?;
    stage.go(b, &[receive(c.id(), NEVER)])?;
    stage.block_receiving(b)?;
    change(stage, a, control_only(b.id(), SEND))?;
    stage.require_state("it still receives", b, ThreadState::Waiting)?;
    stage.run(c, send(b.id(), ZERO, &[tag(1, 0, 0)]))?.succeeded("a message")?;
    stage.finish(b)?.succeeded("the receive")?;
    stage.go(b, &[send(c.id(), NEVER, &[tag(2, 0, 0)])])?;
    stage.block_sending(b)?;
    change(stage, a, control_only(b.id(), RECEIVE))?;
    stage.require_state("it still sends", b, ThreadState::PendingSend)?;
    stage.run(c, receive(b.id(), ZERO))?.succeeded("the message")?;
    stage.finish(b)?.succeeded("the send")?;
    // And a thread that runs is in neither phase.
    stage.go(b, &[b.spin()])?;
    stage.let_run(1000)?;
    change(stage, a, control_only(b.id(), SEND | RECEIVE))?;
    b.stop_spinning();
    stage.finish(b).map(|_| ())
}

/// A transfer of a string in which the page of one side is missing, until its fault has come: the
/// side that faults, sender, receiver.
fn transfer(stage: &mut Stage, sender_faults: bool) -> Checked<(Probe, Probe, Probe)> {
    let (sender, receiver) = (stage.probe()?, stage.probe()?);
    let (from, to) = (stage.page(), stage.page());
    stage.give(sender, from, RW, PLACE)?;
    stage.give(receiver, to, RW, PLACE)?;
    let faulter = if sender_faults { sender } else { receiver };
    stage.run(faulter, unmap(0x40, &[page(PLACE, RWX).0]))?;
    let step = accepting(receive(sender.id(), NEVER), &[1, 64 << 10, PLACE]);
    stage.go(receiver, &[step])?;
    stage.block_receiving(receiver)?;
    stage.go(sender, &[send(receiver.id(), NEVER, &[tag(1, 0, 2), 64 << 10, PLACE])])?;
    stage.page_fault(faulter)?;
    Ok((faulter, sender, receiver))
}

fn both_aborted(stage: &mut Stage, sender: Probe, receiver: Probe) -> Checked {
    for (probe, code) in [(sender, SEND_ABORTED), (receiver, RECEIVE_ABORTED)] {
        let output = stage.finish(probe)?;
        equal("the tag", 0x8000, output.registers.r9)?;
        equal("the code", code, output.error() & 0xf)?;
    }
    Ok(())
}

fn aborting_a_transfer(stage: &mut Stage) -> Checked {
    for sender_faults in [false, true] {
        // The side that does not fault is aborted, by the bit of its phase.
        let (_, sender, receiver) = transfer(stage, sender_faults)?;
        let (victim, right, wrong) = match sender_faults {
            true => (receiver, RECEIVE, SEND),
            false => (sender, SEND, RECEIVE),
        };
        // The driver is its pager, and so may.
        let exchange = |control| control_by_driver(victim.id(), control);
        exchange(wrong)?;
        stage.let_run(1000)?;
        holds("the other bit does nothing", !stage.is_done(sender)? && !stage.is_done(receiver)?)?;
        exchange(right)?;
        both_aborted(stage, sender, receiver)?;
    }
    Ok(())
}

fn control_by_driver(thread: ThreadId, control: u64) -> Checked {
    let registers = heliox_l4::raw::Registers { rax: thread.0, rsi: control, ..Default::default() };
    let answer = probe::system_call(heliox_l4::kip::SystemCall::ExchangeRegisters, registers);
    at_least("the result", 1, answer.rax)
}

fn aborting_a_fault(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let offset = stage.page();
    stage.memory.large.write(offset, 0x99);
    for bit in [SEND, RECEIVE] {
        let mut step = action(Action::Read, PLACE, 0, 0).with_word(-9, 0x55).with_word(-16, 0x66);
        for word in 0..64 {
            step = step.with_word(word, 0x9000 + word as u64);
        }
        stage.go(b, &[step])?;
        stage.page_fault(b)?;
        change(stage, a, control_only(b.id(), bit))?;
        let fault = stage.page_fault(b)?;
        equal("it faults again", PLACE, fault.address)?;
        stage.map_to(b.id(), stage.mapping(offset, R, PLACE))?;
        let output = stage.finish(b)?;
        equal("the word", 0x99, output.registers.rax)?;
        equal("ErrorCode", 0x55, output.word(-9))?;
        equal("buffer register 0", 0x66, output.word(-16))?;
        for word in 0..64 {
            equal("a message register", 0x9000 + word as u64, output.word(word))?;
        }
        stage.run(b, unmap(0x40, &[page(PLACE, RWX).0]))?;
    }
    // An exception.
    stage.go(b, &[action(Action::InvalidInstruction, 0, 0, 0)])?;
    stage.exception(b)?;
    change(stage, a, control_only(b.id(), RECEIVE))?;
    let exception = stage.exception(b)?;
    stage.skip(b, &exception, 2)?;
    stage.finish(b).map(|_| ())
}

fn aborting_a_fault_of_a_transfer(stage: &mut Stage) -> Checked {
    for sender_faults in [false, true] {
        let (faulter, sender, receiver) = transfer(stage, sender_faults)?;
        control_by_driver(faulter.id(), SEND | RECEIVE)?;
        both_aborted(stage, sender, receiver)?;
    }
    Ok(())
}

fn itself(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    // The call returns to code that only returns, with a stack pointer at the step's return
    // address.
    let (stack, there) = (a.memory().stack() - 32, Action::Nothing.address());
    for name in [a.id(), a.local()] {
        let step = exchange(name, STACK | INSTRUCTION | HANDLE, stack, there, 0, 0x321, NIL);
        let output = stage.run(a, step)?;
        equal("the handle", 0x321, output.word(ControlWord::UserDefinedHandle as isize))?;
        equal("the stack pointer is off by", 0, output.stack_off_by)?;
    }
    let output = change(stage, a, control_only(a.id(), DELIVER))?;
    equal("its other name", a.local().0, output.registers.rax)
}

fn halted_threads_take_part_in_nothing(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let c = stage.probe()?;
    // A receiver.
    stage.go(b, &[receive(ANY, NEVER)])?;
    stage.block_receiving(b)?;
    change(stage, a, control_only(b.id(), VALID | H))?;
    stage.run(c, send(b.id(), ZERO, &[0]))?.failed("a send to it", SEND_TIMEOUT)?;
    stage.go(c, &[send(b.id(), NEVER, &[tag(3, 0, 0)])])?;
    stage.block_sending(c)?;
    change(stage, a, control_only(b.id(), VALID))?;
    let output = stage.finish(b)?.succeeded("the receive goes on")?;
    equal("the tag", tag(3, 0, 0), output.registers.r9)?;
    stage.finish(c)?.succeeded("the send goes on")?;
    // A sender.
    stage.go(b, &[send(c.id(), NEVER, &[tag(4, 0, 0)])])?;
    stage.block_sending(b)?;
    change(stage, a, control_only(b.id(), VALID | H))?;
    stage.run(c, receive(ANY, ZERO))?.failed("a receive from it", RECEIVE_TIMEOUT)?;
    stage.go(c, &[receive(ANY, NEVER)])?;
    stage.block_receiving(c)?;
    change(stage, a, control_only(b.id(), VALID))?;
    stage.finish(b)?.succeeded("the send goes on")?;
    stage.finish(c)?.succeeded("the receive goes on").map(|_| ())
}

fn timeouts_of_halted_threads(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let c = stage.probe()?;
    for (step, code) in [
        (receive(c.id(), milliseconds(10)), RECEIVE_TIMEOUT),
        (send(c.id(), milliseconds(10), &[0]), SEND_TIMEOUT),
    ] {
        stage.go(b, &[step])?;
        stage.let_run(1000)?;
        change(stage, a, control_only(b.id(), VALID | H))?;
        stage.let_run(20_000)?;
        stage.require_state("it stays halted", b, ThreadState::Inactive)?;
        holds("it does not go on", !stage.is_done(b)?)?;
        let output = change(stage, a, control_only(b.id(), VALID))?;
        equal("it was in no phase any more", H, output.registers.rsi & 7)?;
        stage.finish(b)?.failed("its call", code)?;
    }
    Ok(())
}

fn halted_threads_go_on_where_they_were(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let step = action(Action::CountDown, 3_000_000, 0, 0);
    stage.go(b, &[step])?;
    for _ in 0..20 {
        stage.let_run(300)?;
        change(stage, a, control_only(b.id(), VALID | H))?;
        let stopped = change(stage, a, control_only(b.id(), 0))?.registers;
        change(stage, a, control_only(b.id(), VALID))?;
        at_least("where it was", 1, stopped.r8)?;
    }
    let output = stage.finish(b)?;
    equal("the count", 0, output.registers.rdi)?;
    equal("the stack pointer is off by", 0, output.stack_off_by)
}

fn impossible_instruction_pointers(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    stage.go(b, &[b.spin()])?;
    stage.let_run(1000)?;
    for at in [0x8000_0000_0000, u64::MAX, 0xffff_8000_0000_0000, 0x7fff_ffff_f000] {
        let step = exchange(b.id(), INSTRUCTION | HANDLE, 0, at, 0, 0x666, NIL);
        let output = stage.run(a, step)?;
        equal("the result", 0, output.registers.rax)?;
        equal("ErrorCode", 5, output.error())?;
        let output = change(stage, a, control_only(b.id(), 0))?;
        equal("the handle stays", 0, output.registers.r10)?;
    }
    b.stop_spinning();
    stage.finish(b).map(|_| ())
}

fn another_pager(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let c = stage.probe()?;
    change(stage, a, exchange(b.id(), PAGER, 0, 0, 0, 0, c.id()))?;
    stage.go(c, &[receive(ANY, NEVER)])?;
    stage.block_receiving(c)?;
    let output = stage.run(b, clock())?;
    equal("word -12", c.id().0, output.word(ControlWord::Pager as isize))?;
    stage.go(b, &[action(Action::Read, PLACE, 0, 0)])?;
    let output = stage.finish(c)?.succeeded("the fault")?;
    equal("the address", PLACE, output.message_register(1))
}

fn unknown_bits(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    for bit in 10..64 {
        let output = change(stage, a, control_only(b.id(), 1 << bit))?;
        equal("the result", b.local().0, output.registers.rax)?;
    }
    stage.run(b, clock()).map(|_| ())
}

fn nothing(stage: &mut Stage) -> Checked {
    let (a, b) = two(stage)?;
    let c = stage.probe()?;
    stage.go(b, &[ipc(NIL, c.id(), Timeouts::NEVER, &[])])?;
    stage.block_receiving(b)?;
    let first = change(stage, a, control_only(b.id(), 0))?.registers;
    let second = change(stage, a, exchange(b.id(), 0, 1, 2, 3, 4, ThreadId(5)))?.registers;
    holds("what is answered stays the same", first == second)?;
    stage.require_state("its state", b, ThreadState::Waiting)?;
    stage.run(c, send(b.id(), ZERO, &[tag(1, 0, 0)]))?.succeeded("a message")?;
    stage.finish(b)?.succeeded("its receive").map(|_| ())
}
