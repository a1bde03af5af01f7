//! FAULT: page faults.

use heliox_l4::abi::ThreadState;
use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::message::{Mapping, Message};
use heliox_l4::probe::{Action, Step, Target};
use heliox_l4::raw::Registers;
use heliox_l4::{Flexpage, ThreadId, Time, control};

use crate::case::{Checked, cases, equal, holds};
use crate::stage::{PLACE, Probe, Stage, refused};
use crate::steps::{
    MessageOutput, NEVER, R, RW, RWX, RX, SEND_TIMEOUT, ZERO, action, clock, exchange, grant_words,
    map_words, page, receive, send, tag, with_control,
};

cases! {
    "FAULT-1" => messages,
    "FAULT-2" => senders,
    "FAULT-3" => mapping_cures,
    "FAULT-4" => nothing_else_changes,
    "FAULT-5" => words_in_the_answer,
    "FAULT-6" => answers_without_memory,
    "FAULT-7" => no_pager,
    "FAULT-8" => the_pager_is_deleted,
    "FAULT-9" => resuming_tries_again,
    "FAULT-10" => its_own_pager,
    "FAULT-11" => addresses_of_the_kernel,
    "FAULT-12" => addresses_that_are_not_canonical,
    "FAULT-13" => writing_what_can_be_read,
    "FAULT-14" => only_the_pagers_answer,
    "FAULT-15" => nonsense_answers,
    "FAULT-16" => waiting_for_the_pager_is_running,
    "FAULT-17" => faults_wait,
}

const PAGER: isize = ControlWord::Pager as isize;

fn messages(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let code = stage.page();
    stage.memory.large.write(code, 0xc3);
    for (step, tag, address, rights) in [
        (action(Action::Read, PLACE + 0x128, 0, 0), 0xffff_ffff_ffe4_0002, PLACE + 0x128, R),
        (action(Action::Write, PLACE + 0x2468, 1, 0), 0xffff_ffff_ffe2_0002, PLACE + 0x2468, RW),
        (action(Action::Execute, PLACE + 0x5000, 0, 0), 0xffff_ffff_ffe1_0002, PLACE + 0x5000, RX),
    ] {
        stage.go(probe, &[step])?;
        let fault = stage.page_fault(probe)?;
        equal("the tag", tag, fault.tag)?;
        equal("the address", address, fault.address)?;
        let execution = tag == 0xffff_ffff_ffe1_0002;
        if execution {
            equal("the instruction pointer", address, fault.instruction)?;
        } else {
            let action = if rights == R { Action::Read } else { Action::Write };
            equal("the instruction pointer", action.address(), fault.instruction)?;
        }
        stage.map_to(probe.id(), stage.mapping(code, rights, address & !0xfff))?;
        stage.finish(probe)?;
    }
    Ok(())
}

fn senders(stage: &mut Stage) -> Checked {
    let pager = stage.probe()?;
    let (stranger, neighbour) = (stage.probe()?, stage.probe_beside(pager)?);
    for (probe, name) in [(stranger, stranger.id()), (neighbour, neighbour.local())] {
        stage.go(pager, &[receive(ThreadId::ANY, NEVER)])?;
        stage.block_receiving(pager)?;
        let step = action(Action::Read, PLACE, 0, 0).with_word(PAGER, pager.id().0);
        stage.go(probe, &[step])?;
        let output = stage.finish(pager)?.succeeded("the fault")?;
        equal("the sender", name.0, output.from().0)?;
    }
    Ok(())
}

fn mapping_cures(stage: &mut Stage) -> Checked {
    let (probe, pager) = (stage.probe()?, stage.probe()?);
    let offset = stage.page();
    stage.memory.large.write(offset, 0x1234);
    for grant in [false, true] {
        stage.give(pager, offset, RW, PLACE)?;
        let at = if grant { PLACE + 0x1000 } else { PLACE };
        let words =
            if grant { grant_words(page(PLACE, RW), at) } else { map_words(page(PLACE, RW), at) };
        stage.go(pager, &[receive(probe.id(), NEVER), send(probe.id(), ZERO, &words)])?;
        stage.block_receiving(pager)?;
        // Whatever window its own buffer registers name, the complete address space is meant.
        let step = action(Action::Read, at, 0, 0).with_word(PAGER, pager.id().0).with_word(-16, 0);
        let output = stage.run(probe, step)?;
        equal("the word", 0x1234, output.registers.rax)?;
        stage.finish(pager)?.succeeded("the answer")?;
    }
    stage.require_nothing("the pager's page, which was granted", pager, PLACE)
}

