//! EXCEPTION: exceptions.

use heliox_l4::abi::ThreadState;
use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::message::Message;
use heliox_l4::probe::{Action, Step, Target};
use heliox_l4::raw::Registers;
use heliox_l4::{ThreadId, control};

use crate::case::{Checked, cases, equal, holds};
use crate::stage::{PLACE, Probe, Stage, refused};
use crate::steps::{MessageOutput, NEVER, RW, action, clock, receive};

cases! {
    "EXCEPTION-1" => messages,
    "EXCEPTION-2" => registers_in_the_message,
    "EXCEPTION-3" => numbers,
    "EXCEPTION-4" => instruction_pointers,
    "EXCEPTION-5" => answers_load_registers,
    "EXCEPTION-6" => answers_load_some_flags,
    "EXCEPTION-7" => short_answers,
    "EXCEPTION-8" => no_handler,
    "EXCEPTION-9" => the_handler_is_deleted,
    "EXCEPTION-10" => impossible_instruction_pointers,
    "EXCEPTION-11" => software_interrupts,
    "EXCEPTION-12" => single_steps,
    "EXCEPTION-13" => others_go_on,
    "EXCEPTION-14" => nothing_else_changes,
}

const HANDLER: isize = ControlWord::ExceptionHandler as isize;

fn messages(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.go(probe, &[action(Action::InvalidInstruction, 0, 0, 0)])?;
    let event = stage.event("an exception", probe)?;
    equal("the tag", 0xffff_ffff_ffb0_0014, event.words.tag().0)?;
    equal("the sender", probe.id().0, event.from.0)?;
    equal("its number", 6, event.words.word(19))?;
    equal("its error code", 0, event.words.word(20))
}

fn numbered() -> Registers {
    Registers {
        rax: 0xa1,
        rbx: 0xa2,
        rcx: 0xa3,
        rdx: 0xa4,
        rsi: 0xa5,
        rdi: 0xa6,
        rbp: 0xa7,
        r8: 0xa8,
        r9: 0xa9,
        r10: 0xaa,
        r11: 0xab,
        r12: 0xac,
        r13: 0xad,
        r14: 0xae,
        r15: 0xaf,
    }
}

fn registers_in_the_message(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let step = Step::new(Target::Action(Action::InvalidInstruction), numbered());
    stage.go(probe, &[step.with_flags(0x202 | 0x8d5)])?;
    let words = stage.exception(probe)?.words;
    let r = numbered();
    let expected = [
        r.rbx, r.r10, r.r12, r.r13, r.r14, r.r15, r.rax, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8,
        r.r9, r.r11,
    ];
    for (index, value) in (2..).zip(expected) {
        equal("a register", value, words.word(index))?;
    }
    equal("the instruction pointer", Action::InvalidInstruction.address(), words.word(1))?;
    // The target, the step and the memory are on the stack, and the return address.
    equal("the stack pointer", probe.memory().stack() - 32, words.word(17))?;
    equal("the flags", 0x202 | 0x8d5, words.word(18) & 0xffff)
}

fn numbers(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let offset = stage.page();
    stage.give(probe, offset, RW, PLACE)?;
    for (step, vector, code, sure) in [
        (action(Action::Divide, 0, 0, 0), 0, 0, true),
        (action(Action::InvalidInstruction, 0, 0, 0), 6, 0, true),
        (action(Action::Breakpoint, 0, 0, 0), 3, 0, true),
        (action(Action::LoadSegment, 0x10, 0, 0), 13, 0x10, true),
        (action(Action::DisableInterrupts, 0, 0, 0), 13, 0, true),
        // Emulators do not look.
        (action(Action::ReadAligned, PLACE + 1, 0, 0), 17, 0, false),
        (action(Action::DivideSse, 0, 0, 0), 19, 0, false),
    ] {
        stage.go(probe, &[step])?;
        stage.block(probe)?;
        if !sure && stage.is_done(probe)? {
            continue;
        }
        let exception = stage.exception(probe)?;
        equal("its number", vector, exception.vector())?;
        equal("its error code", code, exception.error_code())?;
        stage.reset(probe)?;
    }
    Ok(())
}

