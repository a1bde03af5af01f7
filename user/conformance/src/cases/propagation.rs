//! PROPAGATION: speaking for another thread.

use heliox_l4::abi::ThreadState;
use heliox_l4::probe::{Output, Step};
use heliox_l4::{ThreadId, Timeouts, control};

use crate::case::{Checked, cases, equal, holds};
use crate::stage::{Probe, Stage, refused};
use crate::steps::{
    ANY, ANY_LOCAL, MessageOutput, NEVER, NIL, RECEIVE_NO_PARTNER, RECEIVE_TIMEOUT,
    SEND_NO_PARTNER, ZERO, call, ipc, milliseconds, receive, send, tag,
};

cases! {
    "PROPAGATION-1" => the_message_is_from_another,
    "PROPAGATION-2" => for_the_own_space,
    "PROPAGATION-3" => within_the_receivers_space,
    "PROPAGATION-4" => for_redirected_spaces,
    "PROPAGATION-5" => without_permission,
    "PROPAGATION-6" => for_nobody,
    "PROPAGATION-7" => closed_receives_match_the_name,
    "PROPAGATION-8" => names_have_the_proper_form,
    "PROPAGATION-9" => who_waits_is_turned,
    "PROPAGATION-10" => the_name_is_lost_while_waiting,
    "PROPAGATION-11" => the_receiver_is_deleted,
    "PROPAGATION-12" => any_local_matches_the_name,
    "PROPAGATION-13" => waiting_is_no_permission,
    "PROPAGATION-14" => either_form_of_name,
    "PROPAGATION-15" => ordinary_messages_leave_the_word,
}

const PROPAGATED: u64 = 1 << 12;
const VIRTUAL: isize = -6;

/// A send in the name of another.
fn speak(to: Probe, name: ThreadId, time: heliox_l4::Time, label: u64) -> Step {
    send(to.id(), time, &[tag(label, 1, 0) | PROPAGATED, 0x99]).with_word(VIRTUAL, name.0)
}

/// Fails unless a message is from `from`, propagated by `actual`.
fn is_spoken(output: &Output, from: ThreadId, actual: ThreadId, label: u64) -> Checked {
    equal("the sender", from.0, output.from().0)?;
    equal("the tag", tag(label, 1, 0) | PROPAGATED, output.registers.r9)?;
    equal("ActualSender", actual.0, output.word(VIRTUAL))?;
    equal("the word", 0x99, output.message_register(1))
}

/// Fails unless a message is an ordinary one from `from`.
fn is_ordinary(output: &Output, from: ThreadId, label: u64) -> Checked {
    equal("the sender", from.0, output.from().0)?;
    equal("the tag", tag(label, 1, 0), output.registers.r9)
}

/// Has `speaker` send in the name of `name` to `receiver`, which receives from `from`: both ways
/// around.
fn both_ways(
    stage: &mut Stage,
    speaker: Probe,
    receiver: Probe,
    name: ThreadId,
    from: ThreadId,
    check: impl Fn(&Output) -> Checked,
) -> Checked {
    stage.go(receiver, &[receive(from, NEVER)])?;
    stage.block_receiving(receiver)?;
    stage.run(speaker, speak(receiver, name, NEVER, 5))?.succeeded("the send")?;
    check(&stage.finish(receiver)?.succeeded("the receive")?)?;
    stage.go(speaker, &[speak(receiver, name, NEVER, 5)])?;
    stage.block_sending(speaker)?;
    let output = stage.run(receiver, receive(from, NEVER))?;
    check(&output.succeeded("a receive of one that waits")?)?;
    stage.finish(speaker)?.succeeded("the send").map(|_| ())
}

fn the_message_is_from_another(stage: &mut Stage) -> Checked {
    let (name, receiver) = (stage.probe()?, stage.probe()?);
    let speaker = stage.probe_beside(name)?;
    both_ways(stage, speaker, receiver, name.id(), ANY, |output| {
        is_spoken(output, name.id(), speaker.id(), 5)
    })
}

fn for_the_own_space(stage: &mut Stage) -> Checked {
    let (name, receiver) = (stage.probe()?, stage.probe()?);
    let speaker = stage.probe_beside(name)?;
    // Also one that was never started.
    let idle = stage.create(Some(name))?;
    for name in [name.id(), idle.id()] {
        both_ways(stage, speaker, receiver, name, name, |output| {
            is_spoken(output, name, speaker.id(), 5)
        })?;
    }
    Ok(())
}

