//! MAP: mapping and granting memory; FLEXPAGE: what flexpages name.

use heliox_l4::probe::{Action, Output};
use heliox_l4::{Flexpage, raw};

use crate::case::{Checked, cases, equal, holds};
use crate::stage::{KIP_AREA, PLACE, Probe, Stage, UTCB_START};
use crate::steps::{
    COMPLETE, MessageOutput, R, RECEIVE_OVERFLOW, RW, RWX, RX, SEND_OVERFLOW, action, grant_words,
    map_words, page, receive_into, tag, unmap,
};

cases! {
    "MAP-1" => small_into_large,
    "MAP-2" => large_into_small,
    "MAP-3" => into_everything,
    "MAP-4" => rights_are_those_of_both,
    "MAP-5" => writing_and_executing_imply_reading,
    "MAP-6" => no_rights_no_memory,
    "MAP-7" => again_with_more_rights,
    "MAP-8" => other_memory_is_replaced,
    "MAP-9" => part_of_a_large_page_is_replaced,
    "MAP-10" => granting_takes_away,
    "MAP-11" => what_was_mapped_on_stays,
    "MAP-12" => holes_are_left_out,
    "MAP-13" => words_of_items_arrive,
    "MAP-14" => no_window,
    "MAP-15" => nothing_without_window,
    "MAP-16" => several_items,
    "MAP-17" => part_of_a_large_page,
    "MAP-18" => large_regions,
    "MAP-19" => areas_of_the_kernel_are_left_out,
    "MAP-20" => the_kernels_half_is_left_out,
    "MAP-21" => within_a_space,
    "MAP-22" => the_tag_counts,
    "MAP-23" => malformed_items,
    "MAP-24" => rights_of_the_window,
    "MAP-25" => rights_are_kept,
    "MAP-26" => memory_is_shared,
    "MAP-27" => passing_on,
    "MAP-28" => granting_a_part,
}

const VALUE: u64 = 0x1122_3344_5566_77c3;

/// A probe with memory at [`PLACE`]: `count` pages, whose first words are `VALUE` and the number of
/// the page.
fn owner(stage: &mut Stage, count: u64, rights: u64) -> Checked<Probe> {
    let probe = stage.probe()?;
    for number in 0..count {
        let offset = stage.page();
        // The lowest byte is a `ret`.
        stage.memory.large.write(offset, VALUE);
        stage.memory.large.write(offset + 8, number);
        stage.give(probe, offset, rights, PLACE + (number << 12))?;
    }
    Ok(probe)
}

/// Fails unless a probe has page `number` of the owner at an address.
fn require_page(stage: &mut Stage, probe: Probe, address: u64, number: u64) -> Checked {
    stage.require_word("a page's first word", probe, address, VALUE)?;
    stage.require_word("a page's number", probe, address + 8, number)
}

/// Sends items from one probe to another into a window, and fails if that fails.
fn pass_into(
    stage: &mut Stage,
    from: Probe,
    to: Probe,
    words: &[u64],
    window: u64,
) -> Checked<Output> {
    let (sent, received) = stage.pass(from, to, words, &[window])?;
    sent.succeeded("sending items")?;
    received.succeeded("receiving items")
}

fn window(base: u64, bits: u32) -> u64 {
    Flexpage::memory(base, bits, 0).0 & !0xf
}

fn small_into_large(stage: &mut Stage) -> Checked {
    let a = owner(stage, 2, RW)?;
    let b = stage.probe()?;
    let base = 0x5_0000_0000;
    // A window of 64 KiB; send bases within it, beyond it, and not on a page.
    for (send_base, place) in [(0x3000, 0x3000), (0x12_5000, 0x5000), (0x7c00, 0x7000)] {
        let words = map_words(page(PLACE, R), send_base);
        pass_into(stage, a, b, &words, window(base, 16))?;
        require_page(stage, b, base + place, 0)?;
    }
    // Two pages are put on a boundary of two.
    let words = map_words(Flexpage::memory(PLACE, 13, R), 0x9000);
    pass_into(stage, a, b, &words, window(base, 16))?;
    require_page(stage, b, base + 0x8000, 0)?;
    require_page(stage, b, base + 0x9000, 1)?;
    stage.require_nothing("a page beyond", b, base + 0xa000)
}

