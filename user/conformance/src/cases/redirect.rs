//! REDIRECT: spaces whose messages are redirected.

use heliox_l4::abi::ThreadState;
use heliox_l4::probe::{Action, Output};
use heliox_l4::{ThreadId, Timeouts, control};

use crate::case::{Checked, cases, equal, holds};
use crate::stage::{PLACE, Probe, Stage, refused};
use crate::steps::{
    ANY, ANY_LOCAL, MessageOutput, NEVER, NIL, RECEIVE_TIMEOUT, RW, SEND_NO_PARTNER, SEND_TIMEOUT,
    ZERO, action, call, ipc, map_words, milliseconds, page, receive, send, tag,
};

cases! {
    "REDIRECT-1" => a_redirector_is_set,
    "REDIRECT-2" => nilthread_changes_nothing,
    "REDIRECT-3" => anythread_removes_it,
    "REDIRECT-4" => other_words_change_nothing,
    "REDIRECT-5" => what_the_redirector_sees,
    "REDIRECT-6" => not_within_the_space,
    "REDIRECT-7" => not_to_the_redirectors_space,
    "REDIRECT-8" => messages_of_the_kernel,
    "REDIRECT-9" => passing_on,
    "REDIRECT-10" => the_redirector_answers,
    "REDIRECT-11" => the_receiver_answers,
    "REDIRECT-12" => chains,
    "REDIRECT-13" => the_redirector_is_the_destination,
    "REDIRECT-14 REDIRECT-15" => a_lost_redirector,
    "REDIRECT-16" => the_id_alone_is_no_redirector,
    "REDIRECT-17" => the_receiver_is_deleted,
    "REDIRECT-18" => another_redirector,
    "REDIRECT-19" => acknowledgements_are_not_redirected,
}

const REDIRECTED: u64 = 1 << 13;
const PROPAGATED: u64 = 1 << 12;
const INTENDED: isize = -7;
const VIRTUAL: isize = -6;

/// Fails unless a message was redirected.
fn is_redirected(output: &Output, from: Probe, intended: Probe, label: u64) -> Checked {
    equal("the sender", from.id().0, output.from().0)?;
    equal("the tag", tag(label, 0, 0) | REDIRECTED, output.registers.r9)?;
    equal("IntendedReceiver", intended.id().0, output.word(INTENDED))
}

/// Fails unless a message of `client` to `server` comes to `at`, redirected or not.
fn comes_to(
    stage: &mut Stage,
    client: Probe,
    server: Probe,
    at: Probe,
    redirected: bool,
) -> Checked {
    stage.go(at, &[receive(ANY, NEVER)])?;
    stage.block_receiving(at)?;
    stage.run(client, send(server.id(), ZERO, &[tag(7, 0, 0)]))?.succeeded("the send")?;
    let output = stage.finish(at)?.succeeded("the receive")?;
    let flag = if redirected { REDIRECTED } else { 0 };
    equal("the tag", tag(7, 0, 0) | flag, output.registers.r9)
}

fn a_redirector_is_set(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    comes_to(stage, client, server, server, false)?;
    stage.set_redirector(client, redirector.id())?;
    comes_to(stage, client, server, redirector, true)?;
    // A local id is one of the caller's space: this program's own thread.
    stage.set_redirector(client, heliox_l4::utcb::local_id())?;
    stage.go(client, &[send(server.id(), NEVER, &[tag(0x7e57, 0, 0)])])?;
    let event = stage.event("a redirected message", client)?;
    equal("its tag", tag(0x7e57, 0, 0) | REDIRECTED, event.words.tag().0)?;
    stage.set_redirector(client, ANY)?;
    stage.finish(client)?.succeeded("the send").map(|_| ())
}

fn nilthread_changes_nothing(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.set_redirector(client, redirector.id())?;
    stage.set_redirector(client, NIL)?;
    comes_to(stage, client, server, redirector, true)
}

fn anythread_removes_it(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.set_redirector(client, redirector.id())?;
    stage.set_redirector(client, ANY)?;
    comes_to(stage, client, server, server, false)
}