fn within_the_receivers_space(stage: &mut Stage) -> Checked {
    let (name, receiver) = (stage.probe()?, stage.probe()?);
    let speaker = stage.probe_beside(receiver)?;
    both_ways(stage, speaker, receiver, name.id(), name.id(), |output| {
        is_spoken(output, name.id(), speaker.local(), 5)
    })
}

fn for_redirected_spaces(stage: &mut Stage) -> Checked {
    let (name, receiver) = (stage.probe()?, stage.probe()?);
    let (first, second) = (stage.probe()?, stage.probe()?);
    stage.set_redirector(name, first.id())?;
    stage.set_redirector(first, second.id())?;
    // Not through the redirectors: they are in its chain.
    let spoken = |output: &Output| is_spoken(output, name.id(), second.id(), 5);
    both_ways(stage, second, receiver, name.id(), name.id(), spoken)?;
    // A thread beside the redirector may, too.
    let beside = stage.probe_beside(second)?;
    let spoken = |output: &Output| is_spoken(output, name.id(), beside.id(), 5);
    both_ways(stage, beside, receiver, name.id(), name.id(), spoken)
}

fn without_permission(stage: &mut Stage) -> Checked {
    let (name, receiver, speaker) = (stage.probe()?, stage.probe()?, stage.probe()?);
    both_ways(stage, speaker, receiver, name.id(), ANY, |output| {
        is_ordinary(output, speaker.id(), 5)
    })
}

fn for_nobody(stage: &mut Stage) -> Checked {
    let (receiver, speaker) = (stage.probe()?, stage.probe()?);
    for name in
        [stage.spare(0).into(), NIL, ANY, ANY_LOCAL, ThreadId(0x1240), ThreadId(1 << 32 | 1)]
    {
        both_ways(stage, speaker, receiver, name, ANY, |output| {
            is_ordinary(output, speaker.id(), 5)
        })?;
    }
    Ok(())
}

fn closed_receives_match_the_name(stage: &mut Stage) -> Checked {
    let (name, receiver) = (stage.probe()?, stage.probe()?);
    let speaker = stage.probe_beside(name)?;
    stage.go(receiver, &[receive(speaker.id(), NEVER)])?;
    stage.block_receiving(receiver)?;
    stage.go(speaker, &[speak(receiver, name.id(), NEVER, 1)])?;
    stage.block_sending(speaker)?;
    stage.require_state("who waits for the speaker waits", receiver, ThreadState::Waiting)?;
    stage.reset(receiver)?;
    let output = stage.run(receiver, receive(speaker.id(), ZERO))?;
    output.failed("a receive from the speaker", RECEIVE_TIMEOUT)?;
    let output = stage.run(receiver, receive(name.id(), ZERO))?.succeeded("one from the name")?;
    is_spoken(&output, name.id(), speaker.id(), 1)
}

fn names_have_the_proper_form(stage: &mut Stage) -> Checked {
    let receiver = stage.probe()?;
    let (speaker, name) = (stage.probe_beside(receiver)?, stage.probe_beside(receiver)?);
    both_ways(stage, speaker, receiver, name.id(), ANY, |output| {
        is_spoken(output, name.local(), speaker.local(), 5)
    })?;
    let stranger = stage.probe()?;
    both_ways(stage, speaker, receiver, stranger.id(), ANY, |output| {
        is_spoken(output, stranger.id(), speaker.local(), 5)
    })
}

fn who_waits_is_turned(stage: &mut Stage) -> Checked {
    let (client, receiver) = (stage.probe()?, stage.probe()?);
    let server = stage.probe_beside(client)?;
    // The client calls the server, which passes the request on in its name.
    stage.go(server, &[receive(client.id(), NEVER)])?;
    stage.block_receiving(server)?;
    stage.go(client, &[call(server.id(), &[tag(1, 0, 0)])])?;
    stage.finish(server)?.succeeded("the request")?;
    stage.go(receiver, &[receive(ANY, NEVER)])?;
    stage.block_receiving(receiver)?;
    stage.run(server, speak(receiver, client.id(), NEVER, 2))?.succeeded("passing it on")?;
    let output = stage.finish(receiver)?.succeeded("the request that was passed on")?;
    is_spoken(&output, client.id(), server.id(), 2)?;
    // The server is not awaited any more, the receiver is.
    let output = stage.run(server, send(client.id(), ZERO, &[tag(3, 0, 0)]))?;
    output.failed("an answer of the server", crate::steps::SEND_TIMEOUT)?;
    stage.run(receiver, send(client.id(), ZERO, &[tag(4, 0, 0)]))?.succeeded("an answer")?;
    let output = stage.finish(client)?.succeeded("the call")?;
    equal("the answer", tag(4, 0, 0), output.registers.r9)?;
    equal("its sender", receiver.id().0, output.from().0)
}