fn large_into_small(stage: &mut Stage) -> Checked {
    let a = owner(stage, 4, RW)?;
    let b = stage.probe()?;
    let base = 0x5_0000_0000;
    for (send_base, number) in [(0, 0), (0x2000, 2), (0x7000, 3), (0x1c00, 1)] {
        let words = map_words(Flexpage::memory(PLACE, 14, R), send_base);
        pass_into(stage, a, b, &words, window(base, 12))?;
        require_page(stage, b, base, number)?;
        stage.require_nothing("a page beyond", b, base + 0x1000)?;
    }
    let words = map_words(Flexpage::memory(PLACE, 14, R), 0x3000);
    pass_into(stage, a, b, &words, window(base, 13))?;
    require_page(stage, b, base, 2)?;
    require_page(stage, b, base + 0x1000, 3)
}

fn into_everything(stage: &mut Stage) -> Checked {
    let a = owner(stage, 2, RW)?;
    let b = stage.probe()?;
    for base in [0x1000, 0x6_0000_3000, 0x7fff_fff0_0000] {
        pass_into(stage, a, b, &map_words(page(PLACE, R), base), COMPLETE)?;
        require_page(stage, b, base, 0)?;
    }
    let words = map_words(Flexpage::memory(PLACE, 13, R), 0x6_0001_1000);
    pass_into(stage, a, b, &words, COMPLETE)?;
    require_page(stage, b, 0x6_0001_0000, 0)?;
    require_page(stage, b, 0x6_0001_1000, 1)
}

/// Fails unless a probe can use the memory at an address in the ways that `rights` say, and no
/// other.
fn require_rights(stage: &mut Stage, probe: Probe, address: u64, rights: u64) -> Checked {
    holds("reading", stage.read(probe, address)?.is_some() == (rights & 4 != 0))?;
    holds("executing", stage.execute(probe, address)? == (rights & 1 != 0))?;
    holds("writing", stage.write(probe, address, VALUE)? == (rights & 2 != 0))
}

fn rights_are_those_of_both(stage: &mut Stage) -> Checked {
    for own in [R, RW, RX, RWX] {
        let (a, b) = (owner(stage, 1, own)?, stage.probe()?);
        for (index, asked) in [R, RW, RX, RWX].into_iter().enumerate() {
            let at = 0x5_0000_0000 + ((index as u64) << 12);
            pass_into(stage, a, b, &map_words(page(PLACE, asked), at), COMPLETE)?;
            require_rights(stage, b, at, own & asked)?;
        }
        stage.delete(b)?;
    }
    Ok(())
}

fn writing_and_executing_imply_reading(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 1, RWX)?, stage.probe()?);
    for (index, (asked, given)) in [(2, RW), (1, RX), (3, RWX)].into_iter().enumerate() {
        let at = 0x5_0000_0000 + ((index as u64) << 12);
        pass_into(stage, a, b, &map_words(page(PLACE, asked), at), COMPLETE)?;
        require_rights(stage, b, at, given)?;
    }
    Ok(())
}

fn no_rights_no_memory(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 1, RWX)?, stage.probe()?);
    pass_into(stage, a, b, &map_words(page(PLACE, 0), PLACE), COMPLETE)?;
    stage.require_nothing("memory without rights", b, PLACE)
}

fn again_with_more_rights(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 1, RWX)?, stage.probe()?);
    for (asked, given) in [(R, R), (RX, RX), (RW, RWX), (R, RWX)] {
        pass_into(stage, a, b, &map_words(page(PLACE, asked), PLACE), COMPLETE)?;
        require_rights(stage, b, PLACE, given)?;
    }
    // What was mapped on meanwhile is still there.
    let c = stage.probe()?;
    stage.pass_mapping(b, c, page(PLACE, R), PLACE)?;
    pass_into(stage, a, b, &map_words(page(PLACE, RWX), PLACE), COMPLETE)?;
    require_page(stage, c, PLACE, 0)
}

