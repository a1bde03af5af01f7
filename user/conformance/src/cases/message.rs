//! IPC: messages; LIPC: messages within a space.

use core::sync::atomic::Ordering;

use heliox_l4::abi::ThreadState;
use heliox_l4::kip::SystemCall;
use heliox_l4::probe::{Action, Output};
use heliox_l4::raw::Registers;
use heliox_l4::{ThreadId, Timeouts, control, raw};

use crate::case::{Checked, at_least, at_most, cases, equal, holds};
use crate::stage::{Options, Probe, Stage, refused};
use crate::steps::{
    ANY, ANY_LOCAL, COMPLETE, MessageOutput, NEVER, NIL, RECEIVE_NO_PARTNER, RECEIVE_OVERFLOW,
    RECEIVE_TIMEOUT, RW, SEND_NO_PARTNER, SEND_OVERFLOW, SEND_TIMEOUT, ZERO, action, call, ipc,
    map_words, message_call, milliseconds, page, receive, send, sleep, tag,
};

cases! {
    "IPC-1" => all_lengths_arrive,
    "IPC-2" => labels_arrive,
    "IPC-3" => flags_do_not_arrive,
    "IPC-4" => no_time_to_send,
    "IPC-5" => some_time_to_send,
    "IPC-6" => all_time_to_send,
    "IPC-7" => senders_are_served_in_order,
    "IPC-8" => a_closed_receive_passes_over_others,
    "IPC-9" => a_closed_receive_stays_closed,
    "IPC-10" => an_open_receive_takes_the_first,
    "IPC-11" => a_local_receive_takes_neighbours,
    "IPC-12" => no_time_to_receive,
    "IPC-13" => some_time_to_receive,
    "IPC-14" => all_time_to_receive,
    "IPC-15" => callers_are_ready_for_answers,
    "IPC-16" => reply_and_wait,
    "IPC-17" => neither_phase,
    "IPC-18" => sending_only,
    "IPC-19" => sending_to_nobody,
    "IPC-20" => sending_to_special_ids,
    "IPC-21" => sending_to_a_thread_that_is_not_active,
    "IPC-22" => receiving_from_nobody,
    "IPC-23" => receiving_from_system_ids,
    "IPC-24" => failures_look_the_same,
    "IPC-25" => no_receive_phase_after_a_failure,
    "IPC-26" => senders_names,
    "IPC-27" => too_many_words,
    "IPC-28" => sending_to_oneself,
    "IPC-29" => sleeping,
    "IPC-30 IPC-31" => local_ids,
    "IPC-32" => the_receiver_is_deleted,
    "IPC-33" => the_sender_is_deleted,
    "IPC-34" => senders_that_gave_up_are_gone,
    "IPC-35" => sending_then_receiving_from_nobody,
    "IPC-36" => rdi_is_the_block,
    "IPC-37" => a_block_that_others_write,
    "IPC-38" => the_senders_registers_stay,
    "IPC-39" => a_call_runs_the_partner,
    "IPC-40" => a_message_runs_who_is_more_important,
}

fn all_lengths_arrive(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for count in 0..64 {
        let mut words = [0; 64];
        words[0] = tag(0x1d, count, 0);
        for (index, word) in words.iter_mut().enumerate().skip(1) {
            *word = count << 32 | index as u64;
        }
        let words = &words[..=count as usize];
        for late in [false, true] {
            let (sent, received) = if late {
                stage.pass_to_late_receiver(a, b, words, &[0])?
            } else {
                stage.pass(a, b, words, &[0])?
            };
            sent.succeeded("the send")?;
            let received = received.succeeded("the receive")?;
            for (index, word) in words.iter().enumerate() {
                equal("a word", *word, received.message_register(index))?;
            }
        }
    }
    Ok(())
}

fn labels_arrive(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for bit in 0..48 {
        let (_, received) = stage.pass(a, b, &[tag(1 << bit, 0, 0)], &[0])?;
        equal("a label", tag(1 << bit, 0, 0), received.registers.r9)?;
    }
    // Like a label of the kernel's, which anybody may send.
    let (_, received) = stage.pass(a, b, &[0xffff_ffff_ffe4_0002, 1, 2], &[0])?;
    equal("a label", 0xffff_ffff_ffe4_0002, received.registers.r9)
}

