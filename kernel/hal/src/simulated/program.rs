//! Programs that run on the simulated machine, and the reasons for which they stop.
//!
//! A program is a closure that is called once for each *step*. A step acts through a [`UserCpu`]
//! and returns early, by `?`, when an action stops the program. After a fault the step is begun
//! again when the program runs next, as an instruction is; a closure that does several things
//! keeps its own record of how far it is. [`Script`] is a program that can be copied, compared
//! and hashed, for exploring all states.

use std::vec::Vec;

use heliox_types::{Frame, Interrupt, PAGE_BYTES, VirtualAddress};

use super::Simulated;
use super::mmu::{Access, AccessKind, Fault};
use heliox_types::cpu::CpuIndex;
use heliox_types::geometry::Geometry;

/// Vector of general-protection faults.
pub const GENERAL_PROTECTION: u8 = 13;

/// Whether the instruction that stopped a program is to be executed again.
const fn restarts(interrupt: Interrupt) -> bool {
    matches!(interrupt, Interrupt::PageFault { .. } | Interrupt::Exception { .. })
}

impl From<Fault> for Interrupt {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Page { address, error } => Self::PageFault { address: address.get(), error },
            Fault::NotCanonical { .. } => {
                Self::Exception { vector: GENERAL_PROTECTION, error_code: 0 }
            }
        }
    }
}

/// A processor as a program sees it.
#[derive(Debug)]
pub struct UserCpu<'machine, G: Geometry> {
    pub(super) machine: &'machine mut Simulated<G>,
    pub(super) cpu: CpuIndex,
}

impl<G: Geometry> UserCpu<'_, G> {
    /// The frames of the pages that the bytes from `address` on lie in, all of which are accessed
    /// before anything is read or written.
    fn frames(
        &mut self,
        address: VirtualAddress,
        count: usize,
        kind: AccessKind,
    ) -> Result<Vec<Frame>, Interrupt> {
        let mut frames = Vec::new();
        let end = address.offset_in_page() + count as u64;
        for page in 0..end.div_ceil(PAGE_BYTES) {
            let at = if page == 0 {
                Some(address)
            } else {
                address.page_start().checked_add(page * PAGE_BYTES)
            };
            let at =
                at.ok_or(Interrupt::Exception { vector: GENERAL_PROTECTION, error_code: 0 })?;
            frames.push(self.machine.access(self.cpu, at, Access::user(kind))?);
        }
        Ok(frames)
    }

    fn read(
        &mut self,
        address: VirtualAddress,
        bytes: &mut [u8],
        kind: AccessKind,
    ) -> Result<(), Interrupt> {
        let frames = self.frames(address, bytes.len(), kind)?;
        self.machine.read_frames(&frames, address.offset_in_page(), bytes);
        Ok(())
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// A fault.
    pub fn load_bytes(
        &mut self,
        address: VirtualAddress,
        bytes: &mut [u8],
    ) -> Result<(), Interrupt> {
        self.read(address, bytes, AccessKind::Read)
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// A fault; then nothing was written.
    pub fn store_bytes(&mut self, address: VirtualAddress, bytes: &[u8]) -> Result<(), Interrupt> {
        let frames = self.frames(address, bytes.len(), AccessKind::Write)?;
        self.machine.write_frames(&frames, address.offset_in_page(), bytes);
        Ok(())
    }

    /// Reads 8 bytes.
    ///
    /// # Errors
    /// A fault.
    pub fn load(&mut self, address: VirtualAddress) -> Result<u64, Interrupt> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes, AccessKind::Read)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes 8 bytes.
    ///
    /// # Errors
    /// A fault.
    pub fn store(&mut self, address: VirtualAddress, value: u64) -> Result<(), Interrupt> {
        self.store_bytes(address, &value.to_le_bytes())
    }

    /// Fetches 8 bytes of instructions.
    ///
    /// # Errors
    /// A fault.
    pub fn fetch(&mut self, address: VirtualAddress) -> Result<u64, Interrupt> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes, AccessKind::Execute)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Makes a system call.
    ///
    /// # Errors
    /// Always: the program stops.
    pub const fn system_call(&mut self) -> Result<(), Interrupt> {
        Err(Interrupt::SystemCall)
    }

    /// Causes an exception.
    ///
    /// # Errors
    /// Always: the program stops.
    pub const fn raise(&mut self, vector: u8, error_code: u64) -> Result<(), Interrupt> {
        Err(Interrupt::Exception { vector, error_code })
    }

    /// Waits: lets time pass without doing anything, until `deadline` or the next interrupt that
    /// time brings about.
    pub fn wait_until(&mut self, deadline: u64) {
        let next = self.machine.deadline(self.cpu).unwrap_or(u64::MAX);
        let time = deadline.min(next);
        if time > self.machine.now() {
            self.machine.advance(time - self.machine.now());
        }
    }

    fn check_port(&self, port: u16) -> Result<(), Interrupt> {
        if self.machine.may_use_port(self.cpu, port) {
            Ok(())
        } else {
            Err(Interrupt::Exception { vector: GENERAL_PROTECTION, error_code: 0 })
        }
    }

    /// Reads a port.
    ///
    /// # Errors
    /// A general-protection fault if the port is not permitted.
    pub fn read_port(&mut self, port: u16) -> Result<u32, Interrupt> {
        self.check_port(port)?;
        Ok(self.machine.read_port(port))
    }

    /// Writes a port.
    ///
    /// # Errors
    /// A general-protection fault if the port is not permitted.
    pub fn write_port(&mut self, port: u16, value: u32) -> Result<(), Interrupt> {
        self.check_port(port)?;
        self.machine.write_port(port, value);
        Ok(())
    }
}

