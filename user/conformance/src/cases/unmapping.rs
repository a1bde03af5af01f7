//! UNMAP: taking memory back.

use heliox_l4::probe::Action;
use heliox_l4::{Flexpage, raw};

use crate::case::{Checked, cases, equal, holds};
use crate::stage::{KIP_AREA, PLACE, Probe, Stage, UTCB_START};
use crate::steps::{
    COMPLETE, MessageOutput, R, RW, RWX, RX, action, grant_words, map_words, page, receive, unmap,
};

cases! {
    "UNMAP-1" => from_all_to_whom_it_was_mapped,
    "UNMAP-2" => flushing,
    "UNMAP-3" => without_reading_nothing_is_left,
    "UNMAP-4" => other_rights_are_left,
    "UNMAP-5" => asking_changes_nothing,
    "UNMAP-6" => how_memory_was_used,
    "UNMAP-7" => asking_resets,
    "UNMAP-8" => uses_by_others_count,
    "UNMAP-9" => sixty_four_flexpages,
    "UNMAP-10" => everything,
    "UNMAP-11" => nothing,
    "UNMAP-12" => areas_are_left_out,
    "UNMAP-13" => part_of_a_large_page,
    "UNMAP-14" => what_was_granted,
    "UNMAP-15" => others_mappings_stay,
    "UNMAP-16" => execution_counts,
    "UNMAP-17" => the_end_of_a_space,
    "UNMAP-18" => long_unmapping_is_interrupted,
}

const FLUSH: u64 = 0x40;

/// A probe with a page at [`PLACE`], whose first word is its number and, in its low byte, a `ret`.
fn owner(stage: &mut Stage, rights: u64) -> Checked<Probe> {
    let probe = stage.probe()?;
    let offset = stage.page();
    stage.memory.large.write(offset, 0xabc3);
    stage.give(probe, offset, rights, PLACE)?;
    Ok(probe)
}

/// A chain of four probes, each of which mapped the page to the next.
fn chain(stage: &mut Stage, rights: u64) -> Checked<[Probe; 4]> {
    let mut all = [owner(stage, rights)?; 4];
    for index in 1..4 {
        all[index] = stage.probe()?;
        stage.pass_mapping(all[index - 1], all[index], page(PLACE, rights), PLACE)?;
    }
    Ok(all)
}

/// Unmap of one page; what it answers.
fn take(stage: &mut Stage, probe: Probe, control: u64, flexpage: Flexpage) -> Checked<u64> {
    Ok(stage.run(probe, unmap(control, &[flexpage.0]))?.registers.r9)
}

fn has(stage: &mut Stage, probe: Probe) -> Checked<bool> {
    Ok(stage.read(probe, PLACE)?.is_some())
}

fn from_all_to_whom_it_was_mapped(stage: &mut Stage) -> Checked {
    let [a, b, c, d] = chain(stage, RW)?;
    let other = stage.probe()?;
    stage.pass_mapping(b, other, page(PLACE, R), PLACE)?;
    take(stage, b, 0, page(PLACE, RWX))?;
    for probe in [c, d, other] {
        holds("those below have nothing", !has(stage, probe)?)?;
    }
    for probe in [a, b] {
        holds("the caller and those above keep it", has(stage, probe)?)?;
    }
    Ok(())
}

fn flushing(stage: &mut Stage) -> Checked {
    let [a, b, c, d] = chain(stage, RW)?;
    take(stage, b, FLUSH, page(PLACE, RWX))?;
    for probe in [b, c, d] {
        holds("the caller and those below have nothing", !has(stage, probe)?)?;
    }
    holds("those above keep it", has(stage, a)?)
}

fn without_reading_nothing_is_left(stage: &mut Stage) -> Checked {
    for rights in [R, RW, RX, RWX] {
        let [a, b, c, d] = chain(stage, RWX)?;
        take(stage, a, 0, page(PLACE, rights))?;
        for probe in [b, c, d] {
            holds("revoking reading leaves nothing", !has(stage, probe)?)?;
            stage.delete(probe)?;
        }
        holds("the caller keeps it", stage.execute(a, PLACE)?)?;
        stage.delete(a)?;
        if rights == RW {
            // Probes are not to be had without end.
            return Ok(());
        }
    }
    Ok(())
}

