//! ID: names of threads.

use heliox_l4::kip::SystemCall;
use heliox_l4::probe;
use heliox_l4::{ThreadId, Timeouts, raw, schedule as calls, utcb};

use crate::case::{Checked, cases, equal};
use crate::stage::{Stage, UTCB_START};
use crate::steps::{
    ANY, ANY_LOCAL, KEEP, MessageOutput, NEVER, NIL, SEND_NO_PARTNER, ZERO, exchange, ipc, receive,
    send, tag, thread_control, thread_switch,
};

cases! {
    "ID-1" => numbers_and_versions,
    "ID-2" => versions_with_low_bits_zero,
    "ID-3" => well_known_threads,
    "ID-4" => interrupts_have_ids,
    "ID-5" => special_ids,
    "ID-6" => other_versions_name_nobody,
    "ID-7" => local_ids_in_all_calls,
    "ID-8" => local_ids_of_nobody,
}

fn numbers_and_versions(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let word = probe.memory().initial().word(-15);
    equal("the number", u64::from(probe.global().number()), word >> 32)?;
    equal("the version", u64::from(probe.global().version()), word & 0xffff_ffff)
}

fn versions_with_low_bits_zero(stage: &mut Stage) -> Checked {
    let me = stage.driver();
    let number = stage.spare(0).word() >> 32;
    for version in [0, 0x40, 0xffff_ffc0] {
        let id = ThreadId(number << 32 | version);
        let registers = thread_control(id, id, me, NIL, KEEP);
        equal("creating it", 0, probe::system_call(SystemCall::ThreadControl, registers).rax)?;
        equal("ErrorCode", 2, utcb::error_code())?;
    }
    // One more is a version.
    let id = ThreadId(number << 32 | 0x41);
    let registers = thread_control(id, id, me, NIL, KEEP);
    equal("creating one", 1, probe::system_call(SystemCall::ThreadControl, registers).rax)
}

fn well_known_threads(stage: &mut Stage) -> Checked {
    let user_base = u64::from(raw::page().user_base());
    let root = ThreadId((user_base + 2) << 32 | 1);
    equal("root's id", root.0, raw::page().root_id().0)?;
    // This program is root: its supervisor answers to that name.
    let state = calls::thread_state(root).map_or(0, |state| state as u64);
    equal("root waits for this case", 6, state)?;
    // Sigma0 answers requests under its name.
    let sigma0 = ThreadId(user_base << 32 | 1);
    let probe = stage.probe()?;
    let words = [0xffff_ffff_ffa0_0002, 0, 0];
    let output = stage.run(probe, ipc(sigma0, sigma0, Timeouts::NEVER, &words))?;
    let output = output.succeeded("a request to sigma0")?;
    equal("the sender", sigma0.0, output.from().0)
}

fn interrupts_have_ids(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for line in [0_u64, 4, 23] {
        let id = ThreadId(line << 32 | 1);
        let output = stage.run(probe, receive(id, ZERO))?;
        output.failed("a receive from an interrupt", crate::steps::RECEIVE_TIMEOUT)?;
    }
    Ok(())
}

fn special_ids(stage: &mut Stage) -> Checked {
    equal("nilthread", 0, NIL.0)?;
    equal("anythread", u64::MAX, ANY.0)?;
    equal("anylocalthread", 0xffff_ffff_ffff_ffc0, ANY_LOCAL.0)?;
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    for any in [u64::MAX, 0xffff_ffff_ffff_ffc0] {
        stage.go(b, &[receive(ThreadId(any), NEVER)])?;
        stage.block_receiving(b)?;
        stage.run(a, send(b.id(), NEVER, &[tag(3, 0, 0)]))?.succeeded("the send")?;
        stage.finish(b)?.succeeded("a receive from any")?;
    }
    Ok(())
}

fn other_versions_name_nobody(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for version in [1, b.global().version() ^ 2, u32::MAX] {
        let id = ThreadId(u64::from(b.global().number()) << 32 | u64::from(version));
        if id != b.id() {
            let output = stage.run(a, send(id, NEVER, &[0]))?;
            output.failed("a send to another version", SEND_NO_PARTNER)?;
        }
    }
    Ok(())
}

fn local_ids_in_all_calls(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    stage.go(b, &[receive(a.local(), NEVER)])?;
    stage.block_receiving(b)?;
    stage.run(a, send(b.local(), NEVER, &[tag(1, 0, 0)]))?.succeeded("Ipc")?;
    stage.finish(b)?.succeeded("the receive")?;
    let output = stage.run(a, exchange(b.local(), 0, 0, 0, 0, 0, NIL))?;
    equal("ExchangeRegisters", b.id().0, output.registers.rax)?;
    stage.run(a, thread_switch(b.local()))?;
    let own = utcb::local_id();
    let state = calls::thread_state(own).map_or(0, |state| state as u64);
    equal("Schedule", 3, state)
}

fn local_ids_of_nobody(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    // In the page that has the block of `a`: no thread's, and no block's beginning.
    for id in [UTCB_START + 1024 + 512, UTCB_START + 512 + 64, UTCB_START + 1024] {
        let output = stage.run(a, send(ThreadId(id), ZERO, &[0]))?;
        output.failed("a send", SEND_NO_PARTNER)?;
        let output = stage.run(a, exchange(ThreadId(id), 0, 0, 0, 0, 0, NIL))?;
        equal("ExchangeRegisters", 0, output.registers.rax)?;
        equal("ErrorCode", 2, output.error())?;
    }
    Ok(())
}
