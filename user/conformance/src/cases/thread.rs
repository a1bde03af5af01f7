//! THREAD: ThreadControl.

use core::sync::atomic::{AtomicU64, Ordering};

use heliox_l4::abi::ThreadState;
use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::kip::SystemCall;
use heliox_l4::message::Message;
use heliox_l4::probe::{self, Action, Step, Target};
use heliox_l4::thread::{Place, Stack, spawn};
use heliox_l4::{Flexpage, GlobalId, ThreadId, control, raw, schedule, utcb};

use crate::case::{Checked, at_least, cases, equal, fail, holds};
use crate::stage::{KIP_AREA, Options, PLACE, Probe, Stage, UTCB_BITS, UTCB_START, refused, sent};
use crate::steps::{
    ANY, KEEP, MessageOutput, NEVER, NIL, R, RECEIVE_CANCELLED, RECEIVE_NO_PARTNER, RW,
    SEND_NO_PARTNER, SEND_TIMEOUT, ZERO, action, call, clock, exchange, receive, send, tag,
    thread_control,
};

cases! {
    "THREAD-1" => without_privilege,
    "THREAD-2 THREAD-3" => destinations_that_are_none,
    "THREAD-4" => space_specifiers_that_are_none,
    "THREAD-5 THREAD-6" => schedulers_that_are_none,
    "THREAD-7" => a_local_scheduler,
    "THREAD-8" => a_new_space,
    "THREAD-9" => a_space_that_is_not_configured,
    "THREAD-10" => utcbs_that_are_none,
    "THREAD-11" => a_utcb_that_is_taken,
    "THREAD-12" => becoming_active_in_steps,
    "THREAD-13" => the_same_utcb,
    "THREAD-14" => another_utcb,
    "THREAD-15" => the_start_message,
    "THREAD-16" => start_messages_of_others,
    "THREAD-17" => start_messages_of_another_shape,
    "THREAD-18" => how_a_thread_starts,
    "THREAD-19" => changing_nothing,
    "THREAD-20 THREAD-22" => another_version,
    "THREAD-21" => partners_of_a_renamed_thread,
    "THREAD-23" => a_renamed_thread_stops,
    "THREAD-24" => renaming_before_activation,
    "THREAD-25" => an_old_version_again,
    "THREAD-26 THREAD-27" => deleting,
    "THREAD-28" => deleting_oneself,
    "THREAD-29" => the_end_of_a_space,
    "THREAD-30" => moving,
    "THREAD-31" => moving_to_where_nothing_is,
    "THREAD-32" => versions_and_numbers_that_are_none,
    "THREAD-33" => failures_change_nothing,
    "THREAD-34" => another_pager,
    "THREAD-35" => another_scheduler,
    "THREAD-36" => until_memory_ends,
    "THREAD-37" => who_is_privileged,
    "THREAD-38" => deleting_in_any_state,
    "THREAD-39" => any_thread_names_its_space,
}

/// ThreadControl by this program: 0 for success, or ErrorCode.
fn control_thread(
    thread: ThreadId,
    space: ThreadId,
    scheduler: ThreadId,
    pager: ThreadId,
    utcb_address: u64,
) -> u64 {
    let registers = thread_control(thread, space, scheduler, pager, utcb_address);
    match probe::system_call(SystemCall::ThreadControl, registers).rax {
        1 => 0,
        0 => utcb::error_code(),
        other => other << 32,
    }
}

/// Fails unless ThreadControl ends in this way: 0 for success, or ErrorCode.
fn controls(
    what: &'static str,
    expected: u64,
    arguments: [ThreadId; 4],
    utcb_address: u64,
) -> Checked {
    let [thread, space, scheduler, pager] = arguments;
    equal(what, expected, control_thread(thread, space, scheduler, pager, utcb_address))
}

/// A configured space whose first thread is not active: its identifier.
fn idle_space(stage: &Stage, index: u32) -> Checked<GlobalId> {
    let id = stage.spare(index);
    let space = refused("a space", control::Space::create(id, stage.driver()))?;
    let utcbs = Flexpage::memory(UTCB_START, UTCB_BITS, 0);
    refused("its areas", space.configure(KIP_AREA, utcbs, NIL))?;
    Ok(id)
}

fn exists(id: ThreadId) -> bool {
    schedule::thread_state(id).is_ok_and(|state| state != ThreadState::Dead)
}

