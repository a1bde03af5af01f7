//! The registers of a program are changed while it runs.

use heliox_hal::execution::{Execution, Kernel, LightReturn, Registers, Running};
use heliox_types::LightCall;

struct One<'run, M: Execution>(Running<'run, M>);

impl<M: Execution> Kernel for One<'_, M> {
    type Machine = M;

    const ANSWERS_LIGHT_CALLS: bool = false;

    fn running(&mut self) -> Running<'_, M> {
        Running { machine: self.0.machine, map: self.0.map, context: self.0.context }
    }

    fn light_call(&mut self, _call: LightCall) -> Option<LightReturn<'_, M>> {
        None
    }
}

fn client<M: Execution>(machine: &mut M, map: &M::Map, mut context: M::Context) {
    let mut kernel = One(Running { machine, map, context: &mut context });
    context.set_stack_pointer(0);
    let _interrupt = M::execute_kernel(&mut kernel);
}

fn main() {}
