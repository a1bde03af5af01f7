//! STRING: string items.

use core::sync::atomic::Ordering;

use heliox_l4::abi::ThreadState;
use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::kip::SystemCall;
use heliox_l4::probe::{Output, Step};
use heliox_l4::{Flexpage, KernelLabel, ThreadId, Time, Timeouts, raw, system_clock};

use crate::case::{Checked, at_least, at_most, cases, equal, fail, holds};
use crate::stage::{PageFault, Probe, Stage};
use crate::steps::{
    MessageOutput, NEVER, R, RECEIVE_ABORTED, RECEIVE_OVERFLOW, RECEIVE_TRANSFER_OWN,
    RECEIVE_TRANSFER_PARTNER, RW, RWX, SEND_ABORTED, SEND_OVERFLOW, SEND_TRANSFER_OWN,
    SEND_TRANSFER_PARTNER, ZERO, accepting, map_words, milliseconds, page, receive, send, tag,
    unmap,
};

cases! {
    "STRING-1" => a_string,
    "STRING-2" => pieces,
    "STRING-3" => several_headers,
    "STRING-4" => pieces_need_not_agree,
    "STRING-5" => the_nth_buffer,
    "STRING-6" => buffers_follow,
    "STRING-7" => no_strings_are_taken,
    "STRING-8" => more_strings_than_buffers,
    "STRING-9" => a_string_that_is_too_long,
    "STRING-10" => the_first_bit_of_items,
    "STRING-11" => strings_and_mappings_in_order,
    "STRING-12" => faults_of_the_sender,
    "STRING-13" => faults_of_the_receiver,
    "STRING-14" => what_faults_tell,
    "STRING-15" => states_during_a_fault,
    "STRING-16" => no_time_for_faults,
    "STRING-17" => no_time_and_no_fault,
    "STRING-18" => some_time_for_faults,
    "STRING-19" => the_shorter_timeout_counts,
    "STRING-20" => all_time_for_faults,
    "STRING-21" => points_as_transfer_timeouts,
    "STRING-22" => no_pager,
    "STRING-23" => answers_with_many_words,
    "STRING-24" => impossible_addresses,
    "STRING-25" => empty_strings,
    "STRING-26" => four_mebibytes,
    "STRING-27" => cache_hints,
    "STRING-28" => a_side_is_deleted,
    "STRING-29" => somebody_more_important,
    "STRING-30" => memory_goes_during_a_transfer,
    "STRING-31" => rights_are_kept,
    "STRING-32" => a_fault_as_an_answer,
}

/// Where a sender's strings are, and where a receiver's buffers.
const FROM: u64 = 0x3_0000_0000;
const TO: u64 = 0x4_0000_0000;
/// Buffer register 0: strings, and no window.
const STRINGS: u64 = 1;

/// A simple string's header.
const fn simple(length: u64) -> u64 {
    length << 10
}

/// A sender and a receiver with `pages` pages each at [`FROM`] and [`TO`]; where these are in the
/// large region.
struct Pair {
    sender: Probe,
    receiver: Probe,
    from: u64,
    to: u64,
}

/// Both sides' pages follow each other in the large region.
fn pair(stage: &mut Stage, pages: u64) -> Checked<Pair> {
    let (sender, receiver) = (stage.probe()?, stage.probe()?);
    let mut first = [0; 2];
    for (side, (probe, at)) in [(sender, FROM), (receiver, TO)].into_iter().enumerate() {
        for number in 0..pages {
            let offset = stage.page();
            if number == 0 {
                first[side] = offset;
            }
            stage.give(probe, offset, RW, at + (number << 12))?;
        }
    }
    let [from, to] = first;
    for byte in 0..pages * 512 {
        stage.memory.large.write(from + 8 * byte, 0x0101_0101_0101_0101 * (byte % 251));
    }
    Ok(Pair { sender, receiver, from, to })
}

impl Pair {
    /// Sends words to these buffers, the receiver being there first.
    fn pass(&self, stage: &mut Stage, words: &[u64], buffers: &[u64]) -> Checked<(Output, Output)> {
        stage.pass(self.sender, self.receiver, words, buffers)
    }

    /// The same, and both must succeed.
    fn passes(&self, stage: &mut Stage, words: &[u64], buffers: &[u64]) -> Checked<Output> {
        let (sent, received) = self.pass(stage, words, buffers)?;
        sent.succeeded("sending strings")?;
        received.succeeded("receiving strings")
    }

