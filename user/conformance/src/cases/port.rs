//! PORT: input and output ports.

use heliox_l4::message::Mapping;
use heliox_l4::probe::Action;
use heliox_l4::{Flexpage, FlexpageKind, KernelLabel, memory, port};

use crate::case::{Checked, cases, equal, fail, holds};
use crate::stage::{PLACE, Probe, Stage};
use crate::steps::{COMPLETE, MessageOutput, RW, action, map_words, page, tag, unmap};

cases! {
    "PORT-1" => faults,
    "PORT-2" => mapping_cures,
    "PORT-3" => only_what_one_has,
    "PORT-4" => ports_for_nobody,
    "PORT-5" => root_has_the_others,
    "PORT-6" => taking_ports_back,
    "PORT-7" => granting_ports,
    "PORT-8" => no_privileged_instructions,
    "PORT-9" => wide_accesses,
    "PORT-10" => windows_of_ports,
    "PORT-11" => the_end_of_a_space,
}

/// The scratch register of COM1: what is written there is read again, and nothing else happens.
const SCRATCH: u16 = 0x3ff;

/// The next event of a probe, which must be a fault on ports: the first one, and log2 of their
/// number.
fn port_fault(stage: &mut Stage, probe: Probe) -> Checked<(u16, u32, u64)> {
    let event = stage.event("a fault on ports", probe)?;
    if !matches!(event.kind(), Some((KernelLabel::PortFault, _))) {
        return fail("a fault on ports, not the tag", event.words.tag().0);
    }
    match Flexpage(event.words.word(1)).kind() {
        FlexpageKind::Ports(ports) => Ok((ports.first, ports.bits, event.words.tag().0)),
        _ => fail("a flexpage of ports, not", event.words.word(1)),
    }
}

/// Whether a probe can use a port; if not, it begins anew.
fn can_use(stage: &mut Stage, probe: Probe, port: u16) -> Checked<bool> {
    stage.go(probe, &[action(Action::In8, port.into(), 0, 0)])?;
    stage.block(probe)?;
    if stage.is_done(probe)? {
        return Ok(true);
    }
    port_fault(stage, probe)?;
    stage.reset(probe)?;
    Ok(false)
}

fn faults(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for (step, instruction) in [
        (action(Action::In8, SCRATCH.into(), 0, 0), Action::In8.address() + 4),
        (action(Action::Out8, SCRATCH.into(), 1, 0), Action::Out8.address() + 4),
    ] {
        stage.go(probe, &[step])?;
        let event = stage.event("a fault on ports", probe)?;
        equal("the tag", 0xffff_ffff_ff86_0002, event.words.tag().0)?;
        let covers = match Flexpage(event.words.word(1)).kind() {
            FlexpageKind::Ports(ports) => ports.first <= SCRATCH && SCRATCH <= ports.last(),
            _ => false,
        };
        holds("the flexpage has the port", covers)?;
        equal("the instruction pointer", instruction, event.words.word(2))?;
        stage.reset(probe)?;
    }
    Ok(())
}

fn mapping_cures(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.go(
        probe,
        &[action(Action::Out8, SCRATCH.into(), 0xa7, 0), action(Action::In8, SCRATCH.into(), 0, 0)],
    )?;
    let (first, bits, _) = port_fault(stage, probe)?;
    stage.map_to(probe.id(), Mapping::ports(first, bits))?;
    equal("what was written is read", 0xa7, stage.finish(probe)?.registers.rax)
}

/// Sends a flexpage of ports from one probe to another, whose window is `window`.
fn pass_ports(
    stage: &mut Stage,
    from: Probe,
    to: Probe,
    (first, bits): (u16, u32),
    window: u64,
    grant: bool,
) -> Checked {
    let ports = Flexpage::ports(first, bits, 6);
    let words = [tag(0, 0, 2), if grant { 10 } else { 8 }, ports.0];
    let (sent, received) = stage.pass(from, to, &words, &[window])?;
    sent.succeeded("sending ports")?;
    received.succeeded("receiving ports").map(|_| ())
}

fn only_what_one_has(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    pass_ports(stage, a, b, (0x3f8, 3), COMPLETE, false)?;
    holds("nobody's ports", !can_use(stage, b, SCRATCH)?)?;
    stage.give_mapping(a, Mapping::ports(SCRATCH, 0))?;
    pass_ports(stage, a, b, (0x3f8, 3), COMPLETE, false)?;
    holds("the one that it has", can_use(stage, b, SCRATCH)?)?;
    holds("another one", !can_use(stage, b, 0x3fa)?)
}

fn ports_for_nobody(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.give_mapping(probe, Mapping::ports(0, 16))?;
    let withheld = [
        0x00, 0x1f, 0x20, 0x21, 0x3f, 0x40, 0x43, 0x5f, 0x60, 0x64, 0x67, 0x70, 0x71, 0x77, 0x80,
        0x92, 0xa0, 0xb2, 0xbf, 0xc0, 0xdf, 0x4d0, 0x4d1, 0x510, 0x514, 0x51b, 0xcf8, 0xcf9, 0xcfc,
        0xcff,
    ];
    for port in withheld {
        if can_use(stage, probe, port)? {
            return fail("a port that nobody has", port.into());
        }
    }
    holds("others were mapped", can_use(stage, probe, SCRATCH)?)
}