fn flags_do_not_arrive(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for flags in 0..16 {
        let words = [tag(5, 1, 0) | flags << 12, 9];
        for late in [false, true] {
            let (sent, received) = if late {
                stage.pass_to_late_receiver(a, b, &words, &[0])?
            } else {
                stage.pass(a, b, &words, &[0])?
            };
            sent.succeeded("the send")?;
            equal("the tag", tag(5, 1, 0), received.registers.r9)?;
        }
    }
    Ok(())
}

fn no_time_to_send(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    // Waits for its driver, runs, and waits for another one.
    stage.run(a, send(b.id(), ZERO, &[0]))?.failed("a send", SEND_TIMEOUT)?;
    stage.go(b, &[receive(b.id(), NEVER)])?;
    stage.block_receiving(b)?;
    let (output, took) = stage.timed(a, send(b.id(), ZERO, &[0]))?;
    output.failed("a send", SEND_TIMEOUT)?;
    at_most("how long it took", 200_000, took)
}

fn some_time_to_send(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let (output, took) = stage.timed(a, send(b.id(), milliseconds(15), &[0]))?;
    output.failed("a send", SEND_TIMEOUT)?;
    at_least("how long it took", 15_000, took)?;
    // In time.
    stage.go(a, &[send(b.id(), milliseconds(1000), &[tag(2, 0, 0)])])?;
    stage.block_sending(a)?;
    stage.run(b, receive(a.id(), NEVER))?.succeeded("the receive")?;
    stage.finish(a)?.succeeded("the send").map(|_| ())
}

fn all_time_to_send(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.go(a, &[send(b.id(), NEVER, &[tag(2, 1, 0), 77])])?;
    stage.block_sending(a)?;
    stage.let_run(30_000)?;
    stage.require_state("it still waits", a, ThreadState::PendingSend)?;
    let output = stage.run(b, receive(a.id(), NEVER))?.succeeded("the receive")?;
    equal("the word", 77, output.message_register(1))?;
    stage.finish(a)?.succeeded("the send").map(|_| ())
}

fn senders_are_served_in_order(stage: &mut Stage) -> Checked {
    let receiver = stage.probe()?;
    let mut senders = [receiver; 6];
    for sender in &mut senders {
        *sender = stage.probe()?;
    }
    // Not in the order of their numbers.
    let order = [3, 0, 5, 1, 4, 2].map(|index: usize| senders[index]);
    for sender in order {
        stage.go(sender, &[send(receiver.id(), NEVER, &[tag(1, 0, 0)])])?;
        stage.block_sending(sender)?;
    }
    for sender in order {
        let output = stage.run(receiver, receive(ANY, NEVER))?.succeeded("a receive")?;
        equal("the sender", sender.id().0, output.from().0)?;
    }
    Ok(())
}

fn a_closed_receive_passes_over_others(stage: &mut Stage) -> Checked {
    let receiver = stage.probe()?;
    let senders = [stage.probe()?, stage.probe()?, stage.probe()?];
    for sender in senders {
        stage.go(sender, &[send(receiver.id(), NEVER, &[tag(1, 0, 0)])])?;
        stage.block_sending(sender)?;
    }
    for index in [2, 0, 1] {
        let from = senders[index].id();
        let output = stage.run(receiver, receive(from, NEVER))?.succeeded("a receive")?;
        equal("the sender", from.0, output.from().0)?;
    }
    // The receiver first, and the wrong one comes before the right one.
    let [wrong, right, _] = senders;
    stage.go(receiver, &[receive(right.id(), NEVER)])?;
    stage.block_receiving(receiver)?;
    stage.go(wrong, &[send(receiver.id(), NEVER, &[tag(1, 0, 0)])])?;
    stage.block_sending(wrong)?;
    stage.run(right, send(receiver.id(), NEVER, &[tag(2, 0, 0)]))?.succeeded("the send")?;
    let output = stage.finish(receiver)?.succeeded("the receive")?;
    equal("the sender", right.id().0, output.from().0)
}

