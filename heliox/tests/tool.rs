//! The tool itself, apart from the kernel: what a booted payload is given, how runs end, and
//! what the command line says to bad input. A probe (`fixtures/probe.c`) stands in for the
//! kernel.

mod tool {
    mod command_line;
    mod plan;
    mod runs;
}