fn other_memory_is_replaced(stage: &mut Stage) -> Checked {
    let (a, b, c) = (owner(stage, 2, RW)?, stage.probe()?, stage.probe()?);
    stage.pass_mapping(a, b, page(PLACE, RW), PLACE)?;
    stage.pass_mapping(b, c, page(PLACE, RW), PLACE)?;
    require_page(stage, c, PLACE, 0)?;
    stage.pass_mapping(a, b, page(PLACE + 0x1000, RW), PLACE)?;
    require_page(stage, b, PLACE, 1)?;
    stage.require_nothing("what was mapped on from it", c, PLACE)?;
    require_page(stage, a, PLACE, 0)
}

fn part_of_a_large_page_is_replaced(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 1, RW)?, stage.probe()?);
    let at = 0x5_0000_0000;
    // The second 2 MiB of the region.
    let half = stage.memory.large.map(2 << 20, 21, RW, at);
    stage.memory.large.write((2 << 20) + 0x5000, 0x55);
    stage.memory.large.write((2 << 20) + 0x6000, 0x66);
    stage.give_mapping(b, half)?;
    stage.require_word("a page of the large one", b, at + 0x6000, 0x66)?;
    stage.pass_mapping(a, b, page(PLACE, RW), at + 0x5000)?;
    require_page(stage, b, at + 0x5000, 0)?;
    stage.require_word("the page beside it", b, at + 0x6000, 0x66)
}

fn granting_takes_away(stage: &mut Stage) -> Checked {
    let (a, b, c) = (owner(stage, 1, RW)?, stage.probe()?, stage.probe()?);
    stage.pass_mapping(a, b, page(PLACE, RW), PLACE)?;
    pass_into(stage, b, c, &grant_words(page(PLACE, RW), PLACE), COMPLETE)?;
    stage.require_nothing("the granter", b, PLACE)?;
    require_page(stage, c, PLACE, 0)?;
    // It descends from the first one now.
    stage.run(a, unmap(0, &[page(PLACE, RWX).0]))?;
    stage.require_nothing("whom it was granted to", c, PLACE)?;
    require_page(stage, a, PLACE, 0)
}

fn what_was_mapped_on_stays(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 1, RW)?, stage.probe()?);
    let (child, heir) = (stage.probe()?, stage.probe()?);
    stage.pass_mapping(a, b, page(PLACE, RW), PLACE)?;
    stage.pass_mapping(b, child, page(PLACE, RW), PLACE)?;
    pass_into(stage, b, heir, &grant_words(page(PLACE, RW), PLACE), COMPLETE)?;
    require_page(stage, child, PLACE, 0)?;
    require_page(stage, heir, PLACE, 0)
}

fn holes_are_left_out(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 4, RW)?, stage.probe()?);
    stage.run(a, unmap(0x40, &[page(PLACE + 0x1000, RWX).0]))?;
    stage.require_nothing("the hole", a, PLACE + 0x1000)?;
    let other = stage.page();
    stage.memory.large.write(other, 0x77);
    let at = 0x5_0000_0000;
    stage.give(b, other, R, at + 0x1000)?;
    let words = map_words(Flexpage::memory(PLACE, 14, R), at);
    pass_into(stage, a, b, &words, COMPLETE)?;
    require_page(stage, b, at, 0)?;
    stage.require_word("what was at the hole's place", b, at + 0x1000, 0x77)?;
    require_page(stage, b, at + 0x2000, 2)?;
    require_page(stage, b, at + 0x3000, 3)
}

fn words_of_items_arrive(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 2, RW)?, stage.probe()?);
    let (first, second) = (page(PLACE, R), page(PLACE + 0x1000, RW));
    // Bit 0 is set the wrong way round.
    let words = [tag(4, 1, 4), 0x99, 0x5000 | 8, first.0, 0x6000 | 11, second.0];
    let received = pass_into(stage, a, b, &words, window(0x5_0000_0000, 16))?;
    let expected = [tag(4, 1, 4), 0x99, 0x5000 | 9, first.0, 0x6000 | 10, second.0];
    for (index, word) in expected.into_iter().enumerate() {
        equal("a word", word, received.message_register(index))?;
    }
    Ok(())
}