fn root_has_the_others(stage: &mut Stage) -> Checked {
    // This program is root: it uses them itself, and maps them.
    for value in [0x12, 0xed] {
        port::write8(SCRATCH, value);
        equal("the scratch register of COM1", value.into(), port::read8(SCRATCH).into())?;
    }
    let probe = stage.probe()?;
    stage.give_mapping(probe, Mapping::ports(0, 16))?;
    for port in [0xe0, 0x2f8, 0x3f8, 0x3ff, 0x400, 0x500, 0x1000] {
        if !can_use(stage, probe, port)? {
            return fail("a port that root has", port.into());
        }
    }
    Ok(())
}

fn taking_ports_back(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.give_mapping(a, Mapping::ports(0x3f8, 3))?;
    pass_ports(stage, a, b, (0x3f8, 3), COMPLETE, false)?;
    holds("both use it", can_use(stage, a, SCRATCH)? && can_use(stage, b, SCRATCH)?)?;
    stage.run(a, unmap(0, &[Flexpage::ports(0x3f8, 3, 6).0]))?;
    holds("the one it was mapped to cannot", !can_use(stage, b, SCRATCH)?)?;
    holds("the caller can", can_use(stage, a, SCRATCH)?)?;
    stage.run(a, unmap(0x40, &[Flexpage::ports(0x3f8, 3, 6).0]))?;
    holds("with flush it cannot", !can_use(stage, a, SCRATCH)?)?;
    stage.give_mapping(a, Mapping::ports(0x3f8, 3))?;
    holds("given again", can_use(stage, a, SCRATCH)?)?;
    memory::unmap_ports(0x3f8, 3, false);
    holds("and taken by whom it came from", !can_use(stage, a, SCRATCH)?)
}

fn granting_ports(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.give_mapping(a, Mapping::ports(0x3f8, 3))?;
    pass_ports(stage, a, b, (0x3f8, 3), COMPLETE, true)?;
    holds("whom it was granted to", can_use(stage, b, SCRATCH)?)?;
    holds("the granter", !can_use(stage, a, SCRATCH)?)?;
    memory::unmap_ports(0x3f8, 3, false);
    holds("it descends from root now", !can_use(stage, b, SCRATCH)?)
}

fn no_privileged_instructions(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.give_mapping(probe, Mapping::ports(0, 16))?;
    for what in [Action::DisableInterrupts, Action::EnableInterrupts, Action::Halt] {
        stage.go(probe, &[action(what, 0, 0, 0)])?;
        let exception = stage.exception(probe)?;
        equal("the exception's number", 13, exception.vector())?;
        equal("the I/O privilege in its flags", 0, exception.words.word(18) & 0x3000)?;
        equal("where", what.address(), exception.instruction())?;
        stage.skip(probe, &exception, 1)?;
        let output = stage.finish(probe)?;
        equal("interrupts stay enabled", 0x200, output.flags & 0x200)?;
    }
    Ok(())
}

fn wide_accesses(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    // Three of the four ports.
    for port in [0x3fc, 0x3fd, 0x3fe] {
        stage.give_mapping(probe, Mapping::ports(port, 0))?;
    }
    stage.go(probe, &[action(Action::In32, 0x3fc, 0, 0)])?;
    let (first, bits, _) = port_fault(stage, probe)?;
    let range = u32::from(first)..u32::from(first) + (1 << bits);
    holds("all four ports are asked for", range.contains(&0x3fc) && range.contains(&0x3ff))?;
    stage.map_to(probe.id(), Mapping::ports(0x3ff, 0))?;
    stage.finish(probe).map(|_| ())
}

fn windows_of_ports(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.give_mapping(a, Mapping::ports(0x3f8, 3))?;
    let window = |first, bits| Flexpage::ports(first, bits, 0).0 & !0xf;
    pass_ports(stage, a, b, (0x3f8, 3), window(0x3fc, 1), false)?;
    holds("within the window", can_use(stage, b, 0x3fc)? && can_use(stage, b, 0x3fd)?)?;
    holds("outside of it", !can_use(stage, b, SCRATCH)? && !can_use(stage, b, 0x3f8)?)?;
    let c = stage.probe()?;
    let memory_window = Flexpage::memory(PLACE, 20, 0).0 & !0xf;
    pass_ports(stage, a, c, (0x3f8, 3), memory_window, false)?;
    holds("a window of memory takes none", !can_use(stage, c, SCRATCH)?)?;
    // And a window of ports takes no memory.
    let offset = stage.page();
    stage.give(a, offset, RW, PLACE)?;
    let words = map_words(page(PLACE, RW), PLACE);
    let (_, received) = stage.pass(a, c, &words, &[window(0x3f8, 3)])?;
    received.succeeded("receiving memory into ports")?;
    stage.require_nothing("memory", c, PLACE)?;
    pass_ports(stage, a, c, (0x3f8, 3), COMPLETE, false)?;
    holds("the complete address space", can_use(stage, c, SCRATCH)?)
}

fn the_end_of_a_space(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    stage.give_mapping(a, Mapping::ports(0x3f8, 3))?;
    pass_ports(stage, a, b, (0x3f8, 3), COMPLETE, false)?;
    holds("it uses them", can_use(stage, b, SCRATCH)?)?;
    stage.delete(a)?;
    holds("they go with the space", !can_use(stage, b, SCRATCH)?)
}