fn instruction_pointers(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for (what, offset) in [
        // Behind three instructions of two bytes.
        (Action::Divide, 6),
        (Action::InvalidInstruction, 0),
        // A trap: behind the instruction.
        (Action::Breakpoint, 1),
    ] {
        stage.go(probe, &[action(what, 0, 0, 0)])?;
        let exception = stage.exception(probe)?;
        equal("where", what.address() + offset, exception.instruction())?;
        stage.reset(probe)?;
    }
    Ok(())
}

fn answers_load_registers(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for count in [19, 20] {
        stage.go(probe, &[action(Action::InvalidInstruction, 0, 0, 0)])?;
        let exception = stage.exception(probe)?;
        let mut words = [0; 20];
        for (index, word) in words.iter_mut().enumerate() {
            *word = exception.words.word(index + 1);
        }
        // Behind the instruction; the other registers get the numbers of their places.
        words[0] += 2;
        for (index, word) in words.iter_mut().enumerate().take(16).skip(1) {
            *word = 0xb00 + index as u64;
        }
        stage.tell(probe, &Message::of(0, &words[..count]))?;
        let r = stage.finish(probe)?.registers;
        let found = [
            r.rbx, r.r10, r.r12, r.r13, r.r14, r.r15, r.rax, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp,
            r.r8, r.r9, r.r11,
        ];
        for (index, value) in (1..).zip(found) {
            equal("a register", 0xb00 + index, value)?;
        }
    }
    // The stack pointer: the same instruction again tells what it is.
    stage.go(probe, &[action(Action::InvalidInstruction, 0, 0, 0)])?;
    let first = stage.exception(probe)?;
    stage.answer_exception(probe, &first, |words| words[16] = PLACE)?;
    let second = stage.exception(probe)?;
    equal("the stack pointer", PLACE, second.words.word(17))?;
    stage.skip(probe, &first, 2)?;
    stage.finish(probe).map(|_| ())
}

fn answers_load_some_flags(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for (set, expected) in [(0x8d5, 0x8d5), (0x7fff_ffff_ffff_ffff, 0x8d5), (0, 0)] {
        let step = action(Action::InvalidInstruction, 0, 0, 0);
        stage.go(probe, &[step.with_flags(0x202)])?;
        let exception = stage.exception(probe)?;
        stage.answer_exception(probe, &exception, |words| {
            words[0] += 2;
            words[17] = set;
        })?;
        let output = stage.finish(probe)?;
        equal("the flags", expected | 0x202, output.flags)?;
    }
    Ok(())
}

fn short_answers(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.go(probe, &[Step::new(Target::Action(Action::InvalidInstruction), numbered())])?;
    let words = [0x666; 18];
    for count in [0, 1, 12, 18] {
        let exception = stage.exception(probe)?;
        equal("where", Action::InvalidInstruction.address(), exception.instruction())?;
        equal("RBX", 0xa2, exception.words.word(2))?;
        equal("R11", 0xab, exception.words.word(16))?;
        stage.tell(probe, &Message::of(0, &words[..count]))?;
    }
    let exception = stage.exception(probe)?;
    stage.skip(probe, &exception, 2)?;
    let output = stage.finish(probe)?;
    holds("the registers", output.registers == numbered())
}

fn halts(stage: &mut Stage, probe: Probe) -> Checked {
    let state = stage.block(probe)?;
    equal("it halts", ThreadState::Inactive as u64, state as u64)
}

fn no_handler(stage: &mut Stage) -> Checked {
    for handler in [ThreadId::NIL, stage.spare(0).into(), ThreadId::ANY, ThreadId(20 << 32 | 1)] {
        let probe = stage.probe()?;
        let step = action(Action::InvalidInstruction, 0, 0, 0).with_word(HANDLER, handler.0);
        stage.go(probe, &[step])?;
        halts(stage, probe)?;
        // Resumed, it does the same again.
        refused("resuming it", control::resume(probe.id()))?;
        halts(stage, probe)?;
        stage.delete(probe)?;
    }
    Ok(())
}