fn overflows(stage: &mut Stage, from: Probe, words: &[u64], buffer: u64) -> Checked {
    let to = stage.probe()?;
    let (sent, received) = stage.pass(from, to, words, &[buffer])?;
    sent.failed("the sender", SEND_OVERFLOW)?;
    received.failed("the receiver", RECEIVE_OVERFLOW)?;
    let (sent, received) = stage.pass_to_late_receiver(from, to, words, &[buffer])?;
    sent.failed("the sender that waited", SEND_OVERFLOW)?;
    received.failed("the receiver of one that waited", RECEIVE_OVERFLOW)?;
    stage.require_nothing("nothing was mapped", to, PLACE)
}

fn no_window(stage: &mut Stage) -> Checked {
    let a = owner(stage, 1, RW)?;
    for words in [map_words(page(PLACE, R), PLACE), grant_words(page(PLACE, R), PLACE)] {
        overflows(stage, a, &words, 0)?;
        require_page(stage, a, PLACE, 0)?;
    }
    Ok(())
}

fn nothing_without_window(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for words in [map_words(Flexpage::NIL, 0), grant_words(Flexpage::NIL, 0)] {
        let received = pass_into(stage, a, b, &words, 0)?;
        equal("the item's second word", 0, received.message_register(2))?;
    }
    Ok(())
}

fn several_items(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 3, RW)?, stage.probe()?);
    let mut words = [0; 9];
    words[0] = tag(0, 0, 8);
    // Three places, and the first once more.
    for (index, (number, place)) in [(0, 0), (1, 1), (2, 2), (2, 0)].into_iter().enumerate() {
        words[1 + 2 * index] = (0x5_0000_0000 + (place << 12)) | 9;
        words[2 + 2 * index] = page(PLACE + (number << 12), R).0;
    }
    pass_into(stage, a, b, &words, COMPLETE)?;
    for (number, place) in [(2, 0), (1, 1), (2, 2)] {
        require_page(stage, b, 0x5_0000_0000 + (place << 12), number)?;
    }
    Ok(())
}

fn part_of_a_large_page(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.memory.large.write((2 << 20) + 0x7000, 0x777);
    let large = stage.memory.large.map(2 << 20, 21, RW, 0x5_0000_0000);
    stage.give_mapping(a, large)?;
    stage.pass_mapping(a, b, page(0x5_0000_7000, R), PLACE)?;
    stage.require_word("the part", b, PLACE, 0x777)?;
    stage.require_nothing("the next page", b, PLACE + 0x1000)?;
    holds("it can only be read", !stage.write(b, PLACE, 0)?)?;
    stage.require_word("the sender still has it", a, 0x5_0000_7000, 0x777)
}

fn large_regions(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let large = stage.memory.large.map(0, 22, RW, 0x5_0000_0000);
    stage.give_mapping(a, large)?;
    let words = map_words(Flexpage::memory(0x5_0000_0000, 22, RW), 0x6_0000_0000);
    pass_into(stage, a, b, &words, COMPLETE)?;
    // Every page: each is written with its number by one, and read by the other.
    let last = 1 << 10;
    let step = action(Action::TouchPages, 0x6_0000_0000, last, 0);
    holds("the receiver writes all", stage.attempt(b, step)?.is_ok())?;
    let step = action(Action::Sum, 0x5_0000_0000, 4096, last);
    match stage.attempt(a, step)? {
        // The pages hold the numbers 1024 to 1.
        Ok(output) => equal("the sum of all pages", last * (last + 1) / 2, output.registers.rax),
        Err(fault) => equal("a page that is missing", 0, fault.address),
    }
}