fn other_words_change_nothing(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.set_redirector(client, redirector.id())?;
    for word in [ANY_LOCAL, stage.spare(0).into(), ThreadId(20 << 32 | 1), ThreadId(0x1240)] {
        stage.set_redirector(client, word)?;
        comes_to(stage, client, server, redirector, true)?;
    }
    Ok(())
}

fn what_the_redirector_sees(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.set_redirector(client, redirector.id())?;
    for late in [false, true] {
        if late {
            stage.go(client, &[send(server.id(), NEVER, &[tag(7, 0, 0)])])?;
            stage.block_sending(client)?;
        }
        stage.go(redirector, &[receive(client.id(), NEVER)])?;
        if !late {
            stage.block_receiving(redirector)?;
            stage.go(client, &[send(server.id(), NEVER, &[tag(7, 0, 0)])])?;
        }
        stage.finish(client)?.succeeded("the send")?;
        let output = stage.finish(redirector)?.succeeded("the receive")?;
        is_redirected(&output, client, server, 7)?;
    }
    // Typed items come to the redirector.
    let offset = stage.page();
    stage.memory.large.write(offset, 0x123);
    stage.set_redirector(client, ANY)?;
    stage.give(client, offset, RW, PLACE)?;
    stage.set_redirector(client, redirector.id())?;
    let words = map_words(page(PLACE, RW), PLACE);
    stage.go(redirector, &[receive(ANY, NEVER).with_word(-16, 0x10)])?;
    stage.block_receiving(redirector)?;
    stage.run(client, send(server.id(), NEVER, &words))?.succeeded("sending a mapping")?;
    stage.finish(redirector)?.succeeded("receiving it")?;
    stage.require_word("the memory at the redirector", redirector, PLACE, 0x123)
}

fn not_within_the_space(stage: &mut Stage) -> Checked {
    let (client, redirector) = (stage.probe()?, stage.probe()?);
    let neighbour = stage.probe_beside(client)?;
    stage.set_redirector(client, redirector.id())?;
    comes_to(stage, client, neighbour, neighbour, false)
}

fn not_to_the_redirectors_space(stage: &mut Stage) -> Checked {
    let (client, redirector) = (stage.probe()?, stage.probe()?);
    let beside = stage.probe_beside(redirector)?;
    stage.set_redirector(client, redirector.id())?;
    comes_to(stage, client, redirector, redirector, false)?;
    comes_to(stage, client, beside, beside, false)
}

fn messages_of_the_kernel(stage: &mut Stage) -> Checked {
    let (client, redirector) = (stage.probe()?, stage.probe()?);
    stage.set_redirector(client, redirector.id())?;
    stage.go(redirector, &[receive(ANY, NEVER)])?;
    stage.block_receiving(redirector)?;
    stage.go(client, &[action(Action::Read, PLACE, 0, 0)])?;
    let output = stage.finish(redirector)?.succeeded("the receive")?;
    equal("the tag", 0xffff_ffff_ffe4_0002 | REDIRECTED, output.registers.r9)?;
    equal("the sender", client.id().0, output.from().0)?;
    equal("the address", PLACE, output.message_register(1))?;
    equal("IntendedReceiver", stage.driver().0, output.word(INTENDED))
}

fn passing_on(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.set_redirector(client, redirector.id())?;
    comes_to(stage, client, server, redirector, true)?;
    stage.go(server, &[receive(client.id(), NEVER)])?;
    stage.block_receiving(server)?;
    let words = [tag(7, 0, 0) | PROPAGATED];
    let step = send(server.id(), ZERO, &words).with_word(VIRTUAL, client.id().0);
    stage.run(redirector, step)?.succeeded("passing it on")?;
    let output = stage.finish(server)?.succeeded("the receive")?;
    equal("the sender", client.id().0, output.from().0)?;
    equal("the tag", tag(7, 0, 0) | PROPAGATED, output.registers.r9)?;
    equal("ActualSender", redirector.id().0, output.word(VIRTUAL))
}

/// The client calls the server, and the redirector has the message.
fn called(stage: &mut Stage, client: Probe, server: Probe, redirector: Probe) -> Checked {
    stage.set_redirector(client, redirector.id())?;
    stage.go(redirector, &[receive(ANY, NEVER)])?;
    stage.block_receiving(redirector)?;
    stage.go(client, &[call(server.id(), &[tag(7, 0, 0)])])?;
    let output = stage.finish(redirector)?.succeeded("the receive")?;
    is_redirected(&output, client, server, 7)
}