    /// Fails unless `bytes` bytes at `to` in the receiver's pages are those at `from` in the
    /// sender's.
    fn require_same(&self, stage: &Stage, from: u64, to: u64, bytes: u64) -> Checked {
        let (mut left, mut right) = ([0; 256], [0; 256]);
        let mut done = 0;
        while done < bytes {
            let count = (bytes - done).min(256) as usize;
            stage.memory.large.read_bytes(self.from + from + done, &mut left[..count]);
            stage.memory.large.read_bytes(self.to + to + done, &mut right[..count]);
            if left[..count] != right[..count] {
                return fail("a string is as it was sent, but not from the byte", done);
            }
            done += count as u64;
        }
        Ok(())
    }

    /// Fails unless the word at `to` in the receiver's pages is untouched.
    fn require_untouched(&self, stage: &Stage, to: u64) -> Checked {
        equal("a word of the buffer that is not used", 0, stage.memory.large.read(self.to + to))
    }
}

fn a_string(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 2)?;
    for (from, to, length) in
        [(0, 0, 8), (3, 5, 100), (0, 0, 4096), (4000, 4090, 200), (1, 0, 6000)]
    {
        let words = [tag(2, 1, 2), 0x99, simple(length), FROM + from];
        let buffers = [STRINGS, simple(8192 - to), TO + to];
        let received = pair.passes(stage, &words, &buffers)?;
        pair.require_same(stage, from, to, length)?;
        for (index, word) in words.into_iter().enumerate() {
            equal("a word of the message", word, received.message_register(index))?;
        }
    }
    Ok(())
}

fn pieces(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    for count in [1, 2, 5, 31] {
        let mut words = [0; 40];
        words[0] = tag(0, 0, 1 + count);
        words[1] = simple(16) | (count - 1) << 4;
        // The pieces from the last to the first.
        for piece in 0..count {
            words[2 + piece as usize] = FROM + 16 * (count - 1 - piece);
        }
        pair.passes(stage, &words[..2 + count as usize], &[STRINGS, simple(4096), TO])?;
        for piece in 0..count {
            pair.require_same(stage, 16 * (count - 1 - piece), 16 * piece, 16)?;
        }
    }
    Ok(())
}

fn several_headers(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    const CONTINUES: u64 = 1 << 9;
    let words = [
        tag(0, 0, 7),
        simple(16) | CONTINUES,
        FROM,
        simple(24) | CONTINUES | 1 << 4,
        FROM + 0x100,
        FROM + 0x200,
        simple(8),
        FROM + 0x300,
    ];
    pair.passes(stage, &words, &[STRINGS, simple(4096), TO])?;
    for (from, to, length) in [(0, 0, 16), (0x100, 16, 24), (0x200, 40, 24), (0x300, 64, 8)] {
        pair.require_same(stage, from, to, length)?;
    }
    pair.require_untouched(stage, 72)
}

fn pieces_need_not_agree(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 2)?;
    const CONTINUES: u64 = 1 << 9;
    // 96 bytes in two pieces of 40 and one of 16; into pieces of 10, 10, 10 and then 70.
    let words = [
        tag(0, 0, 5),
        simple(40) | 1 << 4 | CONTINUES,
        FROM + 0xff0,
        FROM + 0x100,
        simple(16),
        FROM + 0x200,
    ];
    let buffers = [
        STRINGS,
        simple(10) | 2 << 4 | CONTINUES | 1,
        TO + 0xffb,
        TO + 0x100,
        TO + 0x200,
        simple(70),
        TO + 0x300,
    ];
    pair.passes(stage, &words, &buffers)?;
    for (from, to, length) in [
        (0xff0, 0xffb, 10),
        (0xffa, 0x100, 10),
        (0x1004, 0x200, 10),
        (0x100e, 0x300, 10),
        (0x100, 0x30a, 40),
        (0x200, 0x332, 16),
    ] {
        pair.require_same(stage, from, to, length)?;
    }
    Ok(())
}

fn the_nth_buffer(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    let words = [tag(0, 0, 4), simple(8) | 1, FROM, simple(16), FROM + 0x100];
    let buffers = [STRINGS, simple(64) | 1, TO, simple(64), TO + 0x200];
    pair.passes(stage, &words, &buffers)?;
    pair.require_same(stage, 0, 0, 8)?;
    pair.require_untouched(stage, 8)?;
    pair.require_same(stage, 0x100, 0x200, 16)
}