fn without_privilege(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let id = stage.spare(0).into();
    for registers in [
        thread_control(id, id, a.id(), NIL, KEEP),
        thread_control(id, a.id(), a.id(), a.id(), UTCB_START + 1024),
        thread_control(a.id(), NIL, NIL, NIL, KEEP),
        thread_control(ThreadId(4 << 32 | 1), ThreadId(4 << 32 | 1), NIL, a.id(), KEEP),
        thread_control(NIL, NIL, NIL, NIL, KEEP),
    ] {
        let step = Step::new(Target::Call(SystemCall::ThreadControl), registers);
        let output = stage.run(a, step.with_word(-9, 0))?;
        equal("the result", 0, output.registers.rax)?;
        equal("ErrorCode", 1, output.error())?;
    }
    holds("nothing was made", !exists(id))
}

fn destinations_that_are_none(stage: &mut Stage) -> Checked {
    let me = stage.driver();
    let system = u64::from(raw::page().system_base());
    let user = u64::from(raw::page().user_base());
    let a = stage.probe()?;
    for word in [
        0,
        u64::MAX,
        ThreadId::ANY_LOCAL.0,
        0x1240,
        a.local().0,
        system << 32 | 1,
        (user - 1) << 32 | 1,
    ] {
        let id = ThreadId(word);
        controls("creating it", 2, [id, id, me, NIL], KEEP)?;
        controls("creating it in a space", 2, [id, a.id(), me, NIL], KEEP)?;
    }
    Ok(())
}

fn space_specifiers_that_are_none(stage: &mut Stage) -> Checked {
    let me = stage.driver();
    let id = stage.spare(0).into();
    for word in
        [stage.spare(1).word(), 0x1240, utcb::local_id().0, u64::MAX, 20 << 32 | 1, 4 << 32 | 1]
    {
        controls("creating a thread there", 3, [id, ThreadId(word), me, NIL], KEEP)?;
    }
    holds("nothing was made", !exists(id))
}

fn schedulers_that_are_none(stage: &mut Stage) -> Checked {
    let id = stage.spare(0).into();
    let a = stage.probe()?;
    controls("creating without scheduler", 4, [id, id, NIL, NIL], KEEP)?;
    for word in [stage.spare(1).word(), 4 << 32 | 1, 20 << 32 | 1, u64::MAX, 0x1240] {
        let scheduler = ThreadId(word);
        controls("creating", 4, [id, id, scheduler, NIL], KEEP)?;
        controls("changing", 4, [a.id(), a.id(), scheduler, NIL], KEEP)?;
    }
    holds("nothing was made", !exists(id))
}

fn a_local_scheduler(stage: &mut Stage) -> Checked {
    let id = stage.spare(0).into();
    controls("creating", 0, [id, id, utcb::local_id(), NIL], KEEP)?;
    // This program's thread may schedule it.
    let state = refused("asking for its state", schedule::thread_state(id))?;
    equal("its state", ThreadState::Inactive as u64, state as u64)?;
    refused("setting its priority", schedule::set_priority(id, 90))
}

fn a_new_space(stage: &mut Stage) -> Checked {
    let id = stage.spare(0).into();
    controls("creating", 0, [id, id, stage.driver(), NIL], KEEP)?;
    let state = refused("its state", schedule::thread_state(id))?;
    equal("its state", ThreadState::Inactive as u64, state as u64)?;
    // It is not configured: now it can be.
    let utcbs = Flexpage::memory(UTCB_START, UTCB_BITS, 0);
    refused("configuring it", control::space_control(id, 0, KIP_AREA, utcbs, NIL)).map(|_| ())
}

fn a_space_that_is_not_configured(stage: &mut Stage) -> Checked {
    let me = stage.driver();
    let (id, second) = (stage.spare(0).into(), stage.spare(1).into());
    controls("a new space with a UTCB", 6, [id, id, me, me], UTCB_START)?;
    holds("nothing was made", !exists(id))?;
    controls("a new space with a pager and without a UTCB", 0, [id, id, me, me], KEEP)?;
    controls("a second thread with a UTCB", 6, [second, id, me, me], UTCB_START)?;
    controls("a second thread without", 0, [second, id, me, me], KEEP)?;
    for id in [id, second] {
        let state = refused("its state", schedule::thread_state(id))?;
        equal("its state", ThreadState::Inactive as u64, state as u64)?;
    }
    Ok(())
}