fn other_rights_are_left(stage: &mut Stage) -> Checked {
    let [a, b, c, _] = chain(stage, RWX)?;
    take(stage, a, 0, page(PLACE, 2))?;
    for probe in [b, c] {
        holds("reading", has(stage, probe)?)?;
        holds("executing", stage.execute(probe, PLACE)?)?;
        holds("no writing", !stage.write(probe, PLACE, 0xabc3)?)?;
    }
    holds("the caller can write", stage.write(a, PLACE, 0xabc3)?)?;
    take(stage, a, FLUSH, page(PLACE, 1))?;
    for probe in [a, b, c] {
        holds("reading", has(stage, probe)?)?;
        holds("no executing", !stage.execute(probe, PLACE)?)?;
    }
    holds("the caller can still write", stage.write(a, PLACE, 0xabc3)?)?;
    // And what was taken can be given again.
    stage.pass_mapping(a, b, page(PLACE, RW), PLACE)?;
    holds("writing again", stage.write(b, PLACE, 0xabc3)?)
}

fn asking_changes_nothing(stage: &mut Stage) -> Checked {
    let [a, b, ..] = chain(stage, RWX)?;
    for control in [0, FLUSH] {
        take(stage, a, control, page(PLACE, 0))?;
        for probe in [a, b] {
            holds("writing", stage.write(probe, PLACE, 0xabc3)?)?;
            holds("executing", stage.execute(probe, PLACE)?)?;
        }
    }
    Ok(())
}

fn how_memory_was_used(stage: &mut Stage) -> Checked {
    let a = owner(stage, RW)?;
    take(stage, a, FLUSH, page(PLACE, 0))?;
    equal("not used", page(PLACE, 0).0, take(stage, a, FLUSH, page(PLACE, 0))?)?;
    has(stage, a)?;
    equal("read", page(PLACE, 4).0, take(stage, a, FLUSH, page(PLACE, 0))?)?;
    stage.write(a, PLACE, 1)?;
    equal("written", page(PLACE, 6).0, take(stage, a, FLUSH, page(PLACE, 0))?)?;
    // The flexpage is answered as it was given, but for the rights.
    let wide = Flexpage::memory(PLACE, 20, 0);
    has(stage, a)?;
    equal("a larger flexpage", wide.0 | 4, take(stage, a, FLUSH, wide)?)
}

fn asking_resets(stage: &mut Stage) -> Checked {
    let a = owner(stage, RW)?;
    for _ in 0..3 {
        stage.write(a, PLACE, 1)?;
        equal("used", 6, take(stage, a, FLUSH, page(PLACE, 0))? & 7)?;
        equal("not used since", 0, take(stage, a, FLUSH, page(PLACE, 0))? & 7)?;
    }
    Ok(())
}

fn uses_by_others_count(stage: &mut Stage) -> Checked {
    let [a, b, c, d] = chain(stage, RW)?;
    take(stage, a, FLUSH, page(PLACE, 0))?;
    stage.write(c, PLACE, 1)?;
    equal("by one further down", 6, take(stage, a, 0, page(PLACE, 0))? & 7)?;
    equal("not since", 0, take(stage, a, 0, page(PLACE, 0))? & 7)?;
    // By one whose space is gone, and by another one above it.
    stage.write(d, PLACE, 1)?;
    stage.delete(d)?;
    equal("by one that is gone", 6, take(stage, c, 0, page(PLACE, 0))? & 7)?;
    has(stage, b)?;
    stage.delete(b)?;
    equal("by one whose space is gone", 4, take(stage, a, 0, page(PLACE, 0))? & 4)
}