fn the_handler_is_deleted(stage: &mut Stage) -> Checked {
    for takes in [false, true] {
        let (probe, handler) = (stage.probe()?, stage.probe()?);
        if takes {
            stage.go(handler, &[receive(probe.id(), NEVER)])?;
            stage.block_receiving(handler)?;
        }
        let step = action(Action::InvalidInstruction, 0, 0, 0);
        stage.go(probe, &[step.with_word(HANDLER, handler.id().0)])?;
        if takes {
            stage.finish(handler)?.succeeded("the handler has the exception")?;
        } else {
            stage.let_run(2000)?;
        }
        stage.require_state("it waits", probe, ThreadState::Running)?;
        stage.delete(handler)?;
        halts(stage, probe)?;
    }
    Ok(())
}

fn impossible_instruction_pointers(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.go(probe, &[action(Action::InvalidInstruction, 0, 0, 0)])?;
    for at in [0x8000_0000_0000, u64::MAX, 0x1234_0000_0000_0000] {
        let exception = stage.exception(probe)?;
        equal("where", Action::InvalidInstruction.address(), exception.instruction())?;
        stage.answer_exception(probe, &exception, |words| words[0] = at)?;
    }
    let exception = stage.exception(probe)?;
    stage.skip(probe, &exception, 2)?;
    stage.finish(probe).map(|_| ())
}

fn software_interrupts(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.go(probe, &[action(Action::Interrupt0x20, 0, 0, 0)])?;
    let exception = stage.exception(probe)?;
    equal("its number", 13, exception.vector())?;
    equal("the low bits of its error code", 2, exception.error_code() & 7)?;
    stage.skip(probe, &exception, 2)?;
    stage.finish(probe).map(|_| ())
}

fn single_steps(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.go(probe, &[action(Action::SingleStep, 0, 0, 0)])?;
    let exception = stage.exception(probe)?;
    equal("its number", 1, exception.vector())?;
    let at = exception.instruction().wrapping_sub(Action::SingleStep.address());
    // Behind `pushfq`, an `or` of seven bytes, `popfq` and one `nop`.
    equal("where, from the beginning", 10, at)?;
    // Until the program clears the flag, there may be one after each instruction.
    stage.skip(probe, &exception, 0)?;
    for _ in 0..8 {
        stage.block(probe)?;
        if stage.is_done(probe)? {
            break;
        }
        let next = stage.exception(probe)?;
        equal("its number", 1, next.vector())?;
        stage.skip(probe, &next, 0)?;
    }
    stage.finish(probe)?;
    stage.run(probe, clock()).map(|_| ())
}

fn others_go_on(stage: &mut Stage) -> Checked {
    let other = stage.probe()?;
    stage.go(other, &[other.spin()])?;
    for what in [
        Action::InvalidInstruction,
        Action::Divide,
        Action::Breakpoint,
        Action::Interrupt0x20,
        Action::DisableInterrupts,
        Action::Halt,
    ] {
        let probe = stage.probe()?;
        let before = other.count(0);
        stage.go(probe, &[action(what, 0, 0, 0).with_word(HANDLER, 0)])?;
        stage.let_run(25_000)?;
        halts(stage, probe)?;
        holds("another thread runs on", other.count(0) > before)?;
        stage.delete(probe)?;
    }
    other.stop_spinning();
    stage.finish(other).map(|_| ())
}

fn nothing_else_changes(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let mut step = action(Action::InvalidInstruction, 0, 0, 0);
    for word in 0..64 {
        step = step.with_word(word, 0x9000 + word as u64);
    }
    for buffer in 0..33 {
        step = step.with_word(-16 - buffer, 0xb000 + buffer as u64);
    }
    stage.go(probe, &[step.with_word(-9, 0x55)])?;
    let exception = stage.exception(probe)?;
    stage.skip(probe, &exception, 2)?;
    let output = stage.finish(probe)?;
    for word in 0..64 {
        equal("a message register", 0x9000 + word as u64, output.word(word))?;
    }
    for buffer in 0..33 {
        equal("a buffer register", 0xb000 + buffer as u64, output.word(-16 - buffer))?;
    }
    equal("ErrorCode", 0x55, output.word(-9))
}