fn buffers_follow(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    let words = [tag(0, 0, 4), simple(8) | 1, FROM, simple(8), FROM + 8];
    // A second buffer is there, but not said to follow.
    let buffers = [STRINGS, simple(64), TO, simple(64), TO + 0x200];
    let (sent, received) = pair.pass(stage, &words, &buffers)?;
    equal("the sender", SEND_OVERFLOW, sent.error() & 0xf)?;
    equal("the receiver", RECEIVE_OVERFLOW, received.error() & 0xf)?;
    pair.require_untouched(stage, 0x200)
}

/// Fails unless both sides failed with these codes; the offsets.
fn failed(sent: &Output, received: &Output, send: u64, receive: u64) -> Checked<(u64, u64)> {
    equal("the sender's tag", 0x8000, sent.registers.r9)?;
    equal("the receiver's tag", 0x8000, received.registers.r9)?;
    equal("the sender's code", send, sent.error() & 0xf)?;
    equal("the receiver's code", receive, received.error() & 0xf)?;
    equal("the sender's sender", 0, sent.from().0)?;
    equal("the receiver's sender", 0, received.from().0)?;
    Ok((sent.error() >> 4, received.error() >> 4))
}

fn no_strings_are_taken(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    let words = [tag(0, 0, 2), simple(8), FROM];
    let (sent, received) = pair.pass(stage, &words, &[0, simple(64), TO])?;
    let offsets = failed(&sent, &received, SEND_OVERFLOW, RECEIVE_OVERFLOW)?;
    equal("the sender's offset", 0, offsets.0)?;
    equal("the receiver's offset", 0, offsets.1)?;
    pair.require_untouched(stage, 0)
}

fn more_strings_than_buffers(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    let words = [tag(0, 0, 4), simple(24) | 1, FROM, simple(8), FROM + 0x100];
    let (sent, received) = pair.pass(stage, &words, &[STRINGS, simple(64), TO])?;
    let offsets = failed(&sent, &received, SEND_OVERFLOW, RECEIVE_OVERFLOW)?;
    equal("the sender's offset", 24, offsets.0)?;
    equal("the receiver's offset", 24, offsets.1)?;
    pair.require_same(stage, 0, 0, 24)
}

fn a_string_that_is_too_long(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    let words = [tag(0, 0, 4), simple(24) | 1, FROM, simple(40), FROM + 0x100];
    let buffers = [STRINGS, simple(64) | 1, TO, simple(16), TO + 0x200];
    let (sent, received) = pair.pass(stage, &words, &buffers)?;
    let offsets = failed(&sent, &received, SEND_OVERFLOW, RECEIVE_OVERFLOW)?;
    equal("the sender's offset", 40, offsets.0)?;
    equal("the receiver's offset", 40, offsets.1)?;
    pair.require_same(stage, 0x100, 0x200, 16)?;
    pair.require_untouched(stage, 0x210)
}

fn the_first_bit_of_items(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    // Both wrong.
    let words = [tag(0, 0, 4), simple(8), FROM, simple(8) | 1, FROM + 0x100];
    let buffers = [STRINGS, simple(64) | 1, TO, simple(64), TO + 0x200];
    let received = pair.passes(stage, &words, &buffers)?;
    equal("the first item", simple(8) | 1, received.message_register(1))?;
    equal("the last item", simple(8), received.message_register(3))
}

fn strings_and_mappings_in_order(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 2)?;
    // A string, a page that is mapped over the buffer's place, and another string that goes there.
    let spare = stage.page();
    stage.give(pair.sender, spare, RW, FROM + 0x10_0000)?;
    let [_, header, flexpage] = map_words(page(FROM + 0x10_0000, RW), TO);
    let words = [tag(0, 0, 6), simple(8) | 1, FROM, header | 1, flexpage, simple(16), FROM + 0x100];
    let buffers = [0x10 | STRINGS, simple(64) | 1, TO, simple(64), TO + 0x20];
    pair.passes(stage, &words, &buffers)?;
    pair.require_same(stage, 0, 0, 8)?;
    pair.require_untouched(stage, 0x20)?;
    let (mut sent, mut found) = ([0; 16], [0; 16]);
    stage.memory.large.read_bytes(pair.from + 0x100, &mut sent);
    stage.memory.large.read_bytes(spare + 0x20, &mut found);
    holds("the second string is in the new page", sent == found)
}