fn sixty_four_flexpages(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    // 64 pages, each mapped on, and each unmapped by a flexpage of its own.
    let all = stage.memory.large.map(2 << 20, 18, RW, PLACE);
    stage.give_mapping(a, all)?;
    stage.pass_mapping(a, b, Flexpage::memory(PLACE, 18, RW), PLACE)?;
    let mut pages = [0; 64];
    for (number, flexpage) in pages.iter_mut().enumerate() {
        *flexpage = page(PLACE + ((number as u64) << 12), RWX).0;
    }
    // All but the last.
    stage.run(a, unmap(62, &pages))?;
    for number in [0, 7, 8, 31, 62] {
        stage.require_nothing("a page that was named", b, PLACE + (number << 12))?;
    }
    holds("the last page", stage.read(b, PLACE + (63 << 12))?.is_some())?;
    let output = stage.run(a, unmap(63, &pages))?;
    stage.require_nothing("the last page", b, PLACE + (63 << 12))?;
    for (number, flexpage) in pages.iter().enumerate() {
        let found = output.message_register(number);
        equal("an answered flexpage", flexpage & !7, found & !7)?;
    }
    Ok(())
}

fn everything(stage: &mut Stage) -> Checked {
    let (a, b) = (owner(stage, RW)?, stage.probe()?);
    stage.pass_mapping(a, b, page(PLACE, RW), PLACE)?;
    // The probe's memory and code come from here, and are given again when they are missing.
    let output = stage.run(a, unmap(0, &[Flexpage::COMPLETE.0 | RWX]))?;
    equal("the flexpage", Flexpage::COMPLETE.0, output.registers.r9 & !7)?;
    holds("whom it was mapped to has nothing", !has(stage, b)?)?;
    holds("the caller keeps it", has(stage, a)?)?;
    stage.go(a, &[unmap(FLUSH, &[Flexpage::COMPLETE.0 | RWX])])?;
    // Its own memory goes in the middle of its step.
    stage.finish(a)?;
    holds("the caller has nothing", !has(stage, a)?)
}

fn nothing(stage: &mut Stage) -> Checked {
    let a = owner(stage, RW)?;
    for word in [0, RWX, 11 << 4 | PLACE | RWX] {
        take(stage, a, FLUSH, Flexpage(word))?;
        holds("the caller keeps it", has(stage, a)?)?;
    }
    // Nothing named is passed over on the way to the next.
    stage.run(a, unmap(FLUSH | 2, &[0, page(PLACE, RWX).0, 0]))?;
    holds("the second is done", !has(stage, a)?)
}

fn areas_are_left_out(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let kip = KIP_AREA.0 & !0xfff;
    for flexpage in [
        page(kip, RWX),
        page(UTCB_START, RWX),
        Flexpage::memory(kip, 28, RWX),
        page(0xffff_8000_0000_0000, RWX),
        page(raw::stub(heliox_l4::kip::SystemCall::Ipc) & !0xfff, RWX),
    ] {
        take(stage, a, FLUSH, flexpage)?;
        stage.require_word("the interface page", a, kip, raw::page().word(0))?;
        let output = stage.run(a, action(Action::ReadGs, 0, 0, 0))?;
        equal("the control block", a.local().0, output.registers.rax)?;
    }
    Ok(())
}

fn part_of_a_large_page(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let large = stage.memory.large.map(2 << 20, 21, RW, 0x5_0000_0000);
    stage.memory.large.write((2 << 20) + 0x4000, 0x444);
    stage.memory.large.write((2 << 20) + 0x5000, 0x555);
    stage.give_mapping(a, large)?;
    stage.pass_mapping(a, b, Flexpage::memory(0x5_0000_0000, 21, RW), 0x6_0000_0000)?;
    take(stage, a, 0, page(0x5_0000_4000, RWX))?;
    stage.require_nothing("the part", b, 0x6_0000_4000)?;
    stage.require_word("the rest", b, 0x6_0000_5000, 0x555)?;
    stage.require_word("the caller's part", a, 0x5_0000_4000, 0x444)?;
    take(stage, a, FLUSH, page(0x5_0000_5000, RWX))?;
    stage.require_nothing("a part that was flushed", a, 0x5_0000_5000)?;
    stage.require_nothing("and whom it was mapped to", b, 0x6_0000_5000)?;
    stage.require_word("the rest", a, 0x5_0000_4000, 0x444)?;
    take(stage, a, FLUSH, Flexpage::memory(0x5_0000_0000, 21, RWX))?;
    stage.require_nothing("all of it", a, 0x5_0000_4000)?;
    stage.require_nothing("all of it, mapped on", b, 0x6_0000_6000)
}