fn the_name_is_lost_while_waiting(stage: &mut Stage) -> Checked {
    let receiver = stage.probe()?;
    let speaker = stage.probe()?;
    for rename in [false, true] {
        let name = stage.probe_beside(speaker)?;
        stage.go(speaker, &[speak(receiver, name.id(), NEVER, 5)])?;
        stage.block_sending(speaker)?;
        if rename {
            let version = name.global().version() + 64;
            let id = heliox_l4::GlobalId::new(name.global().number(), version);
            let space = control::Space::of(name.thread);
            let id = id.unwrap_or(name.global());
            refused("renaming", space.thread(id, NIL, NIL, control::NO_UTCB))?;
        } else {
            stage.delete(name)?;
        }
        let output = stage.run(receiver, receive(name.id(), NEVER))?;
        output.failed("a receive from the name that is lost", RECEIVE_NO_PARTNER)?;
        let output = stage.run(receiver, receive(ANY, NEVER))?.succeeded("an open receive")?;
        is_ordinary(&output, speaker.id(), 5)?;
        stage.finish(speaker)?.succeeded("the send")?;
    }
    Ok(())
}

fn the_receiver_is_deleted(stage: &mut Stage) -> Checked {
    let (name, receiver) = (stage.probe()?, stage.probe()?);
    let speaker = stage.probe_beside(name)?;
    stage.go(name, &[receive(speaker.id(), NEVER)])?;
    stage.block_receiving(name)?;
    stage.go(speaker, &[speak(receiver, name.id(), NEVER, 5)])?;
    stage.block_sending(speaker)?;
    stage.delete(receiver)?;
    stage.finish(speaker)?.failed("the speaker's send", SEND_NO_PARTNER)?;
    stage.require_state("who was spoken for waits", name, ThreadState::Waiting)?;
    stage.run(speaker, send(name.id(), ZERO, &[tag(1, 0, 0)]))?.succeeded("a message to it")?;
    stage.finish(name)?.succeeded("its receive").map(|_| ())
}

fn any_local_matches_the_name(stage: &mut Stage) -> Checked {
    let receiver = stage.probe()?;
    let (speaker, neighbour) = (stage.probe_beside(receiver)?, stage.probe_beside(receiver)?);
    let stranger = stage.probe()?;
    both_ways(stage, speaker, receiver, neighbour.id(), ANY_LOCAL, |output| {
        is_spoken(output, neighbour.local(), speaker.local(), 5)
    })?;
    // A neighbour that speaks for a stranger is not local.
    stage.go(speaker, &[speak(receiver, stranger.id(), milliseconds(5), 5)])?;
    let output = stage.run(receiver, receive(ANY_LOCAL, milliseconds(2)))?;
    output.failed("a local receive", RECEIVE_TIMEOUT)?;
    stage.finish(speaker)?.failed("the send", crate::steps::SEND_TIMEOUT)
}

fn waiting_is_no_permission(stage: &mut Stage) -> Checked {
    let (name, receiver, speaker) = (stage.probe()?, stage.probe()?, stage.probe()?);
    stage.go(name, &[receive(speaker.id(), NEVER)])?;
    stage.block_receiving(name)?;
    both_ways(stage, speaker, receiver, name.id(), ANY, |output| {
        is_ordinary(output, speaker.id(), 5)
    })?;
    stage
        .run(speaker, send(name.id(), ZERO, &[tag(1, 0, 0)]))?
        .succeeded("it still waits")
        .map(|_| ())
}

fn either_form_of_name(stage: &mut Stage) -> Checked {
    let (name, receiver) = (stage.probe()?, stage.probe()?);
    let speaker = stage.probe_beside(name)?;
    for form in [name.id(), name.local()] {
        both_ways(stage, speaker, receiver, form, ANY, |output| {
            is_spoken(output, name.id(), speaker.id(), 5)
        })?;
    }
    Ok(())
}

fn ordinary_messages_leave_the_word(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.go(b, &[receive(ANY, NEVER).with_word(VIRTUAL, 0x4242)])?;
    stage.block_receiving(b)?;
    stage.run(a, ipc(b.id(), NIL, Timeouts::NEVER, &[tag(1, 0, 0)]))?.succeeded("the send")?;
    let output = stage.finish(b)?.succeeded("the receive")?;
    equal("word -6", 0x4242, output.word(VIRTUAL))?;
    holds("no flag", output.registers.r9 == tag(1, 0, 0))
}