/// A string whose second page is missing on one side.
struct Broken {
    pair: Pair,
    /// The side whose page is missing, and where.
    faulter: Probe,
    at: u64,
    /// The page that is missing, in the large region.
    offset: u64,
    words: [u64; 4],
    buffers: [u64; 3],
}

const LENGTH: u64 = 6000;

fn broken(stage: &mut Stage, sender: bool) -> Checked<Broken> {
    let pair = pair(stage, 2)?;
    let (faulter, at, first) = match sender {
        true => (pair.sender, FROM + 0x1000, pair.from),
        false => (pair.receiver, TO + 0x1000, pair.to),
    };
    let offset = first + 0x1000;
    stage.run(faulter, unmap(0x40, &[page(at, RWX).0]))?;
    let words = [tag(6, 1, 2), 0x99, simple(LENGTH), FROM];
    Ok(Broken { pair, faulter, at, offset, words, buffers: [STRINGS, simple(8192), TO] })
}

impl Broken {
    fn send_step(&self, timeouts: Timeouts) -> Step {
        send(self.pair.receiver.id(), NEVER, &self.words)
            .with_word(ControlWord::TransferTimeouts as isize, timeouts.0)
    }

    fn receive_step(&self, timeouts: Timeouts) -> Step {
        accepting(receive(self.pair.sender.id(), NEVER), &self.buffers)
            .with_word(ControlWord::TransferTimeouts as isize, timeouts.0)
    }

    /// Begins the transfer.
    fn begin(&self, stage: &mut Stage, sender: Timeouts, receiver: Timeouts) -> Checked {
        stage.go(self.pair.receiver, &[self.receive_step(receiver)])?;
        stage.block_receiving(self.pair.receiver)?;
        stage.go(self.pair.sender, &[self.send_step(sender)])
    }

    /// The fault, which must be of the side whose page is missing.
    fn fault(&self, stage: &mut Stage) -> Checked<PageFault> {
        let fault = stage.page_fault(self.faulter)?;
        equal("the page that is missing", self.at, fault.address & !0xfff)?;
        Ok(fault)
    }

    /// Gives the page.
    fn repair(&self, stage: &Stage) -> Checked {
        stage.map_to(self.faulter.id(), stage.mapping(self.offset, RW, self.at))
    }

    /// Fails unless both sides end well, with the string.
    fn ends_well(&self, stage: &mut Stage) -> Checked {
        stage.finish(self.pair.sender)?.succeeded("the send")?;
        let received = stage.finish(self.pair.receiver)?.succeeded("the receive")?;
        for (index, word) in self.words.into_iter().enumerate() {
            equal("a word of the message", word, received.message_register(index))?;
        }
        self.pair.require_same(stage, 0, 0, LENGTH)
    }

    /// Fails unless both sides fail with these codes, after so many bytes at most.
    fn ends_badly(&self, stage: &mut Stage, codes: (u64, u64)) -> Checked {
        let sent = stage.finish(self.pair.sender)?;
        let received = stage.finish(self.pair.receiver)?;
        let offsets = failed(&sent, &received, codes.0, codes.1)?;
        at_most("the sender's offset", 4096, offsets.0)?;
        equal("the receiver's offset", offsets.0, offsets.1)
    }
}

fn faults_of(stage: &mut Stage, sender: bool, access: u64) -> Checked {
    let broken = broken(stage, sender)?;
    broken.begin(stage, Timeouts::NEVER, Timeouts::NEVER)?;
    let fault = broken.fault(stage)?;
    equal("the access", access, fault.access)?;
    broken.repair(stage)?;
    broken.ends_well(stage)?;
    // The sender waits for the receiver.
    stage.run(broken.faulter, unmap(0x40, &[page(broken.at, RWX).0]))?;
    stage.go(broken.pair.sender, &[broken.send_step(Timeouts::NEVER)])?;
    stage.block_sending(broken.pair.sender)?;
    stage.go(broken.pair.receiver, &[broken.receive_step(Timeouts::NEVER)])?;
    broken.fault(stage)?;
    broken.repair(stage)?;
    broken.ends_well(stage)
}

