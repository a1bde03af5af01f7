//! MEMORY: MemoryControl; PROCESSOR: ProcessorControl.

use heliox_l4::kip::SystemCall;
use heliox_l4::probe::{Step, Target};
use heliox_l4::raw::Registers;
use heliox_l4::{Flexpage, control};

use crate::case::{Checked, cases, equal};
use crate::stage::Stage;
use crate::steps::MessageOutput;

cases! {
    "MEMORY-1" => without_privilege,
    "MEMORY-2" => the_control_word,
    "MEMORY-3" => flexpages_choose_attributes,
    "MEMORY-4" => attributes_that_memory_has,
    "MEMORY-5" => other_attributes,
    "MEMORY-6" => memory_that_is_not_there,
}

/// MemoryControl by this program: 0 for success, or ErrorCode.
fn control_memory(control: u64, attributes: [u64; 4], pages: &[Flexpage]) -> u64 {
    match control::memory_control(control, attributes, pages) {
        Ok(()) => 0,
        Err(control::Refused(code)) => code,
    }
}

/// A page of this program's memory, which chooses an attribute.
fn own(stage: &Stage, number: u64, chosen: u64) -> Flexpage {
    Flexpage((stage.memory.large.start() + (number << 12)) | 12 << 4 | chosen)
}

/// Fails unless a system call by a probe gives 0 and ErrorCode 1.
fn is_refused(stage: &mut Stage, call: SystemCall, registers: Registers) -> Checked {
    let probe = stage.probe()?;
    let output = stage.run(probe, Step::new(Target::Call(call), registers).with_word(-9, 0))?;
    equal("RAX", 0, output.registers.rax)?;
    equal("ErrorCode", 1, output.error())
}

fn without_privilege(stage: &mut Stage) -> Checked {
    let page = own(stage, 0, 0);
    is_refused(stage, SystemCall::MemoryControl, Registers { r9: page.0, ..Registers::default() })
}

fn the_control_word(stage: &mut Stage) -> Checked {
    for control in [64, 128, 1 << 32, u64::MAX] {
        equal("ErrorCode", 5, control_memory(control, [0; 4], &[own(stage, 0, 0)]))?;
    }
    // Two flexpages of which the second is wrong, looked at or not.
    let pages = [own(stage, 0, 0), own(stage, 1, 1)];
    equal("one flexpage", 0, control_memory(0, [0, 4, 0, 0], &pages))?;
    equal("two flexpages", 5, control_memory(1, [0, 4, 0, 0], &pages))
}

fn flexpages_choose_attributes(stage: &mut Stage) -> Checked {
    for chosen in 0..4 {
        let mut attributes = [4; 4];
        attributes[chosen as usize] = 1;
        equal(
            "the one that is chosen",
            0,
            control_memory(0, attributes, &[own(stage, 0, chosen)]),
        )?;
        let mut attributes = [1; 4];
        attributes[chosen as usize] = 4;
        equal(
            "the one that is chosen",
            5,
            control_memory(0, attributes, &[own(stage, 0, chosen)]),
        )?;
    }
    // Nothing is passed over, whatever it chooses.
    let pages = [Flexpage(1), Flexpage::NIL, own(stage, 0, 0)];
    equal("flexpages that name nothing", 0, control_memory(2, [1, 4, 4, 4], &pages))
}

fn attributes_that_memory_has(stage: &mut Stage) -> Checked {
    equal("default", 0, control_memory(0, [0; 4], &[own(stage, 0, 0)]))?;
    equal("write-back", 0, control_memory(0, [1; 4], &[own(stage, 0, 0)]))?;
    stage.memory.large.write(0, 0x5a);
    equal("the memory is as it was", 0x5a, stage.memory.large.read(0))
}

fn other_attributes(stage: &mut Stage) -> Checked {
    for attribute in [2, 3, 4, 5, 6, 7, 8, 9, 100, u64::MAX] {
        equal("ErrorCode", 5, control_memory(0, [attribute; 4], &[own(stage, 0, 0)]))?;
    }
    Ok(())
}

fn memory_that_is_not_there(_: &mut Stage) -> Checked {
    for at in [0x6000_0000_0000, 0x1f_0000_0000_u64] {
        let page = Flexpage(at | 12 << 4);
        equal("ErrorCode", 5, control_memory(0, [0; 4], &[page]))?;
    }
    Ok(())
}

/// PROCESSOR.
pub(crate) mod processor {
    use heliox_l4::raw;

    use super::*;

    cases! {
        "PROCESSOR-1" => without_privilege,
        "PROCESSOR-2" => nothing_is_changed,
    }

    fn without_privilege(stage: &mut Stage) -> Checked {
        is_refused(stage, SystemCall::ProcessorControl, Registers::default())
    }

    fn nothing_is_changed(_: &mut Stage) -> Checked {
        let before = raw::page().frequency();
        for (number, frequency) in [(0, 0), (0, 1_000_000), (7, 1), (u64::MAX, u64::MAX)] {
            let result = control::processor_control(number, frequency, frequency, 1000);
            let code = result.map_or_else(|control::Refused(code)| code, |()| 0);
            equal("ErrorCode", 5, code)?;
        }
        equal("the frequency", before, raw::page().frequency())
    }
}