fn areas_of_the_kernel_are_left_out(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let kip = KIP_AREA.0 & !0xfff;
    // Over the receiver's areas.
    for (at, bits) in [(kip, 12), (UTCB_START, 12)] {
        let mapping = stage.memory.large.map(2 << 20, bits, RWX, at);
        stage.give_mapping(b, mapping)?;
    }
    let mapping = stage.memory.large.map(2 << 20, 21, RWX, kip);
    stage.give_mapping(b, mapping)?;
    stage.require_word("the interface page", b, kip, raw::page().word(0))?;
    let output = stage.run(b, action(Action::ReadGs, 0, 0, 0))?;
    equal("the control block", b.local().0, output.registers.rax)?;
    equal("its MyGlobalId", b.id().0, output.word(-15))?;
    // From the sender's areas.
    for at in [kip, UTCB_START] {
        pass_into(stage, a, b, &map_words(page(at, R), PLACE), COMPLETE)?;
        stage.require_nothing("a page of the kernel's", b, PLACE)?;
        pass_into(stage, a, b, &grant_words(page(at, R), PLACE), COMPLETE)?;
        stage.require_nothing("a page of the kernel's", b, PLACE)?;
    }
    stage.require_word("the sender's interface page", a, kip, raw::page().word(0))
}

fn the_kernels_half_is_left_out(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 1, RW)?, stage.probe()?);
    for base in [0xffff_8000_0000_0000, 0xffff_ffff_ffff_f000, 0x8000_0000_0000, 0x7fff_ffff_f000] {
        // To there, and from there.
        pass_into(stage, a, b, &map_words(page(PLACE, RWX), base), COMPLETE)?;
        holds("a write there is a fault", !stage.write(b, base, 1).unwrap_or(false))?;
        stage.reset(b)?;
        pass_into(stage, a, b, &map_words(page(base, RWX), PLACE), COMPLETE)?;
        stage.require_nothing("memory from there", b, PLACE)?;
    }
    let stub = raw::stub(heliox_l4::kip::SystemCall::Ipc);
    pass_into(stage, a, b, &map_words(page(stub & !0xfff, RX), PLACE), COMPLETE)?;
    stage.require_nothing("the stubs", b, PLACE)
}

fn within_a_space(stage: &mut Stage) -> Checked {
    let a = owner(stage, 1, RW)?;
    let b = stage.probe_beside(a)?;
    let at = 0x5_0000_0000;
    pass_into(stage, a, b, &map_words(page(PLACE, RW), at), COMPLETE)?;
    require_page(stage, b, at, 0)?;
    stage.write(b, at, 0x3333)?;
    stage.require_word("the first place", a, PLACE, 0x3333)?;
    // The second place descends from the first.
    stage.run(a, unmap(0, &[page(PLACE, RWX).0]))?;
    stage.require_nothing("the second place", b, at)?;
    stage.require_word("the first place", a, PLACE, 0x3333)
}

fn the_tag_counts(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 2, RW)?, stage.probe()?);
    // Bit 0 of both items is clear: the first is not the last for that.
    let mut words = [0; 5];
    words[0] = tag(0, 0, 4);
    words[1..3].copy_from_slice(&map_words(page(PLACE, R), PLACE)[1..]);
    words[3..5].copy_from_slice(&map_words(page(PLACE + 0x1000, R), PLACE + 0x1000)[1..]);
    pass_into(stage, a, b, &words, COMPLETE)?;
    require_page(stage, b, PLACE, 0)?;
    require_page(stage, b, PLACE + 0x1000, 1)?;
    // Bit 0 of the last is set: there is none behind it for that.
    let c = stage.probe()?;
    words[0] = tag(0, 0, 2);
    words[1] |= 1;
    pass_into(stage, a, c, &words, COMPLETE)?;
    require_page(stage, c, PLACE, 0)?;
    stage.require_nothing("a second item", c, PLACE + 0x1000)
}