fn a_closed_receive_stays_closed(stage: &mut Stage) -> Checked {
    let (receiver, wrong, right) = (stage.probe()?, stage.probe()?, stage.probe()?);
    // The form that a fast path is made for.
    stage.go(receiver, &[receive(right.id(), NEVER)])?;
    stage.block_receiving(receiver)?;
    stage.go(wrong, &[call(receiver.id(), &[tag(1, 1, 0), 1])])?;
    stage.block_sending(wrong)?;
    stage.require_state("the receiver waits", receiver, ThreadState::Waiting)?;
    stage.run(right, send(receiver.id(), NEVER, &[tag(2, 0, 0)]))?.succeeded("the send")?;
    let output = stage.finish(receiver)?.succeeded("the receive")?;
    equal("the sender", right.id().0, output.from().0)
}

fn an_open_receive_takes_the_first(stage: &mut Stage) -> Checked {
    let receiver = stage.probe()?;
    let (a, b) = (stage.probe()?, stage.probe_beside(receiver)?);
    for sender in [b, a] {
        stage.go(sender, &[send(receiver.id(), NEVER, &[tag(1, 0, 0)])])?;
        stage.block_sending(sender)?;
    }
    let output = stage.run(receiver, receive(ANY, NEVER))?.succeeded("a receive")?;
    equal("the first that waits", b.local().0, output.from().0)?;
    let output = stage.run(receiver, receive(ANY, ZERO))?.succeeded("a receive")?;
    equal("the second", a.id().0, output.from().0)?;
    for sender in [a, b] {
        stage.go(receiver, &[receive(ANY, NEVER)])?;
        stage.block_receiving(receiver)?;
        stage.run(sender, call_without_answer(receiver))?.succeeded("the send")?;
        stage.finish(receiver)?.succeeded("whoever comes")?;
    }
    Ok(())
}

fn call_without_answer(receiver: Probe) -> heliox_l4::probe::Step {
    send(receiver.id(), NEVER, &[tag(1, 0, 0)])
}

fn a_local_receive_takes_neighbours(stage: &mut Stage) -> Checked {
    let receiver = stage.probe()?;
    let (stranger, neighbour) = (stage.probe()?, stage.probe_beside(receiver)?);
    for sender in [stranger, neighbour] {
        stage.go(sender, &[call_without_answer(receiver)])?;
        stage.block_sending(sender)?;
    }
    let output = stage.run(receiver, receive(ANY_LOCAL, NEVER))?.succeeded("a receive")?;
    equal("the neighbour", neighbour.local().0, output.from().0)?;
    let output = stage.run(receiver, receive(ANY_LOCAL, ZERO))?;
    output.failed("a receive while a stranger waits", RECEIVE_TIMEOUT)?;
    stage.go(receiver, &[receive(ANY_LOCAL, NEVER)])?;
    stage.block_receiving(receiver)?;
    let other = stage.probe()?;
    stage.run(other, send(receiver.id(), ZERO, &[0]))?.failed("another stranger", SEND_TIMEOUT)?;
    stage.run(neighbour, call_without_answer(receiver))?.succeeded("the neighbour")?;
    stage.finish(receiver)?.succeeded("the receive").map(|_| ())
}

fn no_time_to_receive(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for from in [b.id(), ANY, ANY_LOCAL] {
        let (output, took) = stage.timed(a, receive(from, ZERO))?;
        output.failed("a receive", RECEIVE_TIMEOUT)?;
        at_most("how long it took", 200_000, took)?;
    }
    Ok(())
}

fn some_time_to_receive(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for from in [b.id(), ANY, ANY_LOCAL] {
        let (output, took) = stage.timed(a, receive(from, milliseconds(7)))?;
        output.failed("a receive", RECEIVE_TIMEOUT)?;
        at_least("how long it took", 7_000, took)?;
    }
    stage.go(a, &[receive(ANY, milliseconds(1000))])?;
    stage.block_receiving(a)?;
    stage.run(b, send(a.id(), NEVER, &[tag(4, 0, 0)]))?.succeeded("the send")?;
    stage.finish(a)?.succeeded("the receive").map(|_| ())
}