fn what_was_granted(stage: &mut Stage) -> Checked {
    let (a, b, c) = (owner(stage, RW)?, stage.probe()?, stage.probe()?);
    stage.pass_mapping(a, b, page(PLACE, RW), PLACE)?;
    let (sent, _) = stage.pass(b, c, &grant_words(page(PLACE, RW), PLACE), &[COMPLETE])?;
    sent.succeeded("granting")?;
    for control in [0, FLUSH] {
        take(stage, b, control, page(PLACE, RWX))?;
        holds("whom it was granted to keeps it", has(stage, c)?)?;
    }
    take(stage, a, 0, page(PLACE, RWX))?;
    holds("until the one it came from takes it", !has(stage, c)?)
}

fn others_mappings_stay(stage: &mut Stage) -> Checked {
    let a = owner(stage, RW)?;
    let (b, c) = (stage.probe()?, stage.probe()?);
    for probe in [b, c] {
        stage.pass_mapping(a, probe, page(PLACE, RW), PLACE)?;
    }
    let d = stage.probe()?;
    stage.pass_mapping(c, d, page(PLACE, RW), PLACE)?;
    take(stage, b, FLUSH, page(PLACE, RWX))?;
    for probe in [a, c, d] {
        holds("those that do not descend from the caller's", has(stage, probe)?)?;
    }
    Ok(())
}

fn execution_counts(stage: &mut Stage) -> Checked {
    for (rights, expected) in [(RX, 5), (R, 4), (RWX, 5)] {
        let a = owner(stage, rights)?;
        take(stage, a, FLUSH, page(PLACE, 0))?;
        has(stage, a)?;
        equal("after reading", expected, take(stage, a, FLUSH, page(PLACE, 0))? & 7)?;
        if rights & 1 != 0 {
            stage.execute(a, PLACE)?;
            equal("after executing", 5, take(stage, a, FLUSH, page(PLACE, 0))? & 5)?;
        }
    }
    Ok(())
}

fn the_end_of_a_space(stage: &mut Stage) -> Checked {
    let [a, b, c, d] = chain(stage, RW)?;
    let beside = stage.probe_beside(b)?;
    stage.delete(b)?;
    holds("while there is a thread", has(stage, beside)? && has(stage, c)?)?;
    stage.delete(beside)?;
    for probe in [c, d] {
        holds("those below have nothing", !has(stage, probe)?)?;
    }
    holds("those above keep it", has(stage, a)?)
}

fn long_unmapping_is_interrupted(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let sleeper = stage.probe_at(150)?;
    let children = [stage.probe()?, stage.probe()?, stage.probe()?];
    // 512 pages that are mapped one by one to each of three spaces: large pages are split by
    // another mapping between them.
    let all = stage.memory.large.map(2 << 20, 21, RW, PLACE);
    stage.give_mapping(a, all)?;
    for child in children {
        for number in 0..512_u64 {
            if number % 2 == 0 {
                let words = map_words(page(PLACE + (number << 12), RW), PLACE + (number << 12));
                let (sent, _) = stage.pass(a, child, &words, &[COMPLETE])?;
                sent.succeeded("mapping a page")?;
            }
        }
    }
    // The sleeper wakes up during the unmapping: it is woken every now and then, and at least one
    // of its wakeups lies between the beginning and the end.
    let naps: [heliox_l4::probe::Step; 10] = core::array::from_fn(|index| {
        receive(sleeper.id(), heliox_l4::Time::from_period(20 << index))
    });
    stage.go(sleeper, &naps)?;
    stage.go(a, &[unmap(0, &[Flexpage::memory(PLACE, 21, RWX).0])])?;
    stage.finish(sleeper)?;
    stage.finish(a)?;
    let output = a.memory().output(0);
    let woken = (0..10).map(|index| sleeper.memory().output(index).after);
    let within = woken.filter(|at| (output.before..output.after).contains(at)).count();
    holds("somebody more important runs meanwhile", within > 0)?;
    for child in children {
        stage.require_nothing("a page", child, PLACE)?;
        stage.require_nothing("another page", child, PLACE + (510 << 12))?;
    }
    Ok(())
}
