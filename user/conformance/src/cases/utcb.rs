//! UTCB: the thread control block.

use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::probe::{Action, Step};

use crate::case::{Checked, cases, equal, holds};
use crate::stage::{Options, PLACE, Stage, UTCB_BITS, UTCB_START};
use crate::steps::{
    MessageOutput, NEVER, RW, SEND_NO_PARTNER, ZERO, action, clock, exchange, receive, send, tag,
    with_control,
};

cases! {
    "UTCB-1 UTCB-2" => local_ids_are_addresses,
    "UTCB-3 UTCB-4" => own_id_and_processor,
    "UTCB-5 UTCB-6" => pager_and_handler_at_activation,
    "UTCB-7" => words_of_the_program,
    "UTCB-8" => the_pager_is_looked_up,
    "UTCB-9" => the_handler_is_looked_up,
    "UTCB-10" => blocks_are_clear,
    "UTCB-11" => registers_are_where_they_are,
    "UTCB-12" => what_memory_holds_of_registers_does_not_matter,
    "UTCB-13" => deceiving_oneself,
    "UTCB-14" => areas_without_threads,
    "UTCB-15" => another_gs_base,
    "UTCB-16" => errors_are_noted,
}

const PAGER: isize = ControlWord::Pager as isize;
const HANDLER: isize = ControlWord::ExceptionHandler as isize;

fn local_ids_are_addresses(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    for (probe, utcb) in [(a, 0), (b, 1)] {
        let output = stage.run(probe, action(Action::ReadGs, 0, 0, 0))?;
        equal("the word at gs:0", UTCB_START + utcb * 1024 + 512, output.registers.rax)?;
        let output = stage.run(probe, exchange(probe.id(), 0, 0, 0, 0, 0, crate::steps::NIL))?;
        equal("the local id", UTCB_START + utcb * 1024 + 512, output.registers.rax)?;
    }
    Ok(())
}

fn own_id_and_processor(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    for probe in [a, b] {
        let output = stage.run(probe, clock())?;
        equal("MyGlobalId", probe.id().0, output.word(-15))?;
        equal("ProcessorNo", 0, output.word(-14))?;
    }
    Ok(())
}

fn pager_and_handler_at_activation(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let initial = a.memory().initial();
    equal("the pager", stage.driver().0, initial.word(-12))?;
    equal("the exception handler", 0, initial.word(-11))
}

fn words_of_the_program(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let step = clock().with_word(-13, 0x111).with_word(-5, 0x222).with_word(-4, 0x333);
    stage.run(a, step)?;
    let sleep = receive(a.id(), crate::steps::milliseconds(1));
    let output = stage.run(a, sleep)?;
    equal("the handle", 0x111, output.word(-13))?;
    equal("ThreadWord1", 0x222, output.word(-5))?;
    equal("ThreadWord0", 0x333, output.word(-4))
}

fn the_pager_is_looked_up(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let offset = stage.page();
    stage.memory.large.write(offset, 0x77);
    stage.give(b, offset, RW, PLACE)?;
    // The steps' own memory is mapped already, so that nothing else faults.
    stage.go(b, &[receive(a.id(), NEVER)])?;
    stage.block_receiving(b)?;
    stage.go(a, &[action(Action::Read, PLACE, 0, 0).with_word(PAGER, b.id().0)])?;
    let output = stage.finish(b)?.succeeded("the other pager gets the fault")?;
    equal("its address", PLACE, output.message_register(1))?;
    let item = crate::steps::map_words(crate::steps::page(PLACE, RW), PLACE);
    stage.run(b, send(a.id(), NEVER, &item))?.succeeded("its answer")?;
    let output = stage.finish(a)?;
    equal("the word", 0x77, output.registers.rax)
}

fn the_handler_is_looked_up(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.go(b, &[receive(a.id(), NEVER)])?;
    stage.block_receiving(b)?;
    stage.go(a, &[action(Action::InvalidInstruction, 0, 0, 0).with_word(HANDLER, b.id().0)])?;
    let output = stage.finish(b)?.succeeded("the other handler gets the exception")?;
    equal("its number", 6, output.message_register(19))?;
    holds("nothing comes here", stage.is_silent(a)?)
}

fn blocks_are_clear(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    let dirty = |step: Step| {
        (-64..64).filter(|word| *word != -3).fold(step, |step, word| step.with_word(word, 0xd1d1))
    };
    stage.run(a, dirty(action(Action::Nothing, 0, 0, 0)))?;
    stage.delete(a)?;
    let options = Options { beside: Some(b), utcb: Some(0), ..Options::NEW_SPACE };
    let fresh = stage.probe_with(options)?;
    let initial = fresh.memory().initial();
    for word in -64..64 {
        if ![-15, -14, -12, -3].contains(&word) {
            equal("a word of a new block", 0, initial.word(word))?;
        }
    }
    equal("MyGlobalId", fresh.id().0, initial.word(-15))
}

