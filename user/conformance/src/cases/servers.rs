//! BOOT: how it begins; SIGMA0: the first address space; DEBUG: debugger traps.

use core::sync::atomic::Ordering;

use heliox_l4::abi::kip::MemoryType;
use heliox_l4::boot_info::{BootInfo, Source};
use heliox_l4::once::SetOnce;
use heliox_l4::sigma0::{PhysicalBytes, ask_ports, extended};
use heliox_l4::start::{BootMemory, initial_registers};
use heliox_l4::{control, raw, schedule, utcb};

use crate::case::{Checked, at_least, cases, equal, fail, holds};
use crate::stage::{Stage, refused};

cases! {
    "BOOT-1" => areas,
    "BOOT-2" => registers_at_the_beginning,
    "BOOT-3" => pagers_and_schedulers,
    "BOOT-4" => memory_without_contents,
    "BOOT-5" => the_header,
    "BOOT-6" => records,
    "BOOT-7" => the_order_of_modules,
    "BOOT-8" => memory_of_modules,
}

/// What only root's first thread can find out: it owns what sigma0 gave it.
pub(crate) struct Found {
    boot: Option<BootMemory>,
    /// The first bytes of root's own module, as sigma0 gives them.
    first_bytes: [u8; 4],
    /// Sigma0 answered the extended request that asks for an answer.
    extended: bool,
    /// Sigma0 gave ports.
    ports: bool,
}

pub(crate) static FOUND: SetOnce<Found> = SetOnce::new();

/// Finds it out.
pub(crate) fn find() {
    let boot = BootMemory::get();
    let mut first_bytes = [0; 4];
    if let Some(module) =
        boot.as_ref().and_then(|memory| BootInfo::parse(memory).ok()?.modules().nth(1))
        && let Ok(bytes) = PhysicalBytes::get(module.start, module.bytes)
    {
        // As many as there are.
        let _ = bytes.read(0, &mut first_bytes);
    }
    let extended = extended(1, 0).is_ok() && extended(2, 1).is_ok();
    let ports = ask_ports(0x3f8, 3);
    FOUND.set(Found { boot, first_bytes, extended, ports });
}

fn found() -> Checked<&'static Found> {
    match FOUND.get() {
        Some(found) => Ok(found),
        None => fail("what root's first thread has found", 0),
    }
}

fn boot_memory() -> Checked<&'static BootMemory> {
    match &found()?.boot {
        Some(memory) => Ok(memory),
        None => fail("the boot information from sigma0", raw::page().boot_information()),
    }
}

fn areas(_: &mut Stage) -> Checked {
    equal("the interface page", 0xbff0_0000, raw::kernel_interface().address)?;
    // This is the second thread of the space, in the second block.
    equal("this thread's local id", 0xbf00_0600, utcb::local_id().0)?;
    let root = refused("looking at root", control::inspect(raw::page().root_id()))?;
    equal("the first thread's local id", 0xbf00_0200, root.thread.0)
}

fn registers_at_the_beginning(_: &mut Stage) -> Checked {
    let (stack, others) = initial_registers();
    equal("the stack pointer", 0, stack)?;
    equal("all others together", 0, others)
}

fn pagers_and_schedulers(_: &mut Stage) -> Checked {
    let page = raw::page();
    let root = refused("looking at root", control::inspect(page.root_id()))?;
    equal("root's pager", page.sigma0_id().0, root.pager.0)?;
    // Who may schedule them is in the space of their scheduler.
    for id in [page.sigma0_id(), page.root_id()] {
        let state = refused("asking for its state", schedule::thread_state(id))?;
        equal("it waits", 6, state as u64)?;
    }
    Ok(())
}

fn memory_without_contents(_: &mut Stage) -> Checked {
    static NOTHING: [core::sync::atomic::AtomicU64; 4096] =
        [const { core::sync::atomic::AtomicU64::new(0) }; 4096];
    for word in &NOTHING {
        equal("a word", 0, word.load(Ordering::Relaxed))?;
    }
    Ok(())
}

fn header_word(index: u64) -> Checked<u64> {
    match boot_memory()?.word(index * 8) {
        Some(word) => Ok(word),
        None => fail("a word of the header", index),
    }
}

fn the_header(_: &mut Stage) -> Checked {
    equal("the magic number", 0x14b0_021d, header_word(0)?)?;
    equal("the version", 1, header_word(1)?)?;
    let (bytes, first, count) = (header_word(2)?, header_word(3)?, header_word(4)?);
    at_least("the size", 64 + 48, bytes)?;
    holds("the first record lies within", first >= 64 && first < bytes)?;
    at_least("the number of records", 2, count)?;
    for index in 5..8 {
        equal("a reserved word", 0, header_word(index)?)?;
    }
    Ok(())
}

