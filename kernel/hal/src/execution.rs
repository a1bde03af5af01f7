//! shim
#![allow(missing_docs)]
use crate::cpu::CurrentCpu;
use crate::memory::*;
use crate::page_map::PageMapUse;
use crate::port::PortRange;
use heliox_types::VirtualAddress;
use heliox_types::interrupt::{Interrupt, Irq, Register};
pub trait Registers<P> {
    fn register(&self, register: Register) -> u64;
    fn set_register(&mut self, register: Register, value: u64);
    fn instruction_pointer(&self) -> u64;
    fn set_instruction_pointer(&mut self, a: VirtualAddress) -> Result<(), ()>;
    fn stack_pointer(&self) -> u64;
    fn set_stack_pointer(&mut self, v: u64);
    fn flags(&self) -> u64;
    fn set_flags(&mut self, v: u64);
    fn set_gs_base(&mut self, a: VirtualAddress) -> Result<(), ()>;
    fn set_light_word(&mut self, v: u64);
    fn set_port_permissions(&mut self, p: Option<&P>);
}
pub trait Execution: Sized {
    type Memory: Paging + UserMemory2 + KernelMemory + Ownership + PhysicalMemory;
    type PortPermissions: core::fmt::Debug;
    type Context: Registers<Self::PortPermissions> + core::fmt::Debug;
    fn memory(&mut self) -> &mut Self::Memory;
    fn cpu(&self) -> CurrentCpu;
    fn new_context(&mut self) -> Result<Self::Context, ()>;
    fn execute(&mut self, map: &PageMapUse, context: &mut Self::Context) -> Interrupt;
    fn execute_kernel<K: Kernel<Machine = Self>>(kernel: &mut K) -> Interrupt;
    fn wait_for_interrupt(&mut self) -> Option<Interrupt>;
    fn poll_interrupt(&mut self) -> Option<Interrupt>;
    fn now(&self) -> u64;
    fn set_deadline(&mut self, d: Option<u64>);
    fn enable_irq(&mut self, irq: Irq) -> Result<(), ()>;
    fn disable_irq(&mut self, irq: Irq);
    fn initial_ports(&self) -> impl Iterator<Item = PortRange>;
    fn new_port_permissions(&mut self) -> Result<Self::PortPermissions, ()>;
    fn change_port(p: &mut Self::PortPermissions, r: PortRange, allow: bool);
    fn load_port_permissions(&mut self, c: &Self::Context, p: &Self::PortPermissions) -> bool;
}
pub struct LightCall { pub return_address: u64, pub rsi: u64, pub rdx: u64, pub r8: u64, pub r9: u64, pub instruction_pointer: u64 }
pub struct LightReturn<'k, C> { pub map: &'k PageMapUse, pub context: &'k mut C, pub rsi: u64 }
pub trait Kernel {
    type Machine: Execution;
    fn machine(&mut self) -> &mut Self::Machine;
    fn running(&mut self) -> (&PageMapUse, &mut <Self::Machine as Execution>::Context);
    fn light_call(&mut self, call: LightCall) -> Option<LightReturn<'_, <Self::Machine as Execution>::Context>>;
}
pub struct Removed { pub mapping: crate::mapping::MappingInfo, pub tables: crate::mapping::FreedTables }
pub struct Changed { pub mapping: crate::mapping::MappingInfo }
use crate::error::{Error, Refused};
use crate::page_map::*;
use crate::region::PhysicalRegion;
use crate::rights::Rights;
pub trait UserMemory2 {
    fn add_mapping(&mut self, map: &mut PageMap, to: VirtualAddress, region: PhysicalRegion, rights: Rights, share: Option<&crate::share::Share>, t: &mut TableSupply) -> Result<(), Error>;
    fn remove_mapping(&mut self, cpu: CurrentCpu, map: &mut PageMap, at: VirtualAddress) -> Result<Removed, Error>;
    fn modify_mapping(&mut self, cpu: CurrentCpu, map: &mut PageMap, at: VirtualAddress, change: crate::mapping::Change) -> Result<Changed, Error>;
    fn split_mapping(&mut self, cpu: CurrentCpu, map: &mut PageMap, at: VirtualAddress, t: &mut TableSupply) -> Result<(), Error>;
    fn read_mapping(&self, map: &PageMap, at: VirtualAddress) -> Result<crate::mapping::MappingInfo, u64>;
    fn free_page_map(&mut self, cpu: CurrentCpu, map: PageMap) -> Result<PageMapPage, Refused<PageMap>>;
}
