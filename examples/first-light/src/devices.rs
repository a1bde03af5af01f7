//! System calls for programs that drive devices (`docs/first-light.md`, from number 16 on): those
//! with the word `devices` among their arguments.

use heliox_hal::execution::{Execution, PortPermissions as _, Registers};
use heliox_hal::irq::IrqControl;
use heliox_hal::pci::{PciConfiguration, PciFunction, PciRegister};
use heliox_hal::port::{PortRange, Ports};
use heliox_hal::{Hal, PortPermissions};
use heliox_types::{
    Breakpoint, BreakpointKind, BreakpointLength, Irq, Measurement, Register, VirtualAddress,
};

use crate::program::{Program, State};
use crate::system::System;

/// What a program has of devices.
#[derive(Default)]
pub(crate) struct Devices {
    ports: Option<PortPermissions>,
    measurement: Measurement,
}

impl Devices {
    /// The program's ports.
    pub(crate) fn ports(&self) -> Option<&PortPermissions> {
        self.ports.as_ref()
    }
}

/// Carries out call `number`, 16 or more. The result; `None` if the call is refused.
pub(crate) fn handle(system: &mut System<'_>, program: &mut Program, number: u64) -> Option<u64> {
    if !program.has_argument("devices") {
        return None;
    }
    let [first, second, third, fourth] =
        [Register::Rdi, Register::Rsi, Register::Rdx, Register::R8]
            .map(|register| program.context.register(register));
    let hal = system.hal();
    match number {
        16 => {
            let range = ports(hal, first, second)?;
            let permissions = match program.devices.ports.take() {
                Some(permissions) => permissions,
                None => system.in_heap(Hal::new_port_permissions).ok()?,
            };
            let permissions = program.devices.ports.insert(permissions);
            permissions.set(range, true);
            program.context.set_port_permissions(Some(permissions));
        }
        17 => {
            let range = ports(hal, first, second)?;
            program.devices.ports.as_mut()?.set(range, false);
        }
        18 => {
            let range = ports(hal, first, first.checked_add(third)?.checked_sub(1)?)?;
            let port = u16::try_from(second).ok()?;
            return read_port(hal, range, port, fourth);
        }
        19 => {
            let range = ports(hal, first, first.checked_add(third)?.checked_sub(1)?)?;
            let port = u16::try_from(second).ok()?;
            hal.out8(range, port, u8::try_from(fourth).ok()?).ok()?;
        }
        20 => hal.enable_irq(irq(first)?).ok()?,
        21 => hal.disable_irq(irq(first)?),
        28 => program.state = State::WaitingFor(irq(first)?, second),
        29 => program.context.pass_breakpoint(),
        22 => {
            let (function, register) = pci(first, second)?;
            return Some(u64::from(hal.read_pci(function, register)));
        }
        23 => {
            let (function, register) = pci(first, second)?;
            let value = u32::try_from(third).ok()?;
            hal.write_pci(function, register, value).ok()?;
        }
        24 => {
            let length = match fourth {
                1 => BreakpointLength::One,
                2 => BreakpointLength::Two,
                4 => BreakpointLength::Four,
                _ => BreakpointLength::Eight,
            };
            let kind = match third {
                0 => None,
                1 => Some(BreakpointKind::Execute),
                2 => Some(BreakpointKind::Write(length)),
                _ => Some(BreakpointKind::Access(length)),
            };
            let address = VirtualAddress::new(second)?;
            let number = usize::try_from(first).ok()?;
            let breakpoint = match kind {
                Some(kind) => Some(Breakpoint::new(address, kind).ok()?),
                None => None,
            };
            program.context.set_breakpoint(number, breakpoint).ok()?;
        }
        25 => {
            return Some(match first {
                0 => hal.events().unexpected,
                1 => program.debug_status,
                2 => program.last_fault_address,
                _ => hal.events().flushes,
            });
        }
        26 => program.devices.measurement.start(hal.events()),
        27 => {
            program.devices.measurement.stop(hal.events());
            let (events, _) = program.devices.measurement.read();
            let wanted = [events.ticks, events.root_loads, events.flushes];
            return wanted.get(usize::try_from(first).ok()?).copied();
        }
        30 => hal.cause_debug_exception(),
        _ => return None,
    }
    Some(0)
}

/// Ports `first` to `last`, if the kernel may use them.
fn ports(hal: &Hal, first: u64, last: u64) -> Option<PortRange> {
    let (first, last) = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
    hal.initial_ports().find_map(|range| range.derive(first, last).ok())
}

fn read_port(hal: &Hal, range: PortRange, port: u16, bytes: u64) -> Option<u64> {
    match bytes {
        1 => hal.in8(range, port).ok().map(u64::from),
        2 => hal.in16(range, port).ok().map(u64::from),
        4 => hal.in32(range, port).ok().map(u64::from),
        _ => None,
    }
}

fn irq(number: u64) -> Option<Irq> {
    Irq::new(u8::try_from(number).ok()?)
}

fn pci(function: u64, register: u64) -> Option<(PciFunction, PciRegister)> {
    Some((
        PciFunction::from_number(u16::try_from(function).ok()?),
        PciRegister::new(u8::try_from(register).ok()?)?,
    ))
}