fn malformed_items(stage: &mut Stage) -> Checked {
    let a = owner(stage, 1, RW)?;
    let [_, header, flexpage] = map_words(page(PLACE, R), PLACE);
    // Kinds 6 and 7.
    for kind in [6, 7] {
        overflows(stage, a, &[tag(0, 0, 2), header & !0xf | kind << 1, flexpage], COMPLETE)?;
    }
    // One word of an item; a whole item and one word.
    overflows(stage, a, &[tag(0, 0, 1), header, flexpage], COMPLETE)?;
    let b = stage.probe()?;
    let words = [tag(0, 0, 3), header | 1, flexpage, header, flexpage];
    let (sent, received) = stage.pass(a, b, &words, &[COMPLETE])?;
    sent.failed("the sender of half an item", SEND_OVERFLOW)?;
    received.failed("the receiver of half an item", RECEIVE_OVERFLOW)?;
    // In the last registers.
    let mut words = [0; 64];
    words[0] = tag(0, 62, 1);
    words[63] = header;
    overflows(stage, a, &words, COMPLETE)
}

fn rights_of_the_window(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 1, RW)?, stage.probe()?);
    let me = stage.driver();
    stage.go(b, &[receive_into(me, Flexpage::COMPLETE)])?;
    stage.reset(b)?;
    // Bit 0 means strings, bit 1 is reserved, bits 2 and 3 nothing.
    let buffer = window(PLACE, 12) | 0xc;
    pass_into(stage, a, b, &map_words(page(PLACE, RW), 0), buffer)?;
    require_rights(stage, b, PLACE, RW)
}

fn rights_are_kept(stage: &mut Stage) -> Checked {
    for rights in [R, RW, RX, RWX] {
        let probe = owner(stage, 1, rights)?;
        require_rights(stage, probe, PLACE, rights)?;
    }
    Ok(())
}

fn memory_is_shared(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, 1, RW)?, stage.probe()?);
    stage.pass_mapping(a, b, page(PLACE, RW), 0x5_0000_0000)?;
    for value in [1, 2, 3] {
        stage.write(a, PLACE + 16, value)?;
        stage.require_word("what the sender wrote", b, 0x5_0000_0010, value)?;
        stage.write(b, 0x5_0000_0018, value)?;
        stage.require_word("what the receiver wrote", a, PLACE + 24, value)?;
    }
    Ok(())
}

fn passing_on(stage: &mut Stage) -> Checked {
    let mut from = owner(stage, 1, RWX)?;
    for (asked, given) in [(RWX, RWX), (RX, RX), (RWX, RX), (RW, R), (RWX, R)] {
        let to = stage.probe()?;
        stage.pass_mapping(from, to, page(PLACE, asked), PLACE)?;
        require_rights(stage, to, PLACE, given)?;
        from = to;
    }
    Ok(())
}

fn granting_a_part(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let at = 0x5_0000_0000;
    stage.memory.large.write((2 << 20) + 0x3000, 0x333);
    stage.memory.large.write((2 << 20) + 0x4000, 0x444);
    let large = stage.memory.large.map(2 << 20, 21, RW, at);
    stage.give_mapping(a, large)?;
    pass_into(stage, a, b, &grant_words(page(at + 0x3000, RW), PLACE), COMPLETE)?;
    stage.require_word("the part", b, PLACE, 0x333)?;
    stage.require_nothing("the granter's part", a, at + 0x3000)?;
    stage.require_word("the rest", a, at + 0x4000, 0x444)?;
    // A window that takes one of two pages.
    let (c, d) = (owner(stage, 2, RW)?, stage.probe()?);
    let words = grant_words(Flexpage::memory(PLACE, 13, RW), 0x1000);
    pass_into(stage, c, d, &words, window(PLACE, 12))?;
    require_page(stage, d, PLACE, 1)?;
    stage.require_nothing("what was granted", c, PLACE + 0x1000)?;
    require_page(stage, c, PLACE, 0)?;
    Ok(())
}

/// FLEXPAGE.
pub(crate) mod flexpages {
    use super::*;

