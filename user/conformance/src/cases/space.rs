//! SPACE: SpaceControl.

use heliox_l4::kip::SystemCall;
use heliox_l4::probe::{self, Action, Step, Target};
use heliox_l4::{Flexpage, ThreadId, control, utcb};

use crate::case::{Checked, cases, equal};
use crate::stage::{KIP_AREA, Stage, UTCB_BITS, UTCB_START, refused};
use crate::steps::{ANY, MessageOutput, NIL, action, clock, space_control, thread_control};

cases! {
    "SPACE-1" => without_privilege,
    "SPACE-2" => specifiers_that_are_none,
    "SPACE-3 SPACE-4" => utcb_areas_that_are_none,
    "SPACE-5" => page_areas_that_are_none,
    "SPACE-6" => areas_of_an_active_space,
    "SPACE-7" => areas_can_be_changed_before,
    "SPACE-8" => results,
    "SPACE-9" => bits_of_the_control_word,
    "SPACE-10" => the_page_appears,
    "SPACE-11" => room_for_four,
    "SPACE-12" => failures_change_nothing,
}

const UTCBS: Flexpage = Flexpage::memory(UTCB_START, UTCB_BITS, 0);

/// SpaceControl by this program: 0 for success, or ErrorCode.
fn control_space(space: ThreadId, control: u64, page: Flexpage, utcbs: Flexpage) -> u64 {
    let registers = space_control(space, control, page, utcbs, NIL);
    match probe::system_call(SystemCall::SpaceControl, registers).rax {
        1 => 0,
        0 => utcb::error_code(),
        other => other << 32,
    }
}

/// A thread that is not active, in a new space that is not configured.
fn new_space(stage: &Stage, index: u32) -> Checked<ThreadId> {
    let id = stage.spare(index);
    refused("a space", control::Space::create(id, stage.driver()))?;
    Ok(id.into())
}

/// Makes another thread of a space active: 0 for success, or ErrorCode.
fn activate(stage: &Stage, space: ThreadId, index: u32, address: u64) -> u64 {
    let me = stage.driver();
    let registers = thread_control(stage.spare(index).into(), space, me, me, address);
    match probe::system_call(SystemCall::ThreadControl, registers).rax {
        0 => utcb::error_code(),
        _ => 0,
    }
}

fn without_privilege(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let empty = new_space(stage, 0)?;
    for space in [a.id(), b.id(), empty, NIL] {
        let registers = space_control(space, 0, KIP_AREA, UTCBS, ANY);
        let step = Step::new(Target::Call(SystemCall::SpaceControl), registers);
        let output = stage.run(a, step.with_word(-9, 0))?;
        equal("the result", 0, output.registers.rax)?;
        equal("ErrorCode", 1, output.error())?;
    }
    Ok(())
}

fn specifiers_that_are_none(stage: &mut Stage) -> Checked {
    for word in
        [0, u64::MAX, 0x1240, utcb::local_id().0, stage.spare(0).word(), 20 << 32 | 1, 4 << 32 | 1]
    {
        let code = control_space(ThreadId(word), 0, KIP_AREA, UTCBS);
        equal("ErrorCode", 3, code)?;
    }
    Ok(())
}

fn utcb_areas_that_are_none(stage: &mut Stage) -> Checked {
    let space = new_space(stage, 0)?;
    for area in [
        Flexpage::NIL,
        Flexpage::memory(UTCB_START, 10, 0),
        Flexpage::memory(UTCB_START, 11, 0),
        Flexpage::memory(0xffff_8000_0000_0000, 12, 0),
        Flexpage::memory(0x8000_0000_0000, 12, 0),
        Flexpage::memory(0x7fff_ffff_f000, 12, 0),
        Flexpage::memory(0, 63, 0),
        Flexpage::ports(0, 12, 0),
    ] {
        equal("ErrorCode", 6, control_space(space, 0, KIP_AREA, area))?;
    }
    equal(
        "the smallest one",
        0,
        control_space(space, 0, KIP_AREA, Flexpage::memory(UTCB_START, 12, 0)),
    )
}

