//! System calls that are answered without leaving the program's registers: the light path.

use heliox_hal::execution::{self, Execution, LightCall, LightReturn};
use heliox_hal::page_map::PageMapUse;

use crate::kernel::{Kernel, Surroundings};

impl<M: Execution, S: Surroundings> execution::Kernel for Kernel<'_, M, S> {
    type Machine = M;

    fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    fn running(&mut self) -> (&PageMapUse, &mut M::Context) {
        let thread = self.threads.at_mut(self.current);
        let tables = &self.spaces.at(thread.space).tables;
        match (tables, &mut thread.context) {
            (Some(tables), Some(context)) => (&tables.held, context),
            _ => (&self.spare.0, &mut self.spare.1),
        }
    }

    fn light_call(&mut self, _: LightCall) -> Option<LightReturn<'_, M::Context>> {
        None
    }
}