fn the_redirector_answers(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    called(stage, client, server, redirector)?;
    stage.run(redirector, send(client.id(), ZERO, &[tag(8, 0, 0)]))?.succeeded("an answer")?;
    let output = stage.finish(client)?.succeeded("the call")?;
    equal("the answer", tag(8, 0, 0), output.registers.r9)?;
    equal("its sender", redirector.id().0, output.from().0)
}

fn the_receiver_answers(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    called(stage, client, server, redirector)?;
    stage.go(server, &[receive(ANY, NEVER)])?;
    stage.block_receiving(server)?;
    let words = [tag(7, 0, 0) | PROPAGATED];
    let step = send(server.id(), ZERO, &words).with_word(VIRTUAL, client.id().0);
    stage.run(redirector, step)?.succeeded("passing it on")?;
    stage.finish(server)?.succeeded("the request")?;
    stage
        .run(redirector, send(client.id(), ZERO, &[0]))?
        .failed("the redirector's", SEND_TIMEOUT)?;
    stage.run(server, send(client.id(), ZERO, &[tag(9, 0, 0)]))?.succeeded("the server's")?;
    let output = stage.finish(client)?.succeeded("the call")?;
    equal("the answer", tag(9, 0, 0), output.registers.r9)?;
    equal("its sender", server.id().0, output.from().0)
}

fn chains(stage: &mut Stage) -> Checked {
    let (client, server) = (stage.probe()?, stage.probe()?);
    let hops = [stage.probe()?, stage.probe()?, stage.probe()?];
    stage.set_redirector(client, hops[0].id())?;
    stage.set_redirector(hops[0], hops[1].id())?;
    stage.set_redirector(hops[1], hops[2].id())?;
    let mut from = client;
    for (index, hop) in hops.into_iter().enumerate() {
        stage.go(hop, &[receive(ANY, NEVER)])?;
        stage.block_receiving(hop)?;
        let words = if index == 0 { [tag(7, 0, 0)] } else { [tag(7, 0, 0) | PROPAGATED] };
        let step = send(server.id(), ZERO, &words).with_word(VIRTUAL, client.id().0);
        stage.run(from, step)?.succeeded("sending on")?;
        let output = stage.finish(hop)?.succeeded("the receive")?;
        equal("the sender", client.id().0, output.from().0)?;
        equal("the redirected flag", REDIRECTED, output.registers.r9 & REDIRECTED)?;
        equal("IntendedReceiver", server.id().0, output.word(INTENDED))?;
        from = hop;
    }
    stage.go(server, &[receive(client.id(), NEVER)])?;
    stage.block_receiving(server)?;
    let step = send(server.id(), ZERO, &[tag(7, 0, 0) | PROPAGATED]);
    stage.run(from, step.with_word(VIRTUAL, client.id().0))?.succeeded("the last hop")?;
    let output = stage.finish(server)?.succeeded("the receive")?;
    equal("the tag", tag(7, 0, 0) | PROPAGATED, output.registers.r9)?;
    equal("ActualSender", from.id().0, output.word(VIRTUAL))
}

fn the_redirector_is_the_destination(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.set_redirector(client, redirector.id())?;
    // The server does not receive; the redirector does and drops what it gets.
    stage.go(redirector, &[receive(ANY, NEVER)])?;
    stage.block_receiving(redirector)?;
    let timeouts = Timeouts::new(ZERO, milliseconds(5));
    let output = stage.run(client, ipc(server.id(), server.id(), timeouts, &[tag(1, 0, 0)]))?;
    output.failed("a call that was dropped", RECEIVE_TIMEOUT)?;
    // And the other way round.
    stage.go(server, &[receive(ANY, NEVER)])?;
    stage.block_receiving(server)?;
    stage.finish(redirector)?.succeeded("the redirector had it")?;
    let output = stage.run(client, ipc(server.id(), server.id(), timeouts, &[tag(1, 0, 0)]))?;
    output.failed("a call when the redirector is not ready", SEND_TIMEOUT)
}