    cases! {
        "FLEXPAGE-1" => fields,
        "FLEXPAGE-2 FLEXPAGE-4" => what_names_nothing,
        "FLEXPAGE-3" => everything,
        "FLEXPAGE-5" => bases_are_rounded_down,
        "FLEXPAGE-6" => beyond_what_programs_can_use,
        "FLEXPAGE-7" => ports,
    }

    fn fields(stage: &mut Stage) -> Checked {
        let (a, b) = (owner(stage, 2, RWX)?, stage.probe()?);
        // Two pages, read and execute; spelt out.
        let word = PLACE >> 10 << 10 | 13 << 4 | 5;
        pass_into(stage, a, b, &[tag(0, 0, 2), PLACE | 8, word], COMPLETE)?;
        require_page(stage, b, PLACE, 0)?;
        require_page(stage, b, PLACE + 0x1000, 1)?;
        require_rights(stage, b, PLACE, RX)
    }

    fn what_names_nothing(stage: &mut Stage) -> Checked {
        let (a, b) = (owner(stage, 1, RWX)?, stage.probe()?);
        for bits in [0, 3, 10, 11] {
            let word = if bits == 0 { 0 } else { PLACE | bits << 4 | 7 };
            pass_into(stage, a, b, &[tag(0, 0, 2), PLACE | 8, word], COMPLETE)?;
            stage.require_nothing("memory from nothing", b, PLACE)?;
        }
        Ok(())
    }

    fn everything(stage: &mut Stage) -> Checked {
        let (a, b) = (owner(stage, 2, RW)?, stage.probe()?);
        // Into a window of one page: the send base says which.
        let words = map_words(Flexpage(0x10 | R), PLACE + 0x1000);
        pass_into(stage, a, b, &words, window(0x5_0000_0000, 12))?;
        require_page(stage, b, 0x5_0000_0000, 1)?;
        // All of it to the same places.
        let c = stage.probe()?;
        pass_into(stage, a, c, &map_words(Flexpage(0x10 | R), 0), COMPLETE)?;
        require_page(stage, c, PLACE, 0)?;
        require_page(stage, c, PLACE + 0x1000, 1)
    }

    fn bases_are_rounded_down(stage: &mut Stage) -> Checked {
        let (a, b) = (owner(stage, 4, RW)?, stage.probe()?);
        // The base is that of page 3; four pages begin at page 0.
        let word = (PLACE + 0x3000) | 14 << 4 | R;
        pass_into(stage, a, b, &[tag(0, 0, 2), 0x5_0000_0000 | 8, word], COMPLETE)?;
        for number in 0..4 {
            require_page(stage, b, 0x5_0000_0000 + (number << 12), number)?;
        }
        Ok(())
    }

    fn beyond_what_programs_can_use(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        let last = 0x7fff_ffff_e000;
        let offset = stage.page();
        stage.memory.large.write(offset, VALUE);
        stage.give(a, offset, R, last)?;
        // The last GiB of the half and of the whole address space's lower part; and 2^63 bytes.
        for bits in [30, 47, 63] {
            let words = map_words(Flexpage::memory(last, bits, R), last);
            pass_into(stage, a, b, &words, COMPLETE)?;
            stage.require_word("the last page", b, last, VALUE)?;
            stage.run(a, unmap(0, &[page(last, RWX).0]))?;
            stage.require_nothing("the last page", b, last)?;
        }
        Ok(())
    }

    fn ports(stage: &mut Stage) -> Checked {
        let probe = stage.probe()?;
        // The scratch register of COM1 is port 0x3ff: a flexpage of eight ports from 0x3f8 on,
        // spelt out.
        let word = 0x3f8 << 16 | 3 << 10 | 2 << 4 | 6;
        let spelt = heliox_l4::message::Mapping::ports(0x3f8, 3);
        equal("the flexpage", word, spelt.item().page.0)?;
        stage.give_mapping(probe, spelt)?;
        stage.run(probe, action(Action::Out8, 0x3ff, 0x5a, 0))?;
        let output = stage.run(probe, action(Action::In8, 0x3ff, 0, 0))?;
        equal("the port", 0x5a, output.registers.rax)
    }
}
