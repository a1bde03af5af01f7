//! What several areas boot.

use heliox::bare::DEMONSTRATION;
use heliox::boot::Boot;
use heliox::programs::{CompiledProgram, compile_c};

/// The compiler option that names the headers of the C fixtures.
pub(crate) const HEADERS: &str = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// The main demonstration, with nothing run yet.
pub(crate) fn demonstration() -> Boot {
    let programs = DEMONSTRATION.iter();
    programs.fold(Boot::new(), |boot, name| boot.program(name, ""))
}

/// A C program against the headers of the fixtures.
pub(crate) fn c_program(name: &str, source: &str) -> CompiledProgram {
    compile_c(name, source, &[HEADERS]).unwrap()
}
