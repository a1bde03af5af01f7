//! System calls that are answered without leaving the program's registers: the light path.

use heliox_hal::execution::{self, LightReturn, Running};
use heliox_types::LightCall;

use crate::kernel::{Kernel, Machine, Surroundings};

impl<M: Machine, S: Surroundings> execution::Kernel for Kernel<'_, M, S> {
    type Machine = M;

    const ANSWERS_LIGHT_CALLS: bool = true;

    fn running(&mut self) -> Running<'_, M> {
        let machine = &mut self.machine;
        let thread = self.threads.at_mut(self.current);
        let tables = &self.spaces.at(thread.space).tables;
        match (tables, &mut thread.context) {
            (Some(tables), Some(context)) => Running { machine, map: &tables.held, context },
            _ => Running { machine, map: &self.spare.0, context: &mut self.spare.1 },
        }
    }

    fn light_call(&mut self, _: LightCall) -> Option<LightReturn<'_, M>> {
        None
    }
}
