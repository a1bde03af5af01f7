//! Test doubles of devices: ports that remember what was written, interrupt lines that tests
//! raise, and time that passes only when the simulation says so.

use std::collections::BTreeMap;
use std::vec::Vec;

use heliox_types::cpu::CpuIndex;

/// Number of interrupt lines.
pub const LINES: u8 = heliox_types::Irq::COUNT;

/// Something that was written to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortWrite {
    /// The port.
    pub port: u16,
    /// What was written.
    pub value: u32,
}

/// An interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Line {
    masked: bool,
    pending: bool,
    /// Delivered, and not acknowledged yet.
    in_service: bool,
    cpu: CpuIndex,
}

/// All devices of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Devices {
    pub(super) now: u64,
    lines: Vec<Line>,
    ports: BTreeMap<u16, u32>,
    written: Vec<PortWrite>,
}

impl Devices {
    pub(super) fn new() -> Self {
        let line = Line { masked: true, pending: false, in_service: false, cpu: CpuIndex::BOOT };
        Self {
            now: 0,
            lines: std::vec![line; usize::from(LINES)],
            ports: BTreeMap::new(),
            written: Vec::new(),
        }
    }

    /// What a read of `port` gives: what was set or written last, or all ones where nothing is.
    pub(super) fn read_port(&self, port: u16) -> u32 {
        self.ports.get(&port).copied().unwrap_or(u32::MAX)
    }

    pub(super) fn set_port(&mut self, port: u16, value: u32) {
        self.ports.insert(port, value);
    }

    pub(super) fn write_port(&mut self, port: u16, value: u32) {
        self.set_port(port, value);
        self.written.push(PortWrite { port, value });
    }

    pub(super) fn take_port_writes(&mut self) -> Vec<PortWrite> {
        std::mem::take(&mut self.written)
    }

    fn line(&mut self, line: u8) -> &mut Line {
        &mut self.lines[usize::from(line)]
    }

    pub(super) fn raise(&mut self, line: u8) {
        self.line(line).pending = true;
    }

    pub(super) fn set_masked(&mut self, line: u8, masked: bool) {
        self.line(line).masked = masked;
    }

    pub(super) fn acknowledge(&mut self, line: u8) {
        self.line(line).in_service = false;
    }

    pub(super) fn route(&mut self, line: u8, cpu: CpuIndex) {
        self.line(line).cpu = cpu;
    }

    /// Delivers the lowest line that wants to interrupt `cpu`.
    pub(super) fn deliver(&mut self, cpu: CpuIndex) -> Option<u8> {
        (0..LINES).find(|&number| {
            let line = self.line(number);
            let delivered = line.cpu == cpu && line.pending && !line.masked && !line.in_service;
            if delivered {
                line.pending = false;
                line.in_service = true;
            }
            delivered
        })
    }
}