fn records(_: &mut Stage) -> Checked {
    let memory = boot_memory()?;
    let (bytes, mut at, count) = (header_word(2)?, header_word(3)?, header_word(4)?);
    for number in 0..count {
        let field = |index: u64| memory.word(at + index * 8).unwrap_or(u64::MAX);
        equal("the version of a record", 1, field(1))?;
        if field(0) == 1 {
            at_least("where a module begins", 1, field(3))?;
            at_least("its size", 1, field(4))?;
            holds("its command line lies within", at + field(5) < bytes)?;
        }
        let next = field(2);
        if number + 1 < count {
            at_least("the next record is behind this one", 24, next)?;
            at += next;
            holds("it lies within", at < bytes)?;
        }
    }
    Ok(())
}

fn the_order_of_modules(_: &mut Stage) -> Checked {
    let Ok(info) = BootInfo::parse(boot_memory()?) else {
        return fail("boot information that can be read", 0);
    };
    equal("all records are modules", info.count(), info.modules().count() as u64)?;
    let mut buffer = [0; 64];
    for (module, name) in info.modules().zip(["sigma0", "conformance"]) {
        let line = info.command_line(&module, &mut buffer);
        holds("the name of a module", line.starts_with(name.as_bytes()))?;
    }
    Ok(())
}

fn memory_of_modules(_: &mut Stage) -> Checked {
    for subtype in [1, 2, 3] {
        let has = raw::page()
            .memory_descriptors()
            .any(|found| found.memory_type == MemoryType::BootLoader && found.subtype == subtype);
        holds("a descriptor of each kind", has)?;
    }
    equal(
        "root's module, as sigma0 gives it",
        0x464c_457f,
        u32::from_le_bytes(found()?.first_bytes).into(),
    )
}

/// SIGMA0.
pub(crate) mod sigma0 {
    use heliox_l4::abi::utcb::ControlWord;
    use heliox_l4::probe::{Action, Output};
    use heliox_l4::{Flexpage, Timeouts};

    use super::*;
    use crate::stage::Probe;
    use crate::steps::{
        MessageOutput, NEVER, RECEIVE_TIMEOUT, accepting, action, ipc, milliseconds, unmap,
    };

    cases! {
        "SIGMA0-1 SIGMA0-2" => requests,
        "SIGMA0-3" => all_rights,
        "SIGMA0-4" => refusals,
        "SIGMA0-5 SIGMA0-6" => the_first_has_it,
        "SIGMA0-7" => shared_memory,
        "SIGMA0-8" => the_kernels_memory,
        "SIGMA0-9" => messages_of_another_shape,
        "SIGMA0-10 SIGMA0-11" => page_faults,
        "SIGMA0-12" => any_memory,
        "SIGMA0-13" => attributes,
        "SIGMA0-14" => extended_requests,
        "SIGMA0-15" => ports,
    }

    const REQUEST: u64 = 0xffff_ffff_ffa0_0002;
    /// Where memory is put: its physical address, within this window of 2^44 bytes.
    const WINDOW: Flexpage = Flexpage::memory(0x2000_0000_0000, 44, 0);

    const fn any(bits: u64) -> u64 {
        !0x3ff | bits << 4
    }

    /// Has a probe ask sigma0, with a receive timeout of 20 ms.
    fn ask(stage: &mut Stage, probe: Probe, words: &[u64]) -> Checked<Output> {
        let sigma0 = raw::page().sigma0_id();
        let timeouts = Timeouts::new(NEVER, milliseconds(20));
        let step = ipc(sigma0, sigma0, timeouts, words);
        stage.run(probe, accepting(step, &[WINDOW.0 & !0xf]))
    }

    /// The physical address of memory that a probe is given.
    fn given(stage: &mut Stage, probe: Probe, flexpage: u64, bits: u64) -> Checked<u64> {
        let output = ask(stage, probe, &[REQUEST, flexpage, 0])?.succeeded("a request")?;
        equal("two typed words", 2 << 6, output.registers.r9 & 0xfff)?;
        let (header, page) = (output.message_register(1), output.message_register(2));
        equal("a map item", 8, header & 0xe)?;
        equal("its size", bits, page >> 4 & 0x3f)?;
        equal("the send base is the address", page >> 10, header >> 10)?;
        Ok(page >> bits << bits)
    }

    /// Fails unless a request is refused.
    fn is_refused(stage: &mut Stage, probe: Probe, words: &[u64]) -> Checked {
        let output = ask(stage, probe, words)?.succeeded("a request")?;
        equal("two typed words", 2 << 6, output.registers.r9 & 0xfff)?;
        equal("an item of nothing", 0, output.message_register(2))
    }

