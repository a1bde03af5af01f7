//! KIP: the kernel interface page.

use heliox_l4::abi::kip::MemoryType;
use heliox_l4::kip::SystemCall;
use heliox_l4::probe::Action;
use heliox_l4::raw;

use crate::case::{Checked, at_least, cases, equal, holds};
use crate::stage::{KIP_AREA, Stage};
use crate::steps::{R, RW, action};

cases! {
    "KIP-1" => magic,
    "KIP-2 KIP-3" => version_and_flags,
    "KIP-4" => kernel_description,
    "KIP-5" => servers,
    "KIP-6" => descriptors_lie_in_the_page,
    "KIP-7 KIP-8" => sizes,
    "KIP-9" => boot_information,
    "KIP-10" => precisions,
    "KIP-11" => thread_numbers,
    "KIP-12" => page_sizes,
    "KIP-13" => processors,
    "KIP-14" => system_calls_are_absolute,
    "KIP-15 KIP-16" => features,
    "KIP-17" => memory_is_described,
    "KIP-18" => it_is_read_only,
    "KIP-19" => reserved_words_are_zero,
}

fn word(offset: usize) -> u64 {
    raw::page().word(offset)
}

fn magic(_: &mut Stage) -> Checked {
    let bytes = [b'L', b'4', 0xe6, b'K', 0, 0, 0, 0];
    equal("the word at 0", u64::from_le_bytes(bytes), word(0))
}

fn version_and_flags(_: &mut Stage) -> Checked {
    equal("version", 0x8405_0000, word(0x08))?;
    equal("flags", 4, word(0x10))
}

fn kernel_description(_: &mut Stage) -> Checked {
    let at = word(0x18) as usize;
    holds("the description lies in the page", at.is_multiple_of(8) && at > 0 && at < 4096 - 32)?;
    at_least("the kernel's id", 1, word(at))?;
    at_least("the supplier", 1, word(at + 24))
}

fn servers(_: &mut Stage) -> Checked {
    for at in [0x40, 0x80] {
        let [stack, entry, low, end] = [0, 8, 16, 24].map(|offset| word(at + offset));
        equal("a server's stack pointer", 0, stack)?;
        holds("a server's entry point lies within", low <= entry && entry < end)?;
    }
    for at in (0x60..0x80).step_by(8) {
        equal("a word of sigma1", 0, word(at))?;
    }
    Ok(())
}

fn descriptors_lie_in_the_page(_: &mut Stage) -> Checked {
    let (count, at) = (word(0xa8) & 0xffff_ffff, word(0xa8) >> 32);
    at_least("the number of memory descriptors", 3, count)?;
    equal("where they begin, modulo 16", 0, at % 16)?;
    holds("they lie in the page", at >= 0x280 && at + 16 * count <= 4096)
}

fn sizes(_: &mut Stage) -> Checked {
    equal("UTCB info", 0xc_2801, word(0x150))?;
    equal("size of the page", 12, word(0x158))
}

fn boot_information(_: &mut Stage) -> Checked {
    at_least("address of the boot information", 1, word(0x170))
}

fn precisions(_: &mut Stage) -> Checked {
    let info = word(0x180);
    holds("the clock's precision is below a millisecond", info & 0xffff <= 1000)?;
    holds("that of wakeups is below ten", info >> 16 & 0xffff <= 10_000)?;
    equal("the upper half", 0, info >> 32)
}

fn thread_numbers(_: &mut Stage) -> Checked {
    let info = word(0x188);
    let (bits, system, user) = (info & 0xff, info >> 8 & 0xfff, info >> 20 & 0xfff);
    equal("SystemBase", 24, system)?;
    holds("UserBase is above", user > system)?;
    holds("there are more numbers than those", bits < 33 && 1 << bits > user + 64)
}

fn page_sizes(_: &mut Stage) -> Checked {
    let info = word(0x190);
    equal("separate rights", 7, info & 7)?;
    let small = 1 << 12 | 1 << 21;
    equal("sizes", small, info & !0x3ff & !(1 << 30))
}

