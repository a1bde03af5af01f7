//! The proof of being on one processor is sent to another.

use heliox_hal::cpu::CurrentCpu;

fn needs_send<T: Send>(_: T) {}

fn client(cpu: CurrentCpu) {
    needs_send(cpu);
}

fn main() {}