    /// Fails unless a message is not answered.
    fn is_ignored(stage: &mut Stage, probe: Probe, words: &[u64]) -> Checked {
        ask(stage, probe, words)?.failed("no answer", RECEIVE_TIMEOUT)
    }

    fn requests(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        let at = given(stage, a, any(12), 12)?;
        let place = 0x2000_0000_0000 + at;
        holds("it is there", stage.write(a, place, 0x77)?)?;
        // The same memory by its address; it is the same.
        stage.run(a, unmap(0x40, &[crate::steps::page(place, 7).0]))?;
        equal("the same memory", at, given(stage, a, at | 12 << 4, 12)?)?;
        stage.require_word("what was written", a, place, 0x77)
    }

    fn all_rights(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        let place = 0x2000_0000_0000 + given(stage, a, any(12), 12)?;
        // A `ret`.
        holds("writing", stage.write(a, place, 0xc3)?)?;
        stage.require_word("reading", a, place, 0xc3)?;
        holds("executing", stage.execute(a, place)?)
    }

    fn refusals(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        for flexpage in [any(45), any(63), any(11), 0, Flexpage::COMPLETE.0, 1 << 50 | 12 << 4] {
            is_refused(stage, a, &[REQUEST, flexpage, 0])?;
        }
        Ok(())
    }

    fn the_first_has_it(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        let at = given(stage, a, any(13), 13)?;
        for _ in 0..2 {
            equal("who has it may ask again", at, given(stage, a, at | 13 << 4, 13)?)?;
        }
        equal("for a part", at + 4096, given(stage, a, (at + 4096) | 12 << 4, 12)?)?;
        for (place, bits) in [(at, 12), (at + 4096, 12), (at, 13), (at >> 14 << 14, 14)] {
            is_refused(stage, b, &[REQUEST, place | bits << 4, 0])?;
        }
        // This program's memory and sigma0's own.
        let own = stage.memory.large.physical_address().unwrap_or(0);
        is_refused(stage, b, &[REQUEST, own | 12 << 4, 0])?;
        let sigma0 = raw::page().sigma0().low;
        is_refused(stage, b, &[REQUEST, sigma0 >> 12 << 12 | 12 << 4, 0])
    }

    /// The first page whose last descriptor is of a type.
    fn page_of(wanted: MemoryType) -> Option<u64> {
        let page = raw::page();
        let last = |at: u64| {
            let of_page = |found: &heliox_l4::abi::kip::MemoryDescriptor| {
                !found.is_virtual && (found.low..=found.high).contains(&at)
            };
            page.memory_descriptors().filter(of_page).last().map(|found| found.memory_type)
        };
        // Where an extent can begin: at a descriptor, or behind one.
        let starts =
            page.memory_descriptors().filter(|found| !found.is_virtual).flat_map(|found| {
                [found.low.next_multiple_of(4096), found.high.saturating_add(1) & !0xfff]
            });
        starts.filter(|at| *at >> 44 == 0).find(|at| last(*at) == Some(wanted))
    }

    fn shared_memory(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        let Some(at) = page_of(MemoryType::Shared) else {
            return fail("shared memory", 0);
        };
        for probe in [a, b, a] {
            equal("everybody gets it", at, given(stage, probe, at | 12 << 4, 12)?)?;
        }
        Ok(())
    }

    fn the_kernels_memory(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        let Some(at) = page_of(MemoryType::Reserved) else {
            return fail("memory of the kernel", 0);
        };
        is_refused(stage, a, &[REQUEST, at | 12 << 4, 0])
    }

    fn messages_of_another_shape(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        for first in [
            REQUEST - 1,
            REQUEST - 2,
            REQUEST + 2,
            0xffff_ffff_ffa1_0002,
            0x1234_0002,
            // An item as well.
            REQUEST | 2 << 6,
        ] {
            is_ignored(stage, a, &[first, any(12), 0, 8, 0])?;
        }
        given(stage, a, any(12), 12)?;
        let output = ask(stage, a, &[REQUEST + 1, any(12), 0, 99])?;
        output.succeeded("three words").map(|_| ())
    }

    fn page_faults(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        let at = given(stage, a, any(12), 12)?;
        holds("writing", stage.write(a, 0x2000_0000_0000 + at, 0x1357)?)?;
        let pager = ControlWord::Pager as isize;
        let sigma0 = raw::page().sigma0_id();
        let step = action(Action::Read, at, 0, 0).with_word(pager, sigma0.0);
        let output = stage.run(a, step)?;
        equal("at its physical address", 0x1357, output.registers.rax)?;
        // Another thread may not have it: it waits for ever.
        stage.go(b, &[action(Action::Read, at, 0, 0).with_word(pager, sigma0.0)])?;
        stage.let_run(20_000)?;
        holds("no answer", !stage.is_done(b)?)
    }