fn a_lost_redirector(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    let second = stage.probe_beside(client)?;
    stage.set_redirector(client, redirector.id())?;
    stage.go(second, &[send(server.id(), NEVER, &[tag(6, 0, 0)])])?;
    stage.block_sending(second)?;
    stage.delete(redirector)?;
    stage.require_state("a message that waited waits", second, ThreadState::PendingSend)?;
    stage.run(client, send(server.id(), ZERO, &[0]))?.failed("no time", SEND_TIMEOUT)?;
    let output = stage.run(client, send(server.id(), milliseconds(5), &[0]))?;
    output.failed("some time", SEND_TIMEOUT)?;
    stage.go(client, &[send(server.id(), NEVER, &[tag(5, 0, 0)])])?;
    stage.block_sending(client)?;
    // Another redirector.
    let other = stage.probe()?;
    stage.set_redirector(client, other.id())?;
    let output = stage.run(other, receive(client.id(), NEVER))?.succeeded("a receive")?;
    is_redirected(&output, client, server, 5)?;
    stage.finish(client)?.succeeded("the first send")?;
    // None.
    stage.set_redirector(client, ANY)?;
    let output = stage.run(server, receive(second.id(), NEVER))?.succeeded("a receive")?;
    equal("the tag", tag(6, 0, 0), output.registers.r9)?;
    stage.finish(second)?.succeeded("the second send").map(|_| ())
}

fn the_id_alone_is_no_redirector(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.set_redirector(client, redirector.id())?;
    stage.delete(redirector)?;
    let me = stage.driver();
    refused("a thread with the same id", control::Space::create(redirector.global(), me))?;
    stage.run(client, send(server.id(), ZERO, &[0]))?.failed("a send", SEND_TIMEOUT)?;
    stage.go(client, &[send(server.id(), NEVER, &[tag(5, 0, 0)])])?;
    stage.block_sending(client)?;
    stage.set_redirector(client, ANY)?;
    stage.run(server, receive(client.id(), NEVER))?.succeeded("a receive")?;
    stage.finish(client)?.succeeded("the send").map(|_| ())
}

fn the_receiver_is_deleted(stage: &mut Stage) -> Checked {
    let (client, server, redirector) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.set_redirector(client, redirector.id())?;
    stage.delete(redirector)?;
    stage.go(client, &[send(server.id(), NEVER, &[tag(5, 0, 0)])])?;
    stage.block_sending(client)?;
    stage.delete(server)?;
    // Noticed at the latest when the message would be sent again.
    stage.set_redirector(client, ANY)?;
    stage.finish(client)?.failed("the send", SEND_NO_PARTNER)
}

fn another_redirector(stage: &mut Stage) -> Checked {
    let (client, server) = (stage.probe()?, stage.probe()?);
    let (first, second) = (stage.probe()?, stage.probe()?);
    stage.set_redirector(client, first.id())?;
    stage.go(client, &[send(server.id(), NEVER, &[tag(5, 0, 0)])])?;
    stage.block_sending(client)?;
    stage.set_redirector(client, second.id())?;
    let output = stage.run(second, receive(ANY, NEVER))?.succeeded("a receive")?;
    is_redirected(&output, client, server, 5)?;
    stage.finish(client)?.succeeded("the send")?;
    stage.run(first, receive(ANY, ZERO))?.failed("the first has nothing", RECEIVE_TIMEOUT)
}

fn acknowledgements_are_not_redirected(stage: &mut Stage) -> Checked {
    let (handler, redirector) = (stage.probe()?, stage.probe()?);
    stage.set_redirector(handler, redirector.id())?;
    let line = super::interrupt::Line::associate(handler.id())?;
    line.raise();
    stage.run(handler, receive(line.id(), milliseconds(500)))?.succeeded("the interrupt")?;
    line.quieten();
    stage.run(handler, send(line.id(), ZERO, &[0]))?.succeeded("its acknowledgement")?;
    let silent = stage.run(redirector, receive(ANY, ZERO))?;
    silent.failed("the redirector has nothing", RECEIVE_TIMEOUT)?;
    holds("the line is the suite's", line.id().0 >> 32 == u64::from(super::interrupt::LINE))
}