fn utcbs_that_are_none(stage: &mut Stage) -> Checked {
    let me = stage.driver();
    let space = idle_space(stage, 0)?.into();
    let id = stage.spare(1).into();
    for address in [
        0,
        UTCB_START + 512,
        UTCB_START + 1,
        UTCB_START - 1024,
        UTCB_START + (1 << UTCB_BITS),
        0xffff_8000_0000_0000,
        0x8000_0000_0000,
        KEEP - 1023,
    ] {
        controls("a thread with it", 6, [id, space, me, me], address)?;
        controls("a thread with it and no pager", 6, [id, space, me, NIL], address)?;
    }
    holds("nothing was made", !exists(id))?;
    controls(
        "the last one that there is",
        0,
        [id, space, me, me],
        UTCB_START + (1 << UTCB_BITS) - 1024,
    )
}

fn a_utcb_that_is_taken(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    let me = stage.driver();
    let id = stage.spare(0).into();
    controls("a new thread", 6, [id, a.id(), me, me], UTCB_START)?;
    controls("another one's", 6, [b.id(), b.id(), NIL, NIL], UTCB_START)?;
    holds("nothing was made", !exists(id))?;
    stage.delete(a)?;
    controls("when it is free", 0, [id, b.id(), me, me], UTCB_START)
}

/// Starts an active thread at the probes' code, and lets it run its first instructions: it calls
/// the driver.
fn starts(stage: &mut Stage, probe: Probe) -> Checked {
    stage.begin(probe)?;
    stage.run(probe, clock()).map(|_| ())
}

fn becoming_active_in_steps(stage: &mut Stage) -> Checked {
    let me = stage.driver();
    let home = stage.probe()?;
    let space = home.id();
    let inactive = |id: ThreadId| -> Checked {
        let state = refused("its state", schedule::thread_state(id))?;
        equal("not active", ThreadState::Inactive as u64, state as u64)
    };
    let waits = |id: ThreadId| -> Checked {
        let state = refused("its state", schedule::thread_state(id))?;
        equal("active", ThreadState::Waiting as u64, state as u64)
    };
    let ids: [ThreadId; 4] = core::array::from_fn(|index| stage.spare(index as u32).into());
    let place = |index: u64| UTCB_START + (index + 4) * 1024;
    // Pager first, then the UTCB.
    controls("with a pager", 0, [ids[0], space, me, me], KEEP)?;
    inactive(ids[0])?;
    controls("and then a UTCB", 0, [ids[0], space, NIL, NIL], place(0))?;
    waits(ids[0])?;
    // The UTCB first, then the pager.
    controls("with a UTCB", 0, [ids[1], space, me, NIL], place(1))?;
    inactive(ids[1])?;
    controls("and then a pager", 0, [ids[1], space, NIL, me], KEEP)?;
    waits(ids[1])?;
    // Neither, and then both.
    controls("with neither", 0, [ids[2], space, me, NIL], KEEP)?;
    inactive(ids[2])?;
    controls("and then both", 0, [ids[2], space, NIL, me], place(2))?;
    waits(ids[2])?;
    controls("both at once", 0, [ids[3], space, me, me], place(3))?;
    waits(ids[3])
}

fn the_same_utcb(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    stage.run(a, clock().with_word(-13, 0x77).with_word(20, 0x88))?;
    controls("the same one", 0, [a.id(), a.id(), NIL, NIL], UTCB_START)?;
    let output = stage.run(a, clock())?;
    equal("its words stay", 0x77, output.word(-13))?;
    equal("its message registers stay", 0x88, output.word(20))
}