fn all_time_to_receive(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.go(a, &[receive(b.id(), NEVER)])?;
    stage.block_receiving(a)?;
    stage.let_run(30_000)?;
    stage.require_state("it still waits", a, ThreadState::Waiting)?;
    stage.run(b, send(a.id(), NEVER, &[tag(4, 0, 0)]))?.succeeded("the send")?;
    stage.finish(a)?.succeeded("the receive").map(|_| ())
}

fn callers_are_ready_for_answers(stage: &mut Stage) -> Checked {
    let (client, server) = (stage.probe()?, stage.probe_at(120)?);
    // The server is more important, and answers at once and with no time.
    for typed in [false, true] {
        let answer = ipc(client.id(), NIL, Timeouts::new(ZERO, NEVER), &[tag(2, 1, 0), 5]);
        stage.go(server, &[receive(client.id(), NEVER), answer])?;
        stage.block_receiving(server)?;
        let words = map_words(heliox_l4::Flexpage::NIL, 0);
        let words = if typed { &words[..] } else { &[tag(1, 0, 0)][..] };
        let output = stage.run(client, call(server.id(), words))?.succeeded("a call")?;
        equal("the answer", 5, output.message_register(1))?;
        stage.finish(server)?.succeeded("an answer with no time")?;
    }
    Ok(())
}

fn reply_and_wait(stage: &mut Stage) -> Checked {
    let server = stage.probe()?;
    let clients = [stage.probe()?, stage.probe()?, stage.probe()?];
    stage.go(server, &[receive(ANY, NEVER)])?;
    stage.block_receiving(server)?;
    for (number, client) in (1..).zip(clients) {
        stage.go(client, &[call(server.id(), &[tag(1, 1, 0), number])])?;
    }
    for (number, client) in (1..).zip(clients) {
        let output = stage.finish(server)?.succeeded("a request")?;
        equal("the client", client.id().0, output.from().0)?;
        equal("its number", number, output.message_register(1))?;
        let words = [tag(2, 1, 0), number * 10];
        let timeouts = if number == 3 { Timeouts::new(ZERO, ZERO) } else { Timeouts::NEVER };
        stage.go(server, &[ipc(client.id(), ANY, timeouts, &words)])?;
        let output = stage.finish(client)?.succeeded("the answer")?;
        equal("the answer", number * 10, output.message_register(1))?;
    }
    stage.finish(server)?.failed("no request is left", RECEIVE_TIMEOUT)
}

fn neither_phase(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let output = stage.run(a, ipc(NIL, NIL, Timeouts::NEVER, &[tag(9, 3, 0), 1, 2, 3]))?;
    output.succeeded("a call of neither phase").map(|_| ())
}

fn sending_only(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for late in [false, true] {
        let words = [tag(3, 2, 0), 1, 2];
        let (sent, _) = if late {
            stage.pass_to_late_receiver(a, b, &words, &[0])?
        } else {
            stage.pass(a, b, &words, &[0])?
        };
        let sent = sent.succeeded("the send")?;
        equal("the sender", 0, sent.from().0)?;
        holds("no error flag", sent.registers.r9 & 0x8000 == 0)?;
    }
    Ok(())
}

fn sending_to_nobody(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    for time in [ZERO, NEVER] {
        for id in [stage.spare(0).into(), ThreadId(0x3_ffff_0000_0001), ThreadId(u64::MAX - 1)] {
            let output = stage.run(a, send(id, time, &[0]))?;
            output.failed("a send to nobody", SEND_NO_PARTNER)?;
        }
    }
    Ok(())
}

fn sending_to_special_ids(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let system = u64::from(raw::page().system_base());
    for id in [ANY, ANY_LOCAL, ThreadId(system << 32 | 1), ThreadId((system + 1) << 32 | 7)] {
        let output = stage.run(a, send(id, NEVER, &[0]))?;
        output.failed("a send to no thread", SEND_NO_PARTNER)?;
    }
    Ok(())
}

