//! A disc image from which GRUB boots Heliox, on a BIOS machine and, where GRUB for UEFI is
//! installed on this host, on a UEFI machine.
//!
//! Hides GRUB's configuration language and `grub-mkrescue`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::module::Module;

/// What GRUB does if a file cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Switch the machine off, so that a run ends.
    Halt,
    /// Leave GRUB's prompt to the person at the machine.
    Prompt,
}

/// Makes a disc image.
///
/// # Errors
///
/// A file cannot be read or written, or `grub-mkrescue` fails.
pub fn write(
    kernel: &Path,
    modules: &[Module],
    command_line: &str,
    on_failure: OnFailure,
    output: &Path,
) -> Result<(), Error> {
    let written = |path: &Path, result: std::io::Result<()>| {
        result.map_err(|source| Error::File { action: "write", path: path.to_path_buf(), source })
    };
    let directory = tempfile::tempdir().map_err(|source| Error::File {
        action: "make a directory in",
        path: std::env::temp_dir(),
        source,
    })?;
    let boot = directory.path().join("boot");
    written(&boot, fs::create_dir_all(boot.join("grub")))?;
    // GRUB would load debug information too, which is larger than the kernel.
    let bare_kernel = boot.join("heliox-kernel");
    run(Command::new("objcopy").arg("--strip-all").arg(kernel).arg(&bare_kernel), "objcopy")?;
    for (index, module) in modules.iter().enumerate() {
        let path = boot.join(file_name(index, module));
        written(&path, fs::write(&path, module.read()?))?;
    }
    let configuration = boot.join("grub/grub.cfg");
    let text = configure(modules, command_line, on_failure);
    written(&configuration, fs::write(&configuration, text))?;
    // grub-mkrescue can fail and say nothing but in the image that it did not write.
    let image = directory.path().join("image");
    let mut mkrescue = Command::new("grub-mkrescue");
    mkrescue.arg("-o").arg(&image).arg("--compress=no");
    // The tree must not hold the image itself.
    let tree = directory.path().join("tree");
    written(&tree, fs::create_dir(&tree))?;
    written(&tree, fs::rename(&boot, tree.join("boot")))?;
    mkrescue.arg(&tree).args(["--", "-volid", "HELIOX"]);
    run(&mut mkrescue, "grub-mkrescue")?;
    written(output, fs::copy(&image, output).map(|_| ()))
}

fn run(command: &mut Command, name: &str) -> Result<(), Error> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Spawn { command: name.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Image(format!("{name}: {}\n{text}", output.status)))
}

/// A module's file on the disc. Two modules may have the same name.
fn file_name(index: usize, module: &Module) -> String {
    format!("{index}-{}", module.name())
}

/// GRUB's configuration. It prints a line of its own so that the kernel's first line starts
/// behind a line feed and not behind the sequence that clears a terminal. What is quoted here has no quote in it: see [`Module`].
fn configure(modules: &[Module], command_line: &str, on_failure: OnFailure) -> String {
    let mut text = String::from(
        "serial --unit=0 --speed=115200\n\
         terminal_input console serial\n\
         terminal_output console serial\n\
         echo 'Loading Heliox'\n",
    );
    let mut load = String::from("multiboot2 /boot/heliox-kernel");
    quote(&mut load, command_line);
    let mut loads = vec![load];
    for (index, module) in modules.iter().enumerate() {
        let mut load = format!("module2 '/boot/{}'", file_name(index, module));
        quote(&mut load, &module.command_line());
        loads.push(load);
    }
    for load in &loads {
        let _ = writeln!(text, "if {load}; then");
    }
    text.push_str("boot\n");
    for _ in &loads {
        text.push_str("fi\n");
    }
    text.push_str("echo 'GRUB could not load Heliox.'\n");
    if on_failure == OnFailure::Halt {
        text.push_str("halt\n");
    }
    text
}

fn quote(line: &mut String, words: &str) {
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let _ = write!(line, " '{word}'");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_loads_everything_or_does_not_boot() {
        let modules = [
            Module::new("/x/sigma0", "").unwrap(),
            Module::new("/y/hello", "one $two").unwrap(),
            Module::new("/z/hello", "").unwrap(),
        ];
        let text = configure(&modules, "log=info exit-port=0xf4", OnFailure::Halt);
        let expected = "serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
echo 'Loading Heliox'
if multiboot2 /boot/heliox-kernel 'log=info' 'exit-port=0xf4'; then
if module2 '/boot/0-sigma0' 'sigma0'; then
if module2 '/boot/1-hello' 'hello' 'one' '$two'; then
if module2 '/boot/2-hello' 'hello'; then
boot
fi
fi
fi
fi
echo 'GRUB could not load Heliox.'
halt
";
        assert_eq!(text, expected);
        let prompt = configure(&modules, "", OnFailure::Prompt);
        assert!(prompt.contains("if multiboot2 /boot/heliox-kernel; then\n"));
        assert!(!prompt.contains("halt"));
    }
}