fn another_utcb(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    let kept = [
        (ControlWord::UserDefinedHandle, 0x11),
        (ControlWord::TransferTimeouts, 0x22),
        (ControlWord::VirtualSender, 0x33),
        (ControlWord::ThreadWord0, 0x44),
        (ControlWord::ThreadWord1, 0x55),
        (ControlWord::Flags, 0x100),
    ];
    let set = |step: Step| {
        kept.iter().fold(step, |step, (word, value)| step.with_word(*word as isize, *value))
    };
    // Relocated while it waits in a message call, and while it runs.
    let new = UTCB_START + 9 * 1024;
    stage.go(b, &[set(receive(a.id(), NEVER)).with_word(30, 0x66)])?;
    stage.block_receiving(b)?;
    controls("another place", 0, [b.id(), b.id(), NIL, NIL], new)?;
    let local = ThreadId(new + 512);
    let output = stage.run(a, exchange(b.id(), 0, 0, 0, 0, 0, NIL))?;
    equal("its new local id", local.0, output.registers.rax)?;
    let output = stage.run(a, exchange(b.local(), 0, 0, 0, 0, 0, NIL))?;
    equal("its old local id names nobody", 0, output.registers.rax)?;
    stage.run(a, send(local, ZERO, &[tag(1, 0, 0)]))?.succeeded("a message to its new name")?;
    let output = stage.finish(b)?.succeeded("its receive goes on")?;
    for (word, value) in kept {
        equal("a control word", value, output.word(word as isize))?;
    }
    equal("MyGlobalId", b.id().0, output.word(-15))?;
    equal("the pager", stage.driver().0, output.word(-12))?;
    equal("the exception handler", stage.driver().0, output.word(-11))?;
    equal("a message register", 0, output.word(30))?;
    equal("a buffer register", 0, output.word(-17))?;
    equal("RDI", local.0, output.registers.rdi)?;
    let output = stage.run(b, action(Action::ReadGs, 0, 0, 0))?;
    equal("the word at gs:0", local.0, output.registers.rax)
}

fn the_start_message(stage: &mut Stage) -> Checked {
    let a = stage.create(None)?;
    stage.require_state("it waits", a, ThreadState::Waiting)?;
    stage.let_run(20_000)?;
    stage.require_state("it still waits", a, ThreadState::Waiting)?;
    starts(stage, a)?;
    // Whatever the label is.
    let b = stage.create(None)?;
    let words = [probe::entry(), b.memory().stack()];
    stage.tell(b, &Message::of(0x7777, &words))?;
    stage.finish(b).map(|_| ())
}

fn start_messages_of_others(stage: &mut Stage) -> Checked {
    let (a, other) = (stage.create(None)?, stage.probe()?);
    let words = [tag(0, 2, 0), probe::entry(), a.memory().stack()];
    stage.run(other, send(a.id(), ZERO, &words))?.failed("another one's", SEND_TIMEOUT)?;
    stage.go(other, &[send(a.id(), NEVER, &words)])?;
    stage.block_sending(other)?;
    stage.require_state("it still waits", a, ThreadState::Waiting)?;
    stage.delete(other)?;
    starts(stage, a)
}

fn start_messages_of_another_shape(stage: &mut Stage) -> Checked {
    for count in [0, 1, 3, 8] {
        let a = stage.create(None)?;
        let words = [probe::entry(), a.memory().stack(), 0, 0, 0, 0, 0, 0];
        stage.tell(a, &Message::of(0, &words[..count]))?;
        stage.let_run(2000)?;
        stage.require_state("it is stopped", a, ThreadState::Inactive)?;
        // ExchangeRegisters starts it.
        stage.reset(a)?;
        stage.run(a, clock())?;
    }
    // An instruction pointer that is none.
    let a = stage.create(None)?;
    stage.tell(a, &Message::of(0, &[0xffff_8000_0000_0000, a.memory().stack()]))?;
    stage.let_run(2000)?;
    stage.require_state("it is stopped", a, ThreadState::Inactive)
}

fn how_a_thread_starts(stage: &mut Stage) -> Checked {
    // After others have left something in the registers.
    let dirty = stage.probe()?;
    stage.run(dirty, action(Action::SetVectors, 0xdead, 0xdead, 0xdead))?;
    let a = stage.probe()?;
    let initial = a.memory().initial();
    let registers = initial.registers;
    holds("registers are zero", registers == heliox_l4::raw::Registers::default())?;
    equal("the flags", 0x202, initial.flags)?;
    let state = stage.run(a, action(Action::GetVectorState, 0, 0, 0))?.registers;
    equal("XMM0", 0, state.rax)?;
    equal("XMM15", 0, state.rcx)?;
    equal("the x87 control word", 0x37f, state.rdx & 0xffff)?;
    equal("MXCSR", 0x1f80, state.r8 & 0xffff_ffff)
}

fn changing_nothing(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    stage.go(a, &[receive(a.id(), NEVER)])?;
    stage.block_receiving(a)?;
    controls("changing nothing", 0, [a.id(), a.id(), NIL, NIL], KEEP)?;
    stage.require_state("it waits as before", a, ThreadState::Waiting)?;
    let found = refused("looking at it", control::inspect(a.id()))?;
    equal("its pager", stage.driver().0, found.pager.0)?;
    equal("its local id", a.local().0, found.thread.0)?;
    refused("scheduling it", schedule::set_priority(a.id(), 99))
}