fn sending_to_a_thread_that_is_not_active(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let id = stage.spare(0);
    refused("a thread", control::Space::create(id, stage.driver()))?;
    stage.run(a, send(id.into(), ZERO, &[0]))?.failed("a send", SEND_TIMEOUT)?;
    stage.go(a, &[send(id.into(), NEVER, &[0])])?;
    stage.block_sending(a)?;
    refused("deleting it", control::delete(id))?;
    stage.finish(a)?.failed("the send", SEND_NO_PARTNER)
}

fn receiving_from_nobody(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    for time in [ZERO, NEVER] {
        let output = stage.run(a, receive(stage.spare(0).into(), time))?;
        output.failed("a receive from nobody", RECEIVE_NO_PARTNER)?;
    }
    Ok(())
}

fn receiving_from_system_ids(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let system = u64::from(raw::page().system_base());
    for id in [ThreadId(system << 32 | 1), ThreadId((system + 1) << 32 | 7)] {
        let output = stage.run(a, receive(id, NEVER))?;
        output.failed("a receive from no thread", RECEIVE_NO_PARTNER)?;
    }
    Ok(())
}

fn failures_look_the_same(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    // With words in the message, none of which may be taken for a result.
    let words = [tag(0x77, 7, 0), 1, 2, 3, 4, 5, 6, 7];
    let timeouts = Timeouts::new(ZERO, ZERO);
    stage.run(a, ipc(b.id(), b.id(), timeouts, &words))?.failed("a send", SEND_TIMEOUT)?;
    stage.run(a, ipc(NIL, b.id(), timeouts, &words))?.failed("a receive", RECEIVE_TIMEOUT)?;
    let nobody = stage.spare(0).into();
    stage.run(a, ipc(nobody, b.id(), timeouts, &words))?.failed("nobody", SEND_NO_PARTNER)
}

fn no_receive_phase_after_a_failure(stage: &mut Stage) -> Checked {
    let (a, b, c) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.go(c, &[send(a.id(), NEVER, &[tag(1, 0, 0)])])?;
    stage.block_sending(c)?;
    let output = stage.run(a, ipc(b.id(), ANY, Timeouts::new(ZERO, NEVER), &[0]))?;
    output.failed("the send phase", SEND_TIMEOUT)?;
    stage.require_state("the other still waits", c, ThreadState::PendingSend)?;
    stage.run(a, receive(ANY, ZERO))?.succeeded("and is received later").map(|_| ())
}

fn senders_names(stage: &mut Stage) -> Checked {
    let receiver = stage.probe()?;
    let (stranger, neighbour) = (stage.probe()?, stage.probe_beside(receiver)?);
    let senders = [(stranger, stranger.id()), (neighbour, neighbour.local())];
    for (sender, name) in senders {
        // By each way of naming, with and without timeout, whoever is first.
        for from in [ANY, sender.id()] {
            for time in [NEVER, milliseconds(500)] {
                stage.go(receiver, &[receive(from, time)])?;
                stage.block_receiving(receiver)?;
                stage.run(sender, call_without_answer(receiver))?.succeeded("a send")?;
                let output = stage.finish(receiver)?.succeeded("a receive")?;
                equal("the name when the receiver waited", name.0, output.from().0)?;
                stage.go(sender, &[call_without_answer(receiver)])?;
                stage.block_sending(sender)?;
                let output = stage.run(receiver, receive(from, time))?.succeeded("a receive")?;
                equal("the name when the sender waited", name.0, output.from().0)?;
            }
        }
        // In a call and its answer.
        stage.go(receiver, &[receive(ANY, NEVER)])?;
        stage.block_receiving(receiver)?;
        stage.go(sender, &[call(receiver.id(), &[tag(1, 0, 0)])])?;
        let output = stage.finish(receiver)?.succeeded("a call")?;
        equal("the name in a call", name.0, output.from().0)?;
        stage.run(receiver, send(name, ZERO, &[tag(2, 0, 0)]))?.succeeded("the answer")?;
        let output = stage.finish(sender)?.succeeded("the answer")?;
        let own = if name == sender.id() { receiver.id() } else { receiver.local() };
        equal("the name in the answer", own.0, output.from().0)?;
    }
    Ok(())
}