/// What a [`Script`] does in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Reads 8 bytes and notes them.
    Load(VirtualAddress),
    /// Writes 8 bytes.
    Store(VirtualAddress, u64),
    /// Fetches 8 bytes of instructions and notes them.
    Fetch(VirtualAddress),
    /// Makes a system call.
    SystemCall,
    /// Causes an exception.
    Raise(u8, u64),
    /// Waits for a time.
    WaitUntil(u64),
    /// Reads a port and notes the value.
    ReadPort(u16),
    /// Writes a port.
    WritePort(u16, u32),
}

/// A program that performs one action after the other, and then nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Script {
    actions: Vec<Action>,
    next: usize,
    noted: Vec<u64>,
}

impl Script {
    /// A program that performs these actions.
    #[must_use]
    pub fn new(actions: impl IntoIterator<Item = Action>) -> Self {
        Self { actions: actions.into_iter().collect(), next: 0, noted: Vec::new() }
    }

    /// What it read so far.
    #[must_use]
    pub fn noted(&self) -> &[u64] {
        &self.noted
    }

    /// Whether all actions were performed.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.next == self.actions.len()
    }

    /// Performs the next action. One that faults is performed again by the next step.
    ///
    /// # Errors
    /// What stopped the program.
    pub fn step<G: Geometry>(&mut self, cpu: &mut UserCpu<'_, G>) -> Result<(), Interrupt> {
        let Some(&action) = self.actions.get(self.next) else {
            return Ok(());
        };
        let done = match action {
            Action::Load(address) => cpu.load(address).map(Some),
            Action::Store(address, value) => cpu.store(address, value).map(|()| None),
            Action::Fetch(address) => cpu.fetch(address).map(Some),
            Action::SystemCall => cpu.system_call().map(|()| None),
            Action::Raise(vector, error_code) => cpu.raise(vector, error_code).map(|()| None),
            Action::WaitUntil(deadline) => {
                cpu.wait_until(deadline);
                Ok(None)
            }
            Action::ReadPort(port) => cpu.read_port(port).map(|value| Some(u64::from(value))),
            Action::WritePort(port, value) => cpu.write_port(port, value).map(|()| None),
        };
        match done {
            Ok(noted) => {
                self.next += 1;
                self.noted.extend(noted);
                Ok(())
            }
            Err(interrupt) => {
                let again = restarts(interrupt) && !matches!(action, Action::Raise(..));
                self.next += usize::from(!again);
                Err(interrupt)
            }
        }
    }
}