fn faults_of_the_sender(stage: &mut Stage) -> Checked {
    faults_of(stage, true, 4)
}

fn faults_of_the_receiver(stage: &mut Stage) -> Checked {
    faults_of(stage, false, 2)
}

fn what_faults_tell(stage: &mut Stage) -> Checked {
    for sender in [true, false] {
        let broken = broken(stage, sender)?;
        broken.begin(stage, Timeouts::NEVER, Timeouts::NEVER)?;
        let fault = broken.fault(stage)?;
        let is_stub =
            |at: u64| SystemCall::ALL.iter().any(|call| raw::stub(*call) >> 12 == at >> 12);
        holds(
            "no address of the kernel",
            fault.instruction >> 47 == 0 || is_stub(fault.instruction),
        )?;
        let label = KernelLabel::PageFault.label(fault.access);
        equal("the tag", label << 16 | 2, fault.tag)?;
        broken.repair(stage)?;
        broken.ends_well(stage)?;
    }
    Ok(())
}

fn states_during_a_fault(stage: &mut Stage) -> Checked {
    for sender in [true, false] {
        let broken = broken(stage, sender)?;
        broken.begin(stage, Timeouts::NEVER, Timeouts::NEVER)?;
        broken.fault(stage)?;
        stage.require_state("the sender", broken.pair.sender, ThreadState::Sending)?;
        stage.require_state("the receiver", broken.pair.receiver, ThreadState::Receiving)?;
        broken.repair(stage)?;
        broken.ends_well(stage)?;
    }
    Ok(())
}

/// Codes of sender and receiver if the memory of that side was missing too long.
const fn codes(sender: bool) -> (u64, u64) {
    match sender {
        true => (SEND_TRANSFER_OWN, RECEIVE_TRANSFER_PARTNER),
        false => (SEND_TRANSFER_PARTNER, RECEIVE_TRANSFER_OWN),
    }
}

fn no_time_for_faults(stage: &mut Stage) -> Checked {
    for sender in [true, false] {
        let broken = broken(stage, sender)?;
        broken.begin(stage, Timeouts::new(ZERO, NEVER), Timeouts::new(NEVER, ZERO))?;
        broken.ends_badly(stage, codes(sender))?;
        stage.require_nothing("the page", broken.faulter, broken.at)?;
    }
    Ok(())
}

fn no_time_and_no_fault(stage: &mut Stage) -> Checked {
    let broken = broken(stage, true)?;
    stage.give(broken.faulter, broken.offset, RW, broken.at)?;
    broken.begin(stage, Timeouts::new(ZERO, ZERO), Timeouts::new(ZERO, ZERO))?;
    broken.ends_well(stage)
}

fn some_time_for_faults(stage: &mut Stage) -> Checked {
    for sender in [true, false] {
        let broken = broken(stage, sender)?;
        let time = milliseconds(20);
        broken.begin(stage, Timeouts::new(time, NEVER), Timeouts::new(NEVER, time))?;
        broken.fault(stage)?;
        let begin = system_clock();
        broken.ends_badly(stage, codes(sender))?;
        at_least("how long it took", 15_000, system_clock() - begin)?;
        // A page that comes too late helps the next time.
        stage.give(broken.faulter, broken.offset, RW, broken.at)?;
        broken.begin(stage, Timeouts::new(ZERO, NEVER), Timeouts::new(NEVER, ZERO))?;
        broken.ends_well(stage)?;
    }
    // One clock for the whole message: two faults, of which each is served in time.
    let broken = broken(stage, true)?;
    stage.run(broken.faulter, unmap(0x40, &[page(FROM, RWX).0]))?;
    let time = Timeouts::new(milliseconds(40), NEVER);
    broken.begin(stage, time, Timeouts::NEVER)?;
    let first = stage.page_fault(broken.faulter)?;
    equal("the first page", FROM, first.address & !0xfff)?;
    stage.let_run(25_000)?;
    stage.map_to(broken.faulter.id(), stage.mapping(broken.pair.from, RW, FROM))?;
    broken.fault(stage)?;
    broken.ends_badly(stage, codes(true))
}