fn overflow(stage: &mut Stage, words: &[u64], buffers: &[u64]) -> Checked<(Output, Output)> {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let offset = stage.page();
    stage.give(a, offset, RW, 0x2_0000_0000)?;
    let (sent, received) = stage.pass(a, b, words, buffers)?;
    sent.failed("the sender", SEND_OVERFLOW)?;
    received.failed("the receiver", RECEIVE_OVERFLOW)?;
    stage.require_nothing("nothing is mapped", b, 0x2_0000_0000)?;
    Ok((sent, received))
}

fn too_many_words(stage: &mut Stage) -> Checked {
    let item = map_words(page(0x2_0000_0000, RW), 0x2_0000_0000);
    for (untyped, typed) in [(63, 1), (62, 2), (1, 63), (63, 63)] {
        let mut words = [0; 64];
        words[0] = tag(0, untyped, typed);
        // Items at the end of the registers, as far as there is room.
        for index in (1..63).step_by(2) {
            words[index] = item[1];
            words[index + 1] = item[2];
        }
        overflow(stage, &words, &[COMPLETE])?;
    }
    Ok(())
}

fn sending_to_oneself(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    for to in [a.id(), a.local()] {
        let (output, took) = stage.timed(a, send(to, milliseconds(5), &[0]))?;
        output.failed("a send to oneself", SEND_TIMEOUT)?;
        at_least("how long it took", 5_000, took)?;
        let both = ipc(to, to, Timeouts::new(ZERO, ZERO), &[0]);
        stage.run(a, both)?.failed("a call of oneself", SEND_TIMEOUT)?;
    }
    Ok(())
}

fn sleeping(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    for from in [a.id(), a.local()] {
        let (output, took) = stage.timed(a, sleep(from, milliseconds(5)))?;
        output.failed("a sleep", RECEIVE_TIMEOUT)?;
        at_least("how long it took", 5_000, took)?;
    }
    Ok(())
}

fn local_ids(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    stage.go(b, &[receive(a.local(), NEVER)])?;
    stage.block_receiving(b)?;
    stage.go(a, &[call(b.local(), &[tag(1, 0, 0)])])?;
    stage.finish(b)?.succeeded("the receive")?;
    stage.run(b, send(a.local(), ZERO, &[tag(2, 0, 0)]))?.succeeded("the answer")?;
    stage.finish(a)?.succeeded("the call")?;
    let nobody = ThreadId(b.local().0 + 1024);
    stage.run(a, send(nobody, NEVER, &[0]))?.failed("a send to nobody", SEND_NO_PARTNER)?;
    stage.run(a, receive(nobody, NEVER))?.failed("a receive from nobody", RECEIVE_NO_PARTNER)
}

fn the_receiver_is_deleted(stage: &mut Stage) -> Checked {
    let (receiver, first, second) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.go(first, &[call(receiver.id(), &[tag(1, 0, 0)])])?;
    stage.block_sending(first)?;
    stage.go(second, &[send(receiver.id(), milliseconds(1000), &[tag(1, 0, 0)])])?;
    stage.block_sending(second)?;
    stage.delete(receiver)?;
    stage.finish(first)?.failed("a call", SEND_NO_PARTNER)?;
    stage.finish(second)?.failed("a send with a timeout", SEND_NO_PARTNER)
}

fn the_sender_is_deleted(stage: &mut Stage) -> Checked {
    let (sender, first, second) = (stage.probe()?, stage.probe()?, stage.probe()?);
    let open = stage.probe()?;
    stage.go(first, &[receive(sender.id(), NEVER)])?;
    stage.go(second, &[receive(sender.id(), milliseconds(1000))])?;
    stage.go(open, &[receive(ANY, NEVER)])?;
    for probe in [first, second, open] {
        stage.block_receiving(probe)?;
    }
    stage.delete(sender)?;
    stage.finish(first)?.failed("a receive", RECEIVE_NO_PARTNER)?;
    stage.finish(second)?.failed("a receive with a timeout", RECEIVE_NO_PARTNER)?;
    stage.require_state("an open receive waits", open, ThreadState::Waiting)
}

