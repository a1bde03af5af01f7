//! Links the image as the HAL's linker script says.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel/hal/kernel.ld");
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rustc-link-arg-bins=-T{script}");
    println!("cargo::rustc-link-arg-bins=--no-dynamic-linker");
}