fn the_shorter_timeout_counts(stage: &mut Stage) -> Checked {
    let (short, long) = (milliseconds(5), milliseconds(1500));
    for (send_half, receive_half) in [(short, long), (long, short), (short, NEVER), (NEVER, short)]
    {
        let broken = broken(stage, true)?;
        // The other halves do not matter.
        let sender = Timeouts::new(send_half, ZERO);
        let receiver = Timeouts::new(ZERO, receive_half);
        let begin = system_clock();
        broken.begin(stage, sender, receiver)?;
        broken.fault(stage)?;
        broken.ends_badly(stage, codes(true))?;
        at_most("how long it took", 1_000_000, system_clock() - begin)?;
        stage.delete(broken.pair.sender)?;
        stage.delete(broken.pair.receiver)?;
    }
    Ok(())
}

fn all_time_for_faults(stage: &mut Stage) -> Checked {
    let broken = broken(stage, false)?;
    broken.begin(stage, Timeouts::NEVER, Timeouts::NEVER)?;
    broken.fault(stage)?;
    stage.let_run(50_000)?;
    broken.repair(stage)?;
    broken.ends_well(stage)
}

fn points_as_transfer_timeouts(stage: &mut Stage) -> Checked {
    let broken = broken(stage, true)?;
    let now = system_clock();
    let point = Time::point(now + 20_000, now);
    broken.begin(stage, Timeouts::new(point, NEVER), Timeouts::NEVER)?;
    broken.fault(stage)?;
    broken.ends_badly(stage, codes(true))?;
    at_least("the clock", now + 19_000, system_clock())?;
    // It has passed now: no fault is sent.
    broken.begin(stage, Timeouts::new(point, NEVER), Timeouts::NEVER)?;
    broken.ends_badly(stage, codes(true))
}

fn no_pager(stage: &mut Stage) -> Checked {
    for sender in [true, false] {
        for pager in [ThreadId::NIL, stage.spare(0).into()] {
            let broken = broken(stage, sender)?;
            let side = |step: Step, own: bool| match own {
                true => step.with_word(ControlWord::Pager as isize, pager.0),
                false => step,
            };
            let receive = side(broken.receive_step(Timeouts::NEVER), !sender);
            stage.go(broken.pair.receiver, &[receive])?;
            stage.block_receiving(broken.pair.receiver)?;
            stage.go(broken.pair.sender, &[side(broken.send_step(Timeouts::NEVER), sender)])?;
            broken.ends_badly(stage, (SEND_ABORTED, RECEIVE_ABORTED))?;
            stage.delete(broken.pair.sender)?;
            stage.delete(broken.pair.receiver)?;
        }
    }
    Ok(())
}

fn answers_with_many_words(stage: &mut Stage) -> Checked {
    for sender in [true, false] {
        let mut broken = broken(stage, sender)?;
        broken.words[1] = 0x4242;
        let pager = stage.probe()?;
        stage.give(pager, broken.offset, RW, 0x5_0000_0000)?;
        let side = |step: Step, own: bool| match own {
            true => step.with_word(ControlWord::Pager as isize, pager.id().0),
            false => step,
        };
        // A pager that answers with 61 words before the item.
        let mut answer = [0x6666; 64];
        answer[0] = tag(0x666, 61, 2);
        let [_, header, flexpage] = map_words(page(0x5_0000_0000, RW), broken.at);
        (answer[62], answer[63]) = (header, flexpage);
        stage.go(
            pager,
            &[receive(broken.faulter.id(), NEVER), send(broken.faulter.id(), NEVER, &answer)],
        )?;
        stage.block_receiving(pager)?;
        let receive = side(broken.receive_step(Timeouts::NEVER), !sender);
        stage.go(broken.pair.receiver, &[receive])?;
        stage.block_receiving(broken.pair.receiver)?;
        stage.go(broken.pair.sender, &[side(broken.send_step(Timeouts::NEVER), sender)])?;
        stage.finish(pager)?.succeeded("the pager's answer")?;
        broken.ends_well(stage)?;
    }
    Ok(())
}

fn impossible_addresses(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    for at in [0xffff_8000_0000_0000, 0xffff_ffff_ffff_fff8, 0x8000_0000_0000, u64::MAX - 3] {
        let (sent, received) =
            pair.pass(stage, &[tag(0, 0, 2), simple(64), at], &[STRINGS, simple(64), TO])?;
        failed(&sent, &received, SEND_ABORTED, RECEIVE_ABORTED)?;
        let (sent, received) =
            pair.pass(stage, &[tag(0, 0, 2), simple(64), FROM], &[STRINGS, simple(64), at])?;
        failed(&sent, &received, SEND_ABORTED, RECEIVE_ABORTED)?;
    }
    // The stubs can be read by programs, but are nobody's.
    let stub = raw::stub(SystemCall::Ipc);
    let (sent, received) =
        pair.pass(stage, &[tag(0, 0, 2), simple(64), stub], &[STRINGS, simple(64), TO])?;
    failed(&sent, &received, SEND_ABORTED, RECEIVE_ABORTED).map(|_| ())
}

