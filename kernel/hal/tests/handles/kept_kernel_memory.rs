//! Memory of a kernel mapping is used after the mapping was removed.

use heliox_hal::cpu::CurrentCpu;
use heliox_hal::error::Error;
use heliox_hal::kernel_mapping::KernelMapping;
use heliox_hal::memory::KernelMemory;

fn client(
    memory: &mut impl KernelMemory,
    cpu: CurrentCpu,
    mapping: KernelMapping,
) -> Result<u64, Error> {
    let word = mapping.word(0)?;
    let _region = memory.remove_kernel_mapping(cpu, mapping);
    Ok(memory.read_word(word))
}

fn main() {}