/// The same number in another version.
fn renamed(probe: Probe, by: u32) -> ThreadId {
    let version = probe.global().version() + 64 * by;
    GlobalId::new(probe.global().number(), version).map_or(NIL, ThreadId::from)
}

fn another_version(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    let new = renamed(b, 1);
    controls("renaming", 0, [new, b.id(), NIL, NIL], KEEP)?;
    holds("the old id names nobody", !exists(b.id()))?;
    holds("the new one does", exists(new))?;
    let output = stage.run(a, exchange(new, 0, 0, 0, 0, 0, NIL))?;
    equal("its local id", b.local().0, output.registers.rax)?;
    // The word, read by a neighbour.
    let at = b.local().0 - 120;
    stage.require_word("MyGlobalId", a, at, new.0)
}

fn partners_of_a_renamed_thread(stage: &mut Stage) -> Checked {
    let (a, sender, receiver) = (stage.probe()?, stage.probe()?, stage.probe()?);
    let caller = stage.probe()?;
    stage.go(sender, &[send(a.id(), NEVER, &[0])])?;
    stage.block_sending(sender)?;
    stage.go(receiver, &[receive(a.id(), NEVER)])?;
    stage.block_receiving(receiver)?;
    stage.go(caller, &[call(a.id(), &[0])])?;
    stage.block_sending(caller)?;
    controls("renaming", 0, [renamed(a, 1), a.id(), NIL, NIL], KEEP)?;
    stage.finish(sender)?.failed("a sender", SEND_NO_PARTNER)?;
    stage.finish(caller)?.failed("a caller", SEND_NO_PARTNER)?;
    stage.finish(receiver)?.failed("a receiver", RECEIVE_NO_PARTNER)
}

fn a_renamed_thread_stops(stage: &mut Stage) -> Checked {
    for phase in 0..3 {
        let a = stage.probe()?;
        let other = stage.probe()?;
        match phase {
            0 => {
                stage.go(a, &[receive(other.id(), NEVER)])?;
                stage.block_receiving(a)?;
            }
            1 => {
                stage.go(a, &[send(other.id(), NEVER, &[0])])?;
                stage.block_sending(a)?;
            }
            _ => {
                stage.go(a, &[a.spin()])?;
                stage.let_run(1000)?;
            }
        }
        let new = renamed(a, 1);
        controls("renaming", 0, [new, a.id(), NIL, NIL], KEEP)?;
        let state = refused("its state", schedule::thread_state(new))?;
        equal("it is stopped", ThreadState::Inactive as u64, state as u64)?;
        let count = a.count(0);
        stage.let_run(10_000)?;
        equal("it does nothing", count, a.count(0))?;
        let output = stage.run(other, receive(ANY, ZERO))?;
        output.failed("nothing of it waits", crate::steps::RECEIVE_TIMEOUT)?;
        // It is started again: its first message comes under its new name.
        let (stack, entry) = (a.memory().stack(), probe::entry());
        restart(stage, new, stack, entry)?;
        stage.delete(other)?;
    }
    Ok(())
}

/// Starts a thread under a name that the stage does not know, and waits for its first message.
fn restart(_stage: &mut Stage, id: ThreadId, stack: u64, entry: u64) -> Checked {
    let registers = heliox_l4::raw::Registers {
        rax: id.0,
        rsi: 0x11e,
        rdx: stack,
        r8: entry,
        ..Default::default()
    };
    let answer = probe::system_call(SystemCall::ExchangeRegisters, registers);
    at_least("starting it", 1, answer.rax)?;
    let limit = heliox_l4::Time::from_period(1_000_000);
    let mut nothing = heliox_l4::message::Acceptance::NOTHING.clone();
    let message = sent("its first message", heliox_l4::receive_with(id, limit, &mut nothing))?;
    equal("its label", probe::DONE, message.label())
}

fn renaming_before_activation(stage: &mut Stage) -> Checked {
    let id = stage.spare(0);
    let me = stage.driver();
    let space = stage.probe()?;
    controls("a thread", 0, [id.into(), space.id(), me, NIL], KEEP)?;
    let new = GlobalId::new(id.number(), id.version() + 64).map_or(NIL, ThreadId::from);
    controls("renaming it", 0, [new, space.id(), NIL, NIL], KEEP)?;
    holds("the old id names nobody", !exists(id.into()))?;
    controls("making it active", 0, [new, space.id(), NIL, me], UTCB_START + 5 * 1024)?;
    let state = refused("its state", schedule::thread_state(new))?;
    equal("it waits for its start message", ThreadState::Waiting as u64, state as u64)
}