fn empty_strings(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    let words = [tag(0, 0, 4), simple(0) | 1, FROM, simple(8), FROM + 0x100];
    let buffers = [STRINGS, simple(64) | 1, TO, simple(64), TO + 0x200];
    pair.passes(stage, &words, &buffers)?;
    pair.require_untouched(stage, 0)?;
    pair.require_same(stage, 0x100, 0x200, 8)?;
    // An empty buffer is enough for it, and its addresses do not matter.
    let words = [tag(0, 0, 2), simple(0), u64::MAX];
    pair.passes(stage, &words, &[STRINGS, simple(0), u64::MAX]).map(|_| ())
}

/// A sender of 4 MiB that are the same 1 MiB four times, and a receiver of it.
fn large_pair(stage: &mut Stage) -> Checked<(Probe, Probe)> {
    let (sender, receiver) = (stage.probe()?, stage.probe()?);
    for copy in 0..4 {
        let at = copy << 20;
        stage.give_mapping(sender, stage.memory.large.map(2 << 20, 20, R, FROM + at))?;
        stage.give_mapping(receiver, stage.memory.large.map(3 << 20, 20, RW, TO + at))?;
    }
    for word in 0..1 << 10 {
        stage.memory.large.write((2 << 20) + word * 1024, word);
    }
    Ok((sender, receiver))
}

fn four_mebibytes(stage: &mut Stage) -> Checked {
    let (sender, receiver) = large_pair(stage)?;
    stage.memory.large.clear(3 << 20, 1 << 20);
    let words = [tag(0, 0, 2), simple(4 << 20), FROM];
    let (sent, received) = stage.pass(sender, receiver, &words, &[STRINGS, simple(4 << 20), TO])?;
    sent.succeeded("sending 4 MiB")?;
    received.succeeded("receiving 4 MiB")?;
    for word in 0..1 << 10 {
        equal("a word of the copy", word, stage.memory.large.read((3 << 20) + word * 1024))?;
    }
    Ok(())
}

fn cache_hints(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    for hint in 0..4 {
        let words = [tag(0, 0, 2), simple(64) | hint << 1, FROM + hint * 64];
        let received = pair.passes(stage, &words, &[STRINGS, simple(64) | hint << 1, TO])?;
        pair.require_same(stage, hint * 64, 0, 64)?;
        equal("the item's word", words[1], received.message_register(1))?;
    }
    Ok(())
}

fn a_side_is_deleted(stage: &mut Stage) -> Checked {
    for sender_faults in [true, false] {
        for sender_dies in [true, false] {
            let broken = broken(stage, sender_faults)?;
            broken.begin(stage, Timeouts::NEVER, Timeouts::NEVER)?;
            broken.fault(stage)?;
            let (dies, lives, code) = match sender_dies {
                true => (broken.pair.sender, broken.pair.receiver, RECEIVE_ABORTED),
                false => (broken.pair.receiver, broken.pair.sender, SEND_ABORTED),
            };
            stage.delete(dies)?;
            let output = stage.finish(lives)?;
            equal("the tag of the other", 0x8000, output.registers.r9)?;
            equal("the code of the other", code, output.error() & 0xf)?;
            stage.delete(lives)?;
        }
    }
    Ok(())
}

fn somebody_more_important(stage: &mut Stage) -> Checked {
    let (sender, receiver) = large_pair(stage)?;
    let sleeper = stage.probe_at(150)?;
    let naps: [Step; 10] =
        core::array::from_fn(|index| receive(sleeper.id(), Time::from_period(20 << index)));
    stage
        .go(receiver, &[accepting(receive(sender.id(), NEVER), &[STRINGS, simple(4 << 20), TO])])?;
    stage.block_receiving(receiver)?;
    stage.go(sleeper, &naps)?;
    stage.go(sender, &[send(receiver.id(), NEVER, &[tag(0, 0, 2), simple(4 << 20), FROM])])?;
    stage.finish(sleeper)?;
    stage.finish(sender)?.succeeded("the send")?;
    stage.finish(receiver)?.succeeded("the receive")?;
    let copy = sender.memory().output(0);
    let woken = (0..10).map(|index| sleeper.memory().output(index).after);
    let within = woken.filter(|at| (copy.before..copy.after).contains(at)).count();
    holds("it runs during the copy", within > 0)
}

