//! Links the program as the bindings' linker script says.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../l4/program.ld");
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rustc-link-arg-bins=-T{script}");
    println!("cargo::rustc-link-arg-bins=--no-dynamic-linker");
}