fn an_old_version_again(stage: &mut Stage) -> Checked {
    let (a, other) = (stage.probe()?, stage.probe()?);
    let new = renamed(a, 1);
    controls("renaming", 0, [new, a.id(), NIL, NIL], KEEP)?;
    controls("back again", 0, [a.id(), new, NIL, NIL], KEEP)?;
    holds("the other version names nobody", !exists(new))?;
    stage.reset(a)?;
    stage.go(a, &[receive(other.id(), NEVER)])?;
    stage.block_receiving(a)?;
    stage.run(other, send(a.id(), ZERO, &[tag(1, 0, 0)]))?.succeeded("a message")?;
    stage.finish(a)?.succeeded("its receive").map(|_| ())
}

fn deleting(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    controls("deleting", 0, [a.id(), NIL, NIL, NIL], KEEP)?;
    holds("it is gone", !exists(a.id()))?;
    controls("again", 0, [a.id(), NIL, NIL, NIL], KEEP)?;
    controls("under another version", 0, [renamed(b, 3), NIL, NIL, NIL], KEEP)?;
    holds("it is gone", !exists(b.id()))?;
    controls("one that never was", 0, [stage.spare(3).into(), NIL, NIL, NIL], KEEP)
}

fn deleting_oneself(stage: &mut Stage) -> Checked {
    // Threads of this program's space may: one that does nothing else.
    static STACK: Stack<8192> = Stack::new();
    fn delete_myself(_: u64) {
        if let Some(id) = utcb::global_id().global() {
            let _ = control::delete(id);
        }
    }
    let id = stage.spare(0);
    let me = stage.driver();
    let place = Place { id, utcb: 2, scheduler: me, pager: me };
    let thread = match spawn(place, &STACK, delete_myself, 0) {
        Ok(thread) => thread,
        Err(_) => return fail("a thread of this space", utcb::error_code()),
    };
    stage.let_run(5000)?;
    let gone = !exists(id.into());
    // The stack is free again in either case.
    let deleted = refused("deleting it again", thread.delete());
    holds("it is gone", gone)?;
    deleted
}

fn the_end_of_a_space(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let offset = stage.page();
    stage.memory.large.write(offset, 0x31);
    stage.give(a, offset, RW, PLACE)?;
    stage.pass_mapping(a, b, crate::steps::page(PLACE, R), PLACE)?;
    stage.require_word("while the space is there", b, PLACE, 0x31)?;
    stage.delete(a)?;
    stage.require_nothing("when it is gone", b, PLACE)?;
    // Its number makes a new space: not configured.
    controls("a new space", 0, [a.id(), a.id(), stage.driver(), NIL], KEEP)?;
    controls("it is not the old one", 6, [a.id(), a.id(), NIL, stage.driver()], UTCB_START)
}

fn moving(stage: &mut Stage) -> Checked {
    let (a, b, other) = (stage.probe()?, stage.probe()?, stage.probe()?);
    let (here, there) = (stage.page(), stage.page());
    stage.memory.large.write(here, 0x1111);
    stage.memory.large.write(there, 0x2222);
    stage.give(a, here, R, PLACE)?;
    stage.give(b, there, R, PLACE)?;
    stage.require_word("before", a, PLACE, 0x1111)?;
    // To a place that is taken, or outside of the area.
    controls("a UTCB that is taken", 6, [a.id(), b.id(), NIL, NIL], UTCB_START)?;
    controls("its own, which is taken there", 6, [a.id(), b.id(), NIL, NIL], KEEP)?;
    // What it waits for is aborted.
    stage.go(a, &[receive(other.id(), NEVER), action(Action::Read, PLACE, 0, 0)])?;
    stage.block_receiving(a)?;
    let place = UTCB_START + 3 * 1024;
    controls("moving", 0, [a.id(), b.id(), NIL, NIL], place)?;
    let output = stage.finish(a)?;
    equal("what it reads there", 0x2222, output.registers.rax)?;
    let aborted = a.memory().output(0);
    equal("its tag", 0x8000, aborted.registers.r9)?;
    holds(
        "its receive was aborted",
        aborted.error() & 0xf == RECEIVE_CANCELLED || aborted.error() & 0xf == 15,
    )?;
    let output = stage.run(b, exchange(a.id(), 0, 0, 0, 0, 0, NIL))?;
    equal("its new local id", place + 512, output.registers.rax)
}