fn memory_goes_during_a_transfer(stage: &mut Stage) -> Checked {
    let broken = broken(stage, true)?;
    broken.begin(stage, Timeouts::NEVER, Timeouts::NEVER)?;
    broken.fault(stage)?;
    // The receiver's pages go, and so does what the sender has sent already.
    stage.memory.large.unmap(broken.pair.to, 12, Flexpage::ALL, false);
    stage.memory.large.unmap(broken.pair.to + 0x1000, 12, Flexpage::ALL, false);
    stage.memory.large.unmap(broken.pair.from, 12, Flexpage::ALL, false);
    broken.repair(stage)?;
    let fault = stage.page_fault(broken.pair.receiver)?;
    equal("the receiver's page", TO + 0x1000, fault.address & !0xfff)?;
    let mapping = stage.mapping(broken.pair.to + 0x1000, RW, TO + 0x1000);
    stage.map_to(broken.pair.receiver.id(), mapping)?;
    broken.ends_well(stage)
}

fn rights_are_kept(stage: &mut Stage) -> Checked {
    let pair = pair(stage, 1)?;
    // Reading is enough to send.
    stage.run(pair.sender, unmap(0x40, &[page(FROM, 2).0]))?;
    pair.passes(stage, &[tag(0, 0, 2), simple(64), FROM], &[STRINGS, simple(64), TO])?;
    // It is not enough to receive.
    stage.run(pair.receiver, unmap(0x40, &[page(TO, 2).0]))?;
    let step = accepting(receive(pair.sender.id(), NEVER), &[STRINGS, simple(64), TO]);
    stage.go(pair.receiver, &[step])?;
    stage.block_receiving(pair.receiver)?;
    stage.go(
        pair.sender,
        &[send(pair.receiver.id(), NEVER, &[tag(0, 0, 2), simple(64), FROM + 64])],
    )?;
    let fault = stage.page_fault(pair.receiver)?;
    equal("a write", 2, fault.access)?;
    equal("to the buffer", TO, fault.address & !0xfff)?;
    stage.map_to(pair.receiver.id(), stage.mapping(pair.to, RW, TO))?;
    stage.finish(pair.sender)?.succeeded("the send")?;
    stage.finish(pair.receiver)?.succeeded("the receive")?;
    pair.require_same(stage, 64, 0, 64)?;
    pair.sender.scratch(0).store(0, Ordering::Relaxed);
    Ok(())
}

fn a_fault_as_an_answer(stage: &mut Stage) -> Checked {
    for sender in [true, false] {
        let broken = broken(stage, sender)?;
        let other = self::broken(stage, true)?;
        // The pager of the one takes its fault, then sends a string that faults, too. Its pager is the one.
        let (faulter, pager) = (broken.faulter, other.faulter);
        let with_pager =
            |step: Step, pager: Probe| step.with_word(ControlWord::Pager as isize, pager.id().0);
        let side = |step: Step, own: bool| if own { with_pager(step, pager) } else { step };
        stage.go(other.pair.receiver, &[other.receive_step(Timeouts::NEVER)])?;
        stage.block_receiving(other.pair.receiver)?;
        let second = with_pager(other.send_step(Timeouts::NEVER), faulter);
        stage.go(pager, &[receive(faulter.id(), NEVER), second])?;
        stage.block_receiving(pager)?;
        let receive = side(broken.receive_step(Timeouts::NEVER), !sender);
        stage.go(broken.pair.receiver, &[receive])?;
        stage.block_receiving(broken.pair.receiver)?;
        stage.go(broken.pair.sender, &[side(broken.send_step(Timeouts::NEVER), sender)])?;
        broken.ends_badly(stage, (SEND_ABORTED, RECEIVE_ABORTED))?;
        for probe in [broken.pair.sender, broken.pair.receiver, pager, other.pair.receiver] {
            stage.delete(probe)?;
        }
    }
    Ok(())
}