fn nothing_else_changes(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let offset = stage.page();
    stage.memory.large.write(offset, 0x77);
    let registers = Registers {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: PLACE,
        rbp: 7,
        r8: 8,
        r9: 9,
        r10: 10,
        r11: 11,
        r12: 12,
        r13: 13,
        r14: 14,
        r15: 15,
    };
    let mut step = Step::new(Target::Action(Action::Read), registers).with_flags(0x202 | 0x8d1);
    for word in 0..64 {
        step = step.with_word(word, 0x9000 + word as u64);
    }
    for buffer in 0..33 {
        step = step.with_word(-16 - buffer, 0xb000 + buffer as u64);
    }
    step = with_control(step, ControlWord::ErrorCode, 0x55);
    step = with_control(step, ControlWord::VirtualSender, 0x66);
    step = with_control(step, ControlWord::TransferTimeouts, 0x77);
    stage.go(probe, &[step])?;
    stage.page_fault(probe)?;
    stage.map_to(probe.id(), stage.mapping(offset, R, PLACE))?;
    let output = stage.finish(probe)?;
    let expected = Registers { rax: 0x77, ..registers };
    holds("the registers", expected == output.registers)?;
    equal("the flags", 0x202 | 0x8d1, output.flags)?;
    for word in 0..64 {
        equal("a message register", 0x9000 + word as u64, output.word(word))?;
    }
    for buffer in 0..33 {
        equal("a buffer register", 0xb000 + buffer as u64, output.word(-16 - buffer))?;
    }
    equal("ErrorCode", 0x55, output.word(-9))?;
    equal("VirtualSender", 0x66, output.word(-6))?;
    equal("the transfer timeouts", 0x77, output.word(-8))
}

fn words_in_the_answer(stage: &mut Stage) -> Checked {
    let (probe, pager) = (stage.probe()?, stage.probe()?);
    let offset = stage.page();
    stage.give(pager, offset, RW, PLACE)?;
    let mut step = action(Action::Write, PLACE, 0x42, 0).with_word(PAGER, pager.id().0);
    for word in 0..64 {
        step = step.with_word(word, 0x9000 + word as u64);
    }
    // Words alone, and then words and an item.
    let mut words = [0x6666; 64];
    words[0] = tag(0x123, 63, 0);
    let mut answer = words;
    answer[0] = tag(0x123, 61, 2);
    answer[62..].copy_from_slice(&map_words(page(PLACE, RW), PLACE)[1..]);
    stage.go(
        pager,
        &[
            receive(probe.id(), NEVER),
            send(probe.id(), NEVER, &words),
            receive(probe.id(), NEVER),
            send(probe.id(), NEVER, &answer),
        ],
    )?;
    stage.block_receiving(pager)?;
    let output = stage.run(probe, step)?;
    stage.finish(pager)?.succeeded("the pager's answers")?;
    for word in 0..64 {
        equal("a message register", 0x9000 + word as u64, output.word(word))?;
    }
    equal("what was written", 0x42, stage.memory.large.read(offset))
}

fn answers_without_memory(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let offset = stage.page();
    stage.go(probe, &[action(Action::Read, PLACE, 0, 0)])?;
    for answer in 0..4 {
        let fault = stage.page_fault(probe)?;
        equal("the address", PLACE, fault.address)?;
        match answer {
            0 => stage.tell(probe, &Message::new(0))?,
            1 => stage.map_to(probe.id(), Mapping::NOTHING)?,
            2 => stage.map_to(probe.id(), stage.mapping(offset, R, PLACE + 0x1000))?,
            _ => stage.tell(probe, &Message::of(0x99, &[1, 2, 3]))?,
        }
    }
    stage.page_fault(probe)?;
    stage.map_to(probe.id(), stage.mapping(offset, R, PLACE))?;
    stage.finish(probe).map(|_| ())
}

/// Waits until Schedule says that a probe is not active or halted.
fn halts(stage: &mut Stage, what: &'static str, probe: Probe) -> Checked {
    let state = stage.block(probe)?;
    equal(what, ThreadState::Inactive as u64, state as u64)
}