fn registers_are_where_they_are(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    // Message registers from 8 on are words 8 and on.
    let mut words = [0; 64];
    for (index, word) in words.iter_mut().enumerate() {
        *word = 0x1000 + index as u64;
    }
    words[0] = tag(0, 63, 0);
    let (_, received) = stage.pass(a, b, &words, &[0])?;
    for index in 8..64 {
        equal("a message register", 0x1000 + index as u64, received.word(index))?;
    }
    // A string into the buffer that buffer registers 31 and 32 describe: the 16th.
    let target = b.scratch_address(4);
    let mut buffers = [0; 33];
    buffers[0] = 1;
    for buffer in 0..16 {
        buffers[1 + 2 * buffer] = 8 << 10 | u64::from(buffer < 15);
        buffers[2 + 2 * buffer] = target + 8 * u64::from(buffer == 15);
    }
    let mut words = [0; 33];
    words[0] = tag(0, 0, 32);
    a.scratch(4).store(0xf00d, core::sync::atomic::Ordering::Relaxed);
    for string in 0..16 {
        words[1 + 2 * string] = 8 << 10 | u64::from(string < 15);
        words[2 + 2 * string] = a.scratch_address(4);
    }
    let (sent, received) = stage.pass(a, b, &words, &buffers)?;
    sent.succeeded("sending 16 strings")?;
    received.succeeded("receiving 16 strings")?;
    equal("the 16th string", 0xf00d, b.count(5))
}

fn what_memory_holds_of_registers_does_not_matter(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let words = [tag(0x55, 8, 0), 1, 2, 3, 4, 5, 6, 7, 8];
    let garbage = |step: Step| (0..8).fold(step, |step, word| step.with_word(word, 0xffff));
    for late in [false, true] {
        if !late {
            stage.go(b, &[garbage(receive(a.id(), NEVER))])?;
            stage.block_receiving(b)?;
        }
        stage.go(a, &[garbage(send(b.id(), NEVER, &words))])?;
        if late {
            stage.block_sending(a)?;
            stage.go(b, &[garbage(receive(a.id(), NEVER))])?;
        }
        stage.finish(a)?.succeeded("the send")?;
        let output = stage.finish(b)?.succeeded("the receive")?;
        for (index, word) in words.into_iter().enumerate() {
            equal("a message register", word, output.message_register(index))?;
        }
    }
    Ok(())
}

fn deceiving_oneself(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let lie = |step: Step| step.with_word(-15, b.id().0).with_word(-14, 5).with_word(-9, 99);
    stage.go(b, &[receive(a.id(), NEVER)])?;
    stage.block_receiving(b)?;
    stage.go(a, &[lie(send(b.id(), NEVER, &[tag(1, 0, 0)]))])?;
    stage.finish(a)?.succeeded("the send")?;
    let output = stage.finish(b)?.succeeded("the receive")?;
    equal("the sender", a.id().0, output.from().0)
}

fn areas_without_threads(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    // The last page of the area, of which no thread has a block.
    let at = UTCB_START + (1 << UTCB_BITS) - 4096;
    let other = stage.page();
    stage.go(a, &[action(Action::Read, at, 0, 0)])?;
    for _ in 0..2 {
        let fault = stage.page_fault(a)?;
        equal("its address", at, fault.address)?;
        stage.map_to(a.id(), stage.mapping(other, RW, at))?;
    }
    stage.page_fault(a)?;
    stage.reset(a)
}

fn another_gs_base(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for base in [0, 0x1234_5678, 0xffff_ffff_8000_0000] {
        a.scratch(1).store(0, core::sync::atomic::Ordering::Relaxed);
        stage.go(a, &[action(Action::ChangeGs, base, a.scratch_address(1), 0)])?;
        stage.let_run(2000)?;
        // It may have been stopped by an exception where the instruction is not allowed.
        let output = stage.run(b, action(Action::ReadGs, 0, 0, 0))?;
        equal("the word at gs:0 of another thread", b.local().0, output.registers.rax)?;
        a.stop_spinning();
        stage.let_run(2000)?;
        stage.reset(a)?;
        let output = stage.run(a, action(Action::ReadGs, 0, 0, 0))?;
        equal("the word at gs:0 afterwards", a.local().0, output.registers.rax)?;
    }
    Ok(())
}

fn errors_are_noted(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let nobody = stage.spare(0).into();
    let output = stage.run(a, with_control(send(nobody, ZERO, &[0]), ControlWord::ErrorCode, 0))?;
    output.failed("a send to nobody", SEND_NO_PARTNER)?;
    let output = stage.run(a, exchange(nobody, 0, 0, 0, 0, 0, crate::steps::NIL))?;
    equal("ErrorCode after ExchangeRegisters", 2, output.error())
}