fn senders_that_gave_up_are_gone(stage: &mut Stage) -> Checked {
    let receiver = stage.probe()?;
    let senders = [stage.probe()?, stage.probe()?, stage.probe()?];
    for (sender, time) in senders.into_iter().zip([NEVER, milliseconds(5), NEVER]) {
        stage.go(sender, &[send(receiver.id(), time, &[tag(1, 0, 0)])])?;
        stage.block_sending(sender)?;
    }
    stage.finish(senders[1])?.failed("the second gives up", SEND_TIMEOUT)?;
    for index in [0, 2] {
        let output = stage.run(receiver, receive(ANY, ZERO))?.succeeded("a receive")?;
        equal("the sender", senders[index].id().0, output.from().0)?;
    }
    stage.run(receiver, receive(ANY, ZERO))?.failed("no more", RECEIVE_TIMEOUT)
}

fn sending_then_receiving_from_nobody(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.go(b, &[receive(a.id(), NEVER)])?;
    stage.block_receiving(b)?;
    let nobody = stage.spare(0).into();
    let output = stage.run(a, ipc(b.id(), nobody, Timeouts::NEVER, &[tag(6, 0, 0)]))?;
    output.failed("the receive phase", RECEIVE_NO_PARTNER)?;
    let output = stage.finish(b)?.succeeded("the message arrives")?;
    equal("its tag", tag(6, 0, 0), output.registers.r9)
}

fn rdi_is_the_block(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    for step in [
        ipc(NIL, NIL, Timeouts::NEVER, &[]),
        send(b.id(), ZERO, &[0]),
        receive(b.id(), ZERO),
        send(stage.spare(0).into(), NEVER, &[0]),
    ] {
        // Whatever it was before.
        let mut step = step;
        step.registers_mut().rdi = 0x1234;
        let output = stage.run(a, step)?;
        equal("RDI", a.local().0, output.registers.rdi)?;
    }
    let (sent, received) = stage.pass(a, b, &[tag(1, 0, 0)], &[0])?;
    equal("RDI of the sender", a.local().0, sent.registers.rdi)?;
    equal("RDI of the receiver", b.local().0, received.registers.rdi)
}

fn a_block_that_others_write(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let (neighbour, receiver) = (stage.probe_beside(a)?, stage.probe()?);
    let mut words = [7; 20];
    words[0] = tag(1, 19, 0);
    stage.go(a, &[send(receiver.id(), NEVER, &words)])?;
    stage.block_sending(a)?;
    let target = a.local().0 + 8 * 12;
    stage.run(neighbour, action(Action::Write, target, 0x99, 0))?;
    // Its own id, and nonsense in all control words that matter to sending.
    for word in [-15_i64, -9, -8, -7, -6] {
        let target = a.local().0.wrapping_add_signed(8 * word);
        stage.run(neighbour, action(Action::Write, target, u64::MAX, 0))?;
    }
    let output = stage.run(receiver, receive(a.id(), NEVER))?.succeeded("the receive")?;
    equal("what was there when the receiver came", 0x99, output.message_register(12))?;
    equal("a word that nobody wrote", 7, output.message_register(13))?;
    equal("the tag", tag(1, 19, 0), output.registers.r9)?;
    stage.finish(a)?.succeeded("the send").map(|_| ())
}

fn the_senders_registers_stay(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let mut words = [0; 64];
    words[0] = tag(0, 63, 0);
    for (index, word) in words.iter_mut().enumerate().skip(1) {
        *word = 0x5000 + index as u64;
    }
    let (sent, _) = stage.pass(a, b, &words, &[0])?;
    for (index, word) in words.iter().enumerate().skip(8) {
        equal("a word of the sender's memory", *word, sent.word(index as isize))?;
    }
    Ok(())
}