fn no_pager(stage: &mut Stage) -> Checked {
    for pager in [ThreadId::NIL, stage.spare(0).into(), ThreadId::ANY, ThreadId(20 << 32 | 1)] {
        let probe = stage.probe()?;
        stage.go(probe, &[action(Action::Read, PLACE, 0, 0).with_word(PAGER, pager.0)])?;
        halts(stage, "a thread without a pager", probe)?;
        stage.delete(probe)?;
    }
    Ok(())
}

fn the_pager_is_deleted(stage: &mut Stage) -> Checked {
    for answers in [false, true] {
        let (probe, pager) = (stage.probe()?, stage.probe()?);
        if answers {
            stage.go(pager, &[receive(probe.id(), NEVER)])?;
            stage.block_receiving(pager)?;
        }
        stage.go(probe, &[action(Action::Read, PLACE, 0, 0).with_word(PAGER, pager.id().0)])?;
        if answers {
            stage.finish(pager)?.succeeded("the pager has the fault")?;
        } else {
            stage.let_run(2000)?;
        }
        stage.require_state("the thread waits", probe, ThreadState::Running)?;
        stage.delete(pager)?;
        halts(stage, "a thread whose pager was deleted", probe)?;
    }
    Ok(())
}

fn resuming_tries_again(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let neighbour = stage.probe_beside(probe)?;
    let offset = stage.page();
    stage.memory.large.write(offset, 0x31);
    stage.go(probe, &[action(Action::Read, PLACE, 0, 0).with_word(PAGER, 0)])?;
    halts(stage, "a thread without a pager", probe)?;
    // Without a pager only its neighbours may set one.
    let set = exchange(probe.id(), 1 << 7, 0, 0, 0, 0, stage.driver());
    equal("setting its pager", probe.local().0, stage.run(neighbour, set)?.registers.rax)?;
    refused("resuming it", control::resume(probe.id()))?;
    let fault = stage.page_fault(probe)?;
    equal("the address", PLACE, fault.address)?;
    stage.map_to(probe.id(), stage.mapping(offset, R, PLACE))?;
    equal("the word", 0x31, stage.finish(probe)?.registers.rax)
}

fn its_own_pager(stage: &mut Stage) -> Checked {
    let (probe, other) = (stage.probe()?, stage.probe()?);
    stage.go(probe, &[action(Action::Read, PLACE, 0, 0).with_word(PAGER, probe.id().0)])?;
    stage.let_run(5000)?;
    holds("it does not go on", !stage.is_done(probe)?)?;
    stage.run(other, clock())?;
    stage.delete(probe)?;
    let state = refused("asking", heliox_l4::schedule::thread_state(probe.id()))?;
    equal("it is gone", ThreadState::Dead as u64, state as u64)
}

fn addresses_of_the_kernel(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let offset = stage.page();
    for at in [0xffff_8000_0000_0000, 0xffff_ffff_8020_0000, 0xffff_ffff_ffff_fff8] {
        for (step, access) in [
            (action(Action::Read, at, 0, 0), 4),
            (action(Action::Write, at, 0, 0), 2),
            (action(Action::Execute, at, 0, 0), 1),
        ] {
            stage.go(probe, &[step])?;
            for _ in 0..2 {
                let fault = stage.page_fault(probe)?;
                equal("the address", at, fault.address)?;
                equal("the access", access, fault.access)?;
                stage.map_to(probe.id(), stage.mapping(offset, RWX, at & !0xfff))?;
            }
            stage.page_fault(probe)?;
            stage.reset(probe)?;
        }
    }
    Ok(())
}

fn addresses_that_are_not_canonical(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for at in [0x8000_0000_0000, 0xffff_7fff_ffff_ff00, 0x4000_0000_0000_0000] {
        for (step, vector) in [
            (action(Action::Read, at, 0, 0), 13),
            (action(Action::Write, at, 0, 0), 13),
            // It pushes below that.
            (action(Action::PushAt, at + 8, 0, 0), 12),
        ] {
            stage.go(probe, &[step])?;
            let exception = stage.exception(probe)?;
            if exception.vector() != 13 {
                equal("the exception's number", vector, exception.vector())?;
            }
            equal("its error code", 0, exception.error_code())?;
            stage.reset(probe)?;
        }
    }
    Ok(())
}