fn moving_to_where_nothing_is(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let empty = stage.spare(0);
    refused("a space", control::Space::create(empty, stage.driver()))?;
    controls("moving", 3, [a.id(), empty.into(), NIL, NIL], UTCB_START)?;
    stage.run(a, clock())?;
    // One that is not active may.
    let id = stage.spare(1).into();
    controls("a thread", 0, [id, a.id(), stage.driver(), NIL], KEEP)?;
    controls("moving it", 0, [id, empty.into(), NIL, NIL], KEEP)
}

fn versions_and_numbers_that_are_none(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let me = stage.driver();
    let bits = raw::page().thread_bits();
    for number in [1_u64 << bits, (1 << bits) + 50, u64::from(u32::MAX)] {
        if number >> 32 == 0 {
            let id = ThreadId(number << 32 | 1);
            controls("a number that there is not", 2, [id, id, me, NIL], KEEP)?;
        }
    }
    let number = a.id().0 >> 32 << 32;
    for version in [0, 64, 0x1000] {
        let id = ThreadId(number | version);
        controls("renaming to no version", 2, [id, a.id(), NIL, NIL], KEEP)?;
    }
    stage.run(a, clock()).map(|_| ())
}

fn failures_change_nothing(stage: &mut Stage) -> Checked {
    let (a, other) = (stage.probe()?, stage.probe()?);
    let me = stage.driver();
    let nobody = stage.spare(0).into();
    stage.go(a, &[receive(other.id(), NEVER)])?;
    stage.block_receiving(a)?;
    // Everything else in the call would be possible.
    let new = renamed(a, 1);
    controls("a scheduler that is none", 4, [new, a.id(), nobody, other.id()], UTCB_START + 4096)?;
    controls("a UTCB that is none", 6, [new, a.id(), me, other.id()], UTCB_START + 512)?;
    controls("a space that is none", 3, [new, nobody, me, other.id()], UTCB_START + 4096)?;
    holds("it has its version", exists(a.id()) && !exists(new))?;
    let found = refused("looking at it", control::inspect(a.id()))?;
    equal("its pager", me.0, found.pager.0)?;
    equal("its local id", a.local().0, found.thread.0)?;
    stage.run(other, send(a.id(), ZERO, &[tag(1, 0, 0)]))?.succeeded("a message")?;
    stage.finish(a)?.succeeded("its receive").map(|_| ())
}

fn another_pager(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    controls("another pager", 0, [a.id(), a.id(), NIL, b.id()], KEEP)?;
    stage.go(b, &[receive(a.id(), NEVER)])?;
    stage.block_receiving(b)?;
    let output = stage.run(a, clock())?;
    equal("word -12", b.id().0, output.word(ControlWord::Pager as isize))?;
    stage.go(a, &[action(Action::Read, PLACE, 0, 0)])?;
    let output = stage.finish(b)?.succeeded("its fault")?;
    equal("the address", PLACE, output.message_register(1))
}

fn another_scheduler(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    controls("another scheduler", 0, [a.id(), a.id(), b.id(), NIL], KEEP)?;
    let state = schedule::thread_state(a.id());
    let refusal = state.map_or_else(|control::Refused(code)| code, |_| 0);
    equal("the old one may not any more", 1, refusal)?;
    let step = crate::steps::schedule(a.id(), KEEP, KEEP, KEEP, KEEP);
    let output = stage.run(b, step)?;
    equal("the new one may", ThreadState::Waiting as u64, output.registers.rax)
}