fn page_areas_that_are_none(stage: &mut Stage) -> Checked {
    let space = new_space(stage, 0)?;
    for area in [
        Flexpage::NIL,
        Flexpage::memory(0x7000_0000, 11, 0),
        Flexpage::memory(0xffff_8000_0000_0000, 12, 0),
        Flexpage::memory(0x7fff_ffff_f000, 12, 0),
        // Within the UTCBs, all of them, and around them.
        Flexpage::memory(UTCB_START + 4096, 12, 0),
        UTCBS,
        Flexpage::memory(UTCB_START, 28, 0),
    ] {
        equal("ErrorCode", 7, control_space(space, 0, area, UTCBS))?;
    }
    equal(
        "one that is larger than needed",
        0,
        control_space(space, 0, Flexpage::memory(0x6000_0000, 14, 0), UTCBS),
    )
}

fn areas_of_an_active_space(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for (page, utcbs) in [
        (Flexpage::memory(0x6000_0000, 12, 0), Flexpage::memory(0x6100_0000, 14, 0)),
        (Flexpage::NIL, Flexpage::NIL),
        (UTCBS, Flexpage::memory(0xffff_8000_0000_0000, 12, 0)),
    ] {
        equal("ErrorCode", 0, control_space(probe.id(), 0, page, utcbs))?;
        let output = stage.run(probe, action(Action::KernelInterface, 0, 0, 0))?;
        equal("the page's address", KIP_AREA.0 & !0xfff, output.registers.rax)?;
        let output = stage.run(probe, action(Action::ReadGs, 0, 0, 0))?;
        equal("the control block's", UTCB_START + 512, output.registers.rax)?;
    }
    Ok(())
}

fn areas_can_be_changed_before(stage: &mut Stage) -> Checked {
    let space = new_space(stage, 0)?;
    let other = Flexpage::memory(0x6100_0000, 13, 0);
    equal("configuring it", 0, control_space(space, 0, KIP_AREA, UTCBS))?;
    equal("another area", 0, control_space(space, 0, Flexpage::memory(0x6000_0000, 12, 0), other))?;
    equal("nothing new", 0, control_space(space, 0, Flexpage::NIL, Flexpage::NIL))?;
    equal("a UTCB in the old area", 6, activate(stage, space, 1, UTCB_START))?;
    equal("a UTCB in the new area", 0, activate(stage, space, 1, 0x6100_0000))
}

fn results(stage: &mut Stage) -> Checked {
    let space = new_space(stage, 0)?;
    for _ in 0..2 {
        let registers = space_control(space, 0, KIP_AREA, UTCBS, NIL);
        let answer = probe::system_call(SystemCall::SpaceControl, registers);
        equal("RAX", 1, answer.rax)?;
        equal("RDX", 0, answer.rdx)?;
    }
    Ok(())
}

fn bits_of_the_control_word(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for control in [1, 1 << 32, 1 << 63, u64::MAX] {
        let space = probe.id();
        let registers = space_control(space, control, Flexpage::NIL, Flexpage::NIL, NIL);
        let answer = probe::system_call(SystemCall::SpaceControl, registers);
        equal("RAX", 1, answer.rax)?;
        equal("RDX", 0, answer.rdx)?;
    }
    stage.run(probe, clock()).map(|_| ())
}

fn the_page_appears(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let output = stage.run(probe, action(Action::KernelInterface, 0, 0, 0))?;
    equal("its address", KIP_AREA.0 & !0xfff, output.registers.rax)?;
    let own = heliox_l4::raw::page().word(0);
    stage.require_word("its first word", probe, output.registers.rax, own)
}

fn room_for_four(stage: &mut Stage) -> Checked {
    let space = new_space(stage, 0)?;
    let area = Flexpage::memory(UTCB_START, 12, 0);
    equal("configuring it", 0, control_space(space, 0, KIP_AREA, area))?;
    for number in 0..4 {
        equal(
            "a thread",
            0,
            activate(stage, space, 1 + number, UTCB_START + u64::from(number) * 1024),
        )?;
    }
    equal("a fifth", 6, activate(stage, space, 5, UTCB_START + 4096))
}

fn failures_change_nothing(stage: &mut Stage) -> Checked {
    let space = new_space(stage, 0)?;
    equal("a wrong page area", 7, control_space(space, 0, UTCBS, UTCBS))?;
    equal("it is not configured", 6, activate(stage, space, 1, UTCB_START))?;
    equal("configuring it", 0, control_space(space, 0, KIP_AREA, UTCBS))?;
    let other = Flexpage::memory(0x6100_0000, 12, 0);
    equal("a wrong page area", 7, control_space(space, 0, other, other))?;
    equal("the new UTCB area is not taken", 6, activate(stage, space, 1, 0x6100_0000))?;
    equal("the old one stays", 0, activate(stage, space, 1, UTCB_START))
}
