//! What several areas boot.

use heliox::bare;
use heliox::boot::Boot;
use heliox::programs::{CompiledProgram, compile_c};
use heliox::provision::Consent;

/// The compiler option that names the headers of the C fixtures.
pub(crate) const HEADERS: &str = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// The kernel of `examples/first-light`, without programs yet.
pub(crate) fn first_light() -> Boot {
    Boot::new().kernel(bare::program("first-light-kernel", Consent::Unattended).unwrap())
}

/// The same with its program, and nothing run yet.
pub(crate) fn demonstration() -> Boot {
    first_light().program("first-light", "")
}

/// A C program against the headers of the fixtures.
pub(crate) fn c_program(name: &str, source: &str) -> CompiledProgram {
    compile_c(name, source, &[HEADERS]).unwrap()
}