fn writing_what_can_be_read(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let offset = stage.page();
    stage.give(probe, offset, R, PLACE)?;
    stage.require_word("it can be read", probe, PLACE, 0)?;
    stage.go(probe, &[action(Action::Write, PLACE + 8, 0x99, 0)])?;
    let fault = stage.page_fault(probe)?;
    equal("the access", 2, fault.access)?;
    equal("the address", PLACE + 8, fault.address)?;
    // The right to read again does not help.
    stage.map_to(probe.id(), stage.mapping(offset, R, PLACE))?;
    stage.page_fault(probe)?;
    stage.map_to(probe.id(), stage.mapping(offset, RW, PLACE))?;
    stage.finish(probe)?;
    equal("what was written", 0x99, stage.memory.large.read(offset + 8))
}

fn only_the_pagers_answer(stage: &mut Stage) -> Checked {
    let (probe, other) = (stage.probe()?, stage.probe()?);
    let offset = stage.page();
    stage.give(other, offset, RW, PLACE)?;
    stage.go(probe, &[action(Action::Read, PLACE, 0, 0), receive(other.id(), NEVER)])?;
    stage.page_fault(probe)?;
    let words = map_words(page(PLACE, RW), PLACE);
    stage.run(other, send(probe.id(), ZERO, &words))?.failed("another's answer", SEND_TIMEOUT)?;
    stage.go(other, &[send(probe.id(), NEVER, &[tag(5, 0, 0)])])?;
    stage.block_sending(other)?;
    stage.require_state("it still waits", probe, ThreadState::Running)?;
    stage.map_to(probe.id(), stage.mapping(offset, R, PLACE))?;
    let output = stage.finish(probe)?.succeeded("the other's message, later")?;
    equal("its tag", tag(5, 0, 0), output.registers.r9)?;
    stage.finish(other)?.succeeded("the other's send").map(|_| ())
}

fn nonsense_answers(stage: &mut Stage) -> Checked {
    let (probe, other) = (stage.probe()?, stage.probe()?);
    let pager = stage.probe()?;
    // The pager faults itself while it should answer; its own pager is this case.
    stage.go(pager, &[receive(probe.id(), NEVER), action(Action::Read, PLACE, 0, 0)])?;
    stage.block_receiving(pager)?;
    stage.go(probe, &[action(Action::Read, PLACE, 0, 0).with_word(PAGER, pager.id().0)])?;
    stage.page_fault(pager)?;
    stage.reset(pager)?;
    // Mappings to everywhere and nowhere, and items that are none.
    let own = stage.page();
    stage.give(pager, own, RWX, PLACE)?;
    let base = page(PLACE, RWX).0;
    for words in [
        [tag(0, 0, 2), 0xffff_ffff_ffff_f000 | 8, base],
        [tag(0, 0, 2), 8, Flexpage::COMPLETE.0 | 7],
        [tag(0, 0, 2), u64::MAX, u64::MAX],
        [tag(0, 0, 1), 8, base],
        [tag(0, 63, 63), 8, base],
        [tag(0, 0, 2), 100 << 10, PLACE],
    ] {
        // The first send wakes it; it faults again, and the pager hears of it.
        stage.go(pager, &[send(probe.id(), Time::from_period(200_000), &words)])?;
        stage.finish(pager)?;
        let output = stage.run(pager, receive(probe.id(), Time::from_period(200_000)))?;
        // It may be that what was mapped cured the fault.
        if output.registers.r9 & 0x8000 != 0 || stage.is_done(probe)? {
            break;
        }
    }
    stage.run(other, clock())?;
    stage.run(pager, clock())?;
    stage.delete(probe)
}

fn waiting_for_the_pager_is_running(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.go(probe, &[action(Action::Read, PLACE, 0, 0)])?;
    stage.page_fault(probe)?;
    stage.require_state("it waits for the answer", probe, ThreadState::Running)?;
    // And while the pager does not take the message.
    let (faulter, pager) = (stage.probe()?, stage.probe()?);
    stage.go(faulter, &[action(Action::Read, PLACE, 0, 0).with_word(PAGER, pager.id().0)])?;
    stage.let_run(2000)?;
    stage.require_state("it waits for its pager", faulter, ThreadState::Running)
}

fn faults_wait(stage: &mut Stage) -> Checked {
    let (probe, pager) = (stage.probe()?, stage.probe()?);
    stage.go(probe, &[action(Action::Read, PLACE, 0, 0).with_word(PAGER, pager.id().0)])?;
    stage.let_run(50_000)?;
    let output = stage.run(pager, receive(probe.id(), ZERO))?.succeeded("the fault, much later")?;
    equal("the address", PLACE, output.message_register(1))
}