    fn any_memory(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        let mut all = [(0, 0); 8];
        for (index, place) in all.iter_mut().enumerate() {
            let bits = 12 + index as u64 % 3;
            let probe = if index % 2 == 0 { a } else { b };
            *place = (given(stage, probe, any(bits), bits)?, bits);
        }
        for (index, &(at, bits)) in all.iter().enumerate() {
            equal("its address, modulo its size", 0, at & ((1 << bits) - 1))?;
            for &(other, other_bits) in &all[..index] {
                let apart = at + (1 << bits) <= other || other + (1 << other_bits) <= at;
                holds("nobody gets what another has", apart)?;
            }
        }
        Ok(())
    }

    fn attributes(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        for attribute in [1, 4, u64::MAX] {
            is_refused(stage, a, &[REQUEST, any(12), attribute])?;
        }
        // What is refused so stays free: for another.
        let at = given(stage, a, any(13), 13)?;
        let free = at + (1 << 13);
        is_refused(stage, a, &[REQUEST, free | 12 << 4, 4])?;
        let answer = ask(stage, b, &[REQUEST, free | 12 << 4, 0])?.succeeded("a request")?;
        let answer_again = ask(stage, b, &[REQUEST, free | 12 << 4, 0])?.succeeded("again")?;
        equal("the same answer", answer.message_register(2), answer_again.message_register(2))
    }

    fn extended_requests(stage: &mut Stage) -> Checked {
        holds("root is answered", found()?.extended)?;
        let a = stage.probe()?;
        let label = 0xffff_ffff_c170_0002;
        is_ignored(stage, a, &[label, 2, 1])?;
        is_ignored(stage, a, &[label, 1, 0])
    }

    fn ports(stage: &mut Stage) -> Checked {
        holds("root is given ports", found()?.ports)?;
        let a = stage.probe()?;
        is_refused(stage, a, &[REQUEST, Flexpage::ports(0x3f8, 3, 6).0, 0])
    }
}

/// DEBUG.
pub(crate) mod debug {
    use heliox_l4::abi::ThreadState;
    use heliox_l4::probe::Action;

    use super::*;
    use crate::steps::action;

    cases! {
        "DEBUG-1" => printing_a_character,
        "DEBUG-2" => printing_a_text,
        "DEBUG-3" => reading,
        "DEBUG-4" => entering,
        "DEBUG-5" => other_breakpoints,
        "DEBUG-6" => ending_the_machine,
        "DEBUG-7" => unknown_operations,
    }

    fn printing_a_character(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        for character in [b'.', b'\n'] {
            let output = stage.run(a, action(Action::DebugCharacter, character.into(), 0, 0))?;
            equal("RAX", character.into(), output.registers.rax)?;
        }
        Ok(())
    }

    fn printing_a_text(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        a.scratch(4).store(u64::from_le_bytes(*b"a text\n\0"), Ordering::Relaxed);
        for at in [a.scratch_address(4), 0, 0x8000_0000_0000, 0xffff_8000_0000_0000, u64::MAX] {
            let output = stage.run(a, action(Action::DebugText, at, 0, 0))?;
            equal("RAX", at, output.registers.rax)?;
        }
        Ok(())
    }

    fn reading(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        let output = stage.run(a, action(Action::DebugRead, 0, 0, 0))?;
        equal("nothing was typed", u64::MAX, output.registers.rax)?;
        let output = stage.run(a, action(Action::DebugReadWaiting, 0, 0, 0))?;
        equal("still nothing", 0, output.registers.rax)
    }

    fn entering(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        stage.go(a, &[action(Action::DebugEnter, 0, 0, 0)])?;
        let state = stage.block(a)?;
        equal("it is halted", ThreadState::Inactive as u64, state as u64)
    }

    fn other_breakpoints(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        stage.go(a, &[action(Action::Breakpoint, 0, 0, 0)])?;
        let exception = stage.exception(a)?;
        equal("its number", 3, exception.vector())?;
        stage.skip(a, &exception, 0)?;
        stage.finish(a).map(|_| ())
    }

    fn ending_the_machine(stage: &mut Stage) -> Checked {
        // Not for this one; that root can do it, the end of this run shows.
        let a = stage.probe()?;
        let output = stage.run(a, action(Action::DebugEnd, 7, 0, 0))?;
        equal("RAX", 7, output.registers.rax)
    }

    fn unknown_operations(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        let output = stage.run(a, action(Action::DebugUnknown, 0x1234, 0, 0))?;
        equal("RAX", 0x1234, output.registers.rax)
    }
}