fn until_memory_ends(stage: &mut Stage) -> Checked {
    let me = stage.driver();
    let base = raw::page().user_base() + 200;
    let most = (1_u64 << raw::page().thread_bits()).min(1 << 18) as u32;
    let utcbs = Flexpage::memory(UTCB_START, 12, 0);
    // Spaces with a thread each, until one is refused.
    let mut made = 0;
    let mut refusal = 0;
    for number in base..most {
        let Some(id) = GlobalId::new(number, 1) else { continue };
        let result = control::Space::create(id, me)
            .and_then(|space| {
                space.configure(KIP_AREA, utcbs, NIL)?;
                space.thread(id, me, me, UTCB_START)
            })
            .map(|_| ());
        match result {
            Ok(()) => made += 1,
            Err(control::Refused(code)) => {
                refusal = code;
                break;
            }
        }
    }
    let other_works = stage.probe_or_refusal()?;
    for number in base..(base + made + 1).min(most) {
        if let Some(id) = GlobalId::new(number, 1) {
            refused("deleting what was made", control::delete(id))?;
        }
    }
    at_least("spaces", 8, made.into())?;
    // Either memory ends, or thread numbers do.
    if refusal != 0 {
        equal("the refusal", 8, refusal)?;
        holds("another one is refused in the same way", !other_works)?;
    }
    let probe = stage.probe()?;
    stage.run(probe, clock())?;
    // As many again.
    let mut again = 0;
    for number in base..base + made {
        let Some(id) = GlobalId::new(number, 1) else { continue };
        let space = refused("a space again", control::Space::create(id, me))?;
        refused("its areas", space.configure(KIP_AREA, utcbs, NIL))?;
        refused("its thread", space.thread(id, me, me, UTCB_START))?;
        again += 1;
        // All of them would take as long again; a part shows that nothing was lost.
        if again == made / 2 {
            break;
        }
    }
    for number in base..base + again {
        if let Some(id) = GlobalId::new(number, 1) {
            refused("deleting them again", control::delete(id))?;
        }
    }
    Ok(())
}

static RESULT: AtomicU64 = AtomicU64::new(0);

fn who_is_privileged(stage: &mut Stage) -> Checked {
    // A new space.
    without_privilege(stage)?;
    // This program's own.
    static STACK: Stack<8192> = Stack::new();
    fn create_a_space(number: u64) {
        let id = ThreadId(number);
        let me = utcb::global_id();
        let result = id.global().map_or(0, |id| match control::Space::create(id, me) {
            Ok(_) => 1,
            Err(control::Refused(code)) => 0x100 | code,
        });
        RESULT.store(result, Ordering::Relaxed);
    }
    let (id, space) = (stage.spare(0), stage.spare(1));
    let me = stage.driver();
    let place = Place { id, utcb: 2, scheduler: me, pager: me };
    RESULT.store(0, Ordering::Relaxed);
    let thread = match spawn(place, &STACK, create_a_space, space.word()) {
        Ok(thread) => thread,
        Err(_) => return fail("a thread of this space", utcb::error_code()),
    };
    stage.let_run(5000)?;
    let deleted = refused("deleting it", thread.delete());
    equal("a new thread in root's space makes a space", 1, RESULT.load(Ordering::Relaxed))?;
    deleted
}

fn deleting_in_any_state(stage: &mut Stage) -> Checked {
    let other = stage.probe()?;
    for state in 0..7 {
        let a = match state {
            0 => stage.create(None)?,
            _ => stage.probe()?,
        };
        match state {
            0 | 1 => {}
            2 => {
                stage.go(a, &[send(other.id(), NEVER, &[0])])?;
                stage.block_sending(a)?;
            }
            3 => {
                stage.go(a, &[receive(other.id(), NEVER)])?;
                stage.block_receiving(a)?;
            }
            4 => {
                stage.go(a, &[action(Action::Read, PLACE, 0, 0)])?;
                stage.page_fault(a)?;
            }
            5 => {
                stage.go(a, &[a.spin()])?;
                stage.let_run(1000)?;
                refused("halting it", control::stop(a.id()))?;
            }
            _ => {
                stage.go(a, &[a.spin()])?;
                stage.let_run(1000)?;
            }
        }
        stage.delete(a)?;
        holds("it is gone", !exists(a.id()))?;
        let output = stage.run(other, receive(ANY, ZERO))?;
        output.failed("nothing of it is left", crate::steps::RECEIVE_TIMEOUT)?;
    }
    Ok(())
}

fn any_thread_names_its_space(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let me = stage.driver();
    let idle = stage.spare(0).into();
    controls("a thread that is not active", 0, [idle, a.id(), me, NIL], KEEP)?;
    let id = stage.spare(1).into();
    controls("a thread in its space", 0, [id, idle, me, me], UTCB_START + 5 * 1024)?;
    let output = stage.run(a, exchange(id, 0, 0, 0, 0, 0, NIL))?;
    equal("it is in the same space", UTCB_START + 5 * 1024 + 512, output.registers.rax)?;
    let options = Options { beside: Some(a), ..Options::NEW_SPACE };
    let beside = stage.probe_with(options)?;
    stage.run(beside, clock())?;
    Ok(())
}