fn processors(_: &mut Stage) -> Checked {
    let info = word(0x198);
    equal("log2 of a description's size", 5, info >> 60)?;
    let at = word(0x178) as usize;
    holds(
        "the descriptions lie in the page",
        at > 0 && at + 32 * (1 + (info & 0xffff) as usize) <= 4096,
    )?;
    at_least("the frequency in kHz", 1000, word(at + 8))
}

fn system_calls_are_absolute(stage: &mut Stage) -> Checked {
    for call in SystemCall::ALL {
        let address = word(call as usize);
        holds("a stub's address is canonical", (address as i64) << 16 >> 16 == address as i64)?;
        holds("a stub's address is no offset", address >= 4096)?;
    }
    // A probe uses the addresses that this program read, in a space of its own.
    let probe = stage.probe()?;
    let output = stage.run(probe, crate::steps::clock())?;
    at_least("the clock, in another space", 1, output.registers.rax)?;
    let offset = KIP_AREA.0 & !0xfff;
    for call in SystemCall::ALL {
        let found = stage.read(probe, offset + call as u64)?;
        equal("a stub's address in another space", word(call as usize), found.unwrap_or(0))?;
    }
    Ok(())
}

fn features(_: &mut Stage) -> Checked {
    let page = raw::page();
    holds("there is a text of the version", page.texts().next().is_some())?;
    holds("ioflexpages", page.has_feature("ioflexpages"))?;
    holds("pagerexregs", page.has_feature("pagerexregs"))?;
    holds("no closed_propagation", !page.has_feature("closed_propagation"))?;
    holds("no holeunmap", !page.has_feature("holeunmap"))
}

fn memory_is_described(stage: &mut Stage) -> Checked {
    let page = raw::page();
    let has = |kind| {
        page.memory_descriptors().any(|found| found.memory_type == kind && !found.is_virtual)
    };
    holds("there is ordinary memory", has(MemoryType::Conventional))?;
    holds("there is memory of the kernel", has(MemoryType::Reserved))?;
    let is_programs = |found: &heliox_l4::abi::kip::MemoryDescriptor| {
        found.is_virtual && found.low == 0 && found.high > 0x7f00_0000_0000
    };
    holds("there is virtual memory", page.memory_descriptors().any(|found| is_programs(&found)))?;
    // The last word on memory that sigma0 gave.
    let address = stage.memory.large.physical_address().unwrap_or(0);
    let last = page
        .memory_descriptors()
        .filter(|found| !found.is_virtual && (found.low..=found.high).contains(&address))
        .last();
    let kind = last.map_or(MemoryType::Undefined, |found| found.memory_type);
    equal(
        "the last descriptor of memory that was given",
        MemoryType::Conventional as u64,
        kind as u64,
    )
}

fn it_is_read_only(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let at = KIP_AREA.0 & !0xfff;
    stage.require_word("the magic number", probe, at, word(0))?;
    let other = stage.page();
    stage.memory.large.write(other, 0x1234);
    stage.go(probe, &[action(Action::Write, at, 1, 0)])?;
    for _ in 0..3 {
        let fault = stage.page_fault(probe)?;
        equal("a write", 2, fault.access)?;
        equal("its address", at, fault.address)?;
        stage.map_to(probe.id(), stage.mapping(other, RW, at))?;
    }
    stage.page_fault(probe)?;
    stage.reset(probe)?;
    stage.give(probe, other, R, at)?;
    stage.require_word("the magic number afterwards", probe, at, word(0))
}

fn reserved_words_are_zero(_: &mut Stage) -> Checked {
    for at in [0xa0, 0x140, 0x148, 0x160, 0x168, 0x1f8, 0x200, 0x208, 0x210, 0x218] {
        equal("a reserved word", 0, word(at))?;
    }
    Ok(())
}
