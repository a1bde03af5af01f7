//! PROVISIONAL: replaced by the checks.
use heliox_address::{Frame, PAGE_BYTES, VirtualAddress};
use super::hal::Hal;
use crate::cpu::{CpuIndex, CurrentCpu};
use crate::entry::{Attributes, Entry, Host, RootKind};
use crate::geometry::{FourLevel, Level};
use crate::machine::{Machine, WindowEntry};
use crate::rights::{MemoryType, Rights};

#[allow(missing_docs)]
impl Hal {
    pub fn allocate(&mut self) -> Option<Frame> {
        let area = self.information.memory_map().usable().next()?;
        let frame = area.first()?;
        self.information.reserve(heliox_address::FrameRange::from_count(frame, 1)?);
        self.machine.open_window(frame, WindowEntry::PRIVATE);
        self.machine.clear_frame(frame);
        Some(frame)
    }
    pub fn new_root(&mut self) -> Option<Frame> {
        let root = self.allocate()?;
        let reference = self.machine.reference_root();
        for i in 256..512 {
            let e = self.machine.read_entry(reference, i);
            self.machine.write_entry(root, i, e);
        }
        Some(root)
    }
    pub fn map(&mut self, root: Frame, address: VirtualAddress, frame: Frame, rights: Rights) -> Option<()> {
        let mut table = root;
        for n in (2..=4).rev() {
            let level = Level::new::<FourLevel>(n)?;
            let index = level.index::<FourLevel>(address);
            let e = self.machine.read_entry(table, index);
            table = if Host::is_present(e) { Host::table_frame(e) } else {
                let t = self.allocate()?;
                self.machine.write_entry(table, index, Host::table(t));
                t
            };
        }
        let leaf = Host::leaf(Level::FIRST, frame, Attributes { rights, memory_type: MemoryType::WriteBack, foreign: false });
        self.machine.write_entry(table, Level::FIRST.index::<FourLevel>(address), leaf);
        self.machine.invalidate_page(CurrentCpu::new(CpuIndex::BOOT), address);
        Some(())
    }
    pub fn write(&mut self, frame: Frame, offset: u64, bytes: &[u8]) {
        if offset + bytes.len() as u64 <= PAGE_BYTES {
            if let Some(at) = frame.address().checked_add(offset) { self.machine.write_bytes(at, bytes); }
        }
    }
    pub fn read_module(&mut self, at: heliox_address::PhysicalAddress, bytes: &mut [u8]) {
        for (i, b) in bytes.iter_mut().enumerate() {
            let a = at.checked_add(i as u64).unwrap_or(at);
            if !self.machine.is_open(a.frame()) { self.machine.open_window(a.frame(), WindowEntry::PRIVATE); }
            let mut one = [0];
            self.machine.read_bytes(a, &mut one);
            *b = one[0];
        }
    }
    pub fn execute(&mut self, root: Frame, context: &mut super::Context) -> super::Interrupt {
        unsafe { self.executor.execute(root, context) }
    }
    pub fn new_context(&mut self) -> super::Context { super::execution::new_context() }
}