fn a_call_runs_the_partner(stage: &mut Stage) -> Checked {
    let (client, server, other) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.go(server, &[receive(client.id(), NEVER), action(Action::Nothing, 0, 0, 0)])?;
    stage.block_receiving(server)?;
    // Both become ready in this order, and neither runs before the stage waits.
    stage.go(client, &[call(server.id(), &[tag(1, 0, 0)])])?;
    stage.go(other, &[action(Action::Nothing, 0, 0, 0)])?;
    stage.finish(server)?;
    stage.finish(other)?;
    let (served, others) = (server.memory().output(0).after, other.memory().output(0).before);
    holds("the partner runs before another that is ready", served < others)
}

fn a_message_runs_who_is_more_important(stage: &mut Stage) -> Checked {
    let (sender, receiver) = (stage.probe()?, stage.probe_at(110)?);
    stage.go(receiver, &[receive(ANY, NEVER), action(Action::Nothing, 0, 0, 0)])?;
    stage.block_receiving(receiver)?;
    stage.go(sender, &[call_without_answer(receiver)])?;
    stage.finish(sender)?;
    stage.finish(receiver)?;
    let (received, sent) = (receiver.memory().output(1).before, sender.memory().output(0).after);
    holds("the receiver goes on before the sender", received < sent)
}

/// LIPC.
pub(crate) mod local {
    use super::*;

    cases! {
        "LIPC-1" => within_a_space,
        "LIPC-2" => between_spaces,
        "LIPC-3" => any_timeouts,
    }

    fn exchange(stage: &mut Stage, a: Probe, b: Probe, names: [ThreadId; 2]) -> Checked {
        let [name_of_a, name_of_b] = names;
        let lipc = |to, from, words: &[u64]| {
            message_call(SystemCall::Lipc, to, from, Timeouts::NEVER, words)
        };
        for count in [0, 3, 7, 20, 63] {
            let mut words = [0x33; 64];
            words[0] = tag(1, count, 0);
            let words = &words[..=count as usize];
            stage.go(b, &[lipc(NIL, name_of_a, &[])])?;
            stage.block_receiving(b)?;
            stage.go(a, &[lipc(name_of_b, name_of_b, words)])?;
            let output = stage.finish(b)?.succeeded("the receive")?;
            equal("the sender", name_of_a.0, output.from().0)?;
            for (index, word) in words.iter().enumerate() {
                equal("a word", *word, output.message_register(index))?;
            }
            let Registers { rdi, .. } = output.registers;
            equal("RDI", b.local().0, rdi)?;
            stage.run(b, lipc(name_of_a, NIL, words))?.succeeded("the answer")?;
            let output = stage.finish(a)?.succeeded("the call")?;
            equal("the tag of the answer", tag(1, count, 0), output.registers.r9)?;
        }
        Ok(())
    }

    fn within_a_space(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        let b = stage.probe_beside(a)?;
        exchange(stage, a, b, [a.local(), b.local()])
    }

    fn between_spaces(stage: &mut Stage) -> Checked {
        let (a, b) = (stage.probe()?, stage.probe()?);
        exchange(stage, a, b, [a.id(), b.id()])
    }

    fn any_timeouts(stage: &mut Stage) -> Checked {
        let a = stage.probe()?;
        let options = Options { beside: Some(a), ..Options::NEW_SPACE };
        let b = stage.probe_with(options)?;
        let lipc = |to, from, timeouts| message_call(SystemCall::Lipc, to, from, timeouts, &[0]);
        let no_time = Timeouts::new(ZERO, ZERO);
        stage.run(a, lipc(b.local(), NIL, no_time))?.failed("a send", SEND_TIMEOUT)?;
        stage.run(a, lipc(NIL, b.local(), no_time))?.failed("a receive", RECEIVE_TIMEOUT)?;
        let some = Timeouts::new(milliseconds(5), milliseconds(5));
        let (output, took) = stage.timed(a, lipc(NIL, ANY, some))?;
        output.failed("a receive", RECEIVE_TIMEOUT)?;
        at_least("how long it took", 5_000, took)?;
        a.scratch(0).store(0, Ordering::Relaxed);
        Ok(())
    }
}
