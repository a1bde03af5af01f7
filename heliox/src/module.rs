//! Boot modules: the files that are loaded beside the kernel.
//!
//! Hides how a module is written on the command line and what a boot loader can carry.
//! Invariant: a [`Module`]'s command line, `NAME ARGUMENTS`, is printable ASCII in which the
//! first word is the name. Whether the file is a program is for the kernel to say, which has
//! to check it anyway.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::bare;
use crate::error::Error;
use crate::provision::Consent;

/// A file to load beside the kernel, and the arguments it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    path: PathBuf,
    name: String,
    arguments: String,
}

/// Why a file cannot be a module.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Nothing before the comma, or a path without a file name.
    #[error("`{0}` names no file: write FILE or FILE,ARGUMENTS")]
    NoFile(String),
    /// The name has a character that ends it, or that boot loaders take to mean something.
    #[error(
        "`{0}` cannot name a module: rename the file to letters, digits and any of . _ + - @ ~"
    )]
    Name(String),
    /// The arguments have a character that boot loaders do not pass on unchanged.
    #[error(
        "the arguments `{0}` cannot be passed on: use printable ASCII without quotes and \
         backslashes"
    )]
    Arguments(String),
    /// No such file.
    #[error("there is no file {}: check the path", .0.display())]
    NotFound(PathBuf),
    /// A directory, device or socket.
    #[error("{} is not a regular file: give the file of a program", .0.display())]
    NotAFile(PathBuf),
    /// Nothing in it.
    #[error("{} is empty: give the file of a program", .0.display())]
    Empty(PathBuf),
    /// More than an archive entry can hold.
    #[error("{} is larger than 4 GiB - 1 bytes, the most that a module can have", .0.display())]
    TooLarge(PathBuf),
    /// Another reason, such as permissions.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Module {
    /// A module from a file and its arguments (words separated by spaces, may be empty).
    /// The file is not looked at yet.
    ///
    /// # Errors
    ///
    /// A name or arguments that a boot loader could not pass on unchanged.
    pub fn new(path: impl Into<PathBuf>, arguments: &str) -> Result<Self, ModuleError> {
        let path = path.into();
        let shown = path.display().to_string();
        let Some(name) = path.file_name() else {
            return Err(ModuleError::NoFile(shown));
        };
        let name = name
            .to_str()
            .filter(|name| !name.is_empty() && name.bytes().all(is_name_byte))
            .ok_or(ModuleError::Name(shown))?
            .to_owned();
        let printable = |byte: u8| (b' '..=b'~').contains(&byte) && !b"'\"\\".contains(&byte);
        if !arguments.bytes().all(printable) {
            return Err(ModuleError::Arguments(arguments.escape_default().to_string()));
        }
        // Boot loaders keep words apart by one space, whatever was written.
        let words: Vec<&str> = arguments.split(' ').filter(|word| !word.is_empty()).collect();
        Ok(Self { path, name, arguments: words.join(" ") })
    }

    /// A module as it is written on the command line: `FILE` or `FILE,ARGUMENTS`, split at
    /// the first comma.
    ///
    /// # Errors
    ///
    /// As [`Module::new`].
    pub fn parse(text: &OsStr) -> Result<Self, ModuleError> {
        let Some(text) = text.to_str() else {
            return Err(ModuleError::Name(text.to_string_lossy().into_owned()));
        };
        let (path, arguments) = text.split_once(',').unwrap_or((text, ""));
        if path.is_empty() {
            return Err(ModuleError::NoFile(text.to_owned()));
        }
        Self::new(path, arguments)
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without directories.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The arguments, words separated by one space.
    #[must_use]
    pub fn arguments(&self) -> &str {
        &self.arguments
    }

    /// What the kernel sees: the name, and the arguments after a space if there are any.
    #[must_use]
    pub fn command_line(&self) -> String {
        if self.arguments.is_empty() {
            self.name.clone()
        } else {
            format!("{} {}", self.name, self.arguments)
        }
    }

    /// The file's size in bytes, after a check that it can be loaded at all.
    ///
    /// # Errors
    ///
    /// Missing, not a regular file, empty, too large, or without permission to read.
    pub fn size(&self) -> Result<u64, ModuleError> {
        let metadata = fs::metadata(&self.path).map_err(|source| self.unreadable(source))?;
        if !metadata.is_file() {
            return Err(ModuleError::NotAFile(self.path.clone()));
        }
        fs::File::open(&self.path).map_err(|source| self.unreadable(source))?;
        match metadata.len() {
            0 => Err(ModuleError::Empty(self.path.clone())),
            bytes if bytes > u64::from(u32::MAX) => Err(ModuleError::TooLarge(self.path.clone())),
            bytes => Ok(bytes),
        }
    }

    /// The file's contents.
    ///
    /// # Errors
    ///
    /// What reading failed with.
    pub fn read(&self) -> Result<Vec<u8>, ModuleError> {
        fs::read(&self.path).map_err(|source| self.unreadable(source))
    }

    fn unreadable(&self, source: io::Error) -> ModuleError {
        match source.kind() {
            io::ErrorKind::NotFound => ModuleError::NotFound(self.path.clone()),
            _ => ModuleError::Unreadable { path: self.path.clone(), source },
        }
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._+-@~".contains(&byte)
}

/// Where a module comes from.
#[derive(Debug)]
enum Source {
    File(Result<Module, ModuleError>),
    Program { name: String, arguments: String },
}

/// The modules of a run or an image, in the order in which the kernel sees them.
#[derive(Debug, Default)]
pub struct Modules(Vec<Source>);

impl Modules {
    /// Adds a file and its arguments; what is wrong with them, [`Modules::resolve`] says.
    pub fn add_file(&mut self, file: impl Into<PathBuf>, arguments: &str) {
        self.0.push(Source::File(Module::new(file, arguments)));
    }

    /// Adds a module.
    pub fn add(&mut self, module: Module) {
        self.0.push(Source::File(Ok(module)));
    }

    /// Adds what is named on the command line: a file, or, where there is no such file, a program of
    /// this repository.
    pub fn add_named(&mut self, module: Module) {
        let named = bare::PROGRAMS.iter().find(|name| module.path() == Path::new(name));
        match named {
            Some(name) if !module.path().exists() => self.add_program(name, module.arguments()),
            _ => self.add(module),
        }
    }

    /// Adds a program of this repository, to be built: `x` is the binary of the package
    /// `heliox-x`.
    pub fn add_program(&mut self, name: &str, arguments: &str) {
        self.0.push(Source::Program { name: name.to_owned(), arguments: arguments.to_owned() });
    }

    /// The files, once programs are built and everything was checked to be loadable.
    ///
    /// # Errors
    ///
    /// A file that cannot be a module, or a program that does not build.
    pub fn resolve(self, consent: Consent) -> Result<Vec<Module>, Error> {
        let mut modules = Vec::new();
        let mut programs = Vec::new();
        // Files first: whoever mistyped a path need not wait for a build.
        for (index, source) in self.0.into_iter().enumerate() {
            match source {
                Source::File(module) => {
                    let module = module?;
                    module.size()?;
                    modules.push((index, module));
                }
                Source::Program { name, arguments } => programs.push((index, name, arguments)),
            }
        }
        for (index, name, arguments) in programs {
            let module = Module::new(bare::program(&name, consent)?, &arguments)?;
            modules.push((index, module));
        }
        modules.sort_by_key(|(index, _)| *index);
        Ok(modules.into_iter().map(|(_, module)| module).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Module, ModuleError> {
        Module::parse(OsStr::new(text))
    }

    #[test]
    fn programs_of_the_repository_are_known_by_their_names() {
        let is_program = |text: &str| {
            let mut modules = Modules::default();
            modules.add_named(parse(text).unwrap());
            matches!(modules.0[..], [Source::Program { .. }])
        };
        assert!(is_program("conformance,only=IPC"));
        assert!(!is_program("./conformance") && !is_program("/conformance"));
        assert!(!is_program("conformity"));
    }

    #[test]
    fn the_first_comma_starts_the_arguments() {
        for (text, path, command_line) in [
            ("hello", "hello", "hello"),
            ("a/b/hello", "a/b/hello", "hello"),
            ("/x/hello,", "/x/hello", "hello"),
            ("/x/hello,one  two ", "/x/hello", "hello one two"),
            ("hello,a,b=c", "hello", "hello a,b=c"),
        ] {
            let module = parse(text).unwrap();
            assert_eq!(module.path(), Path::new(path));
            assert_eq!(module.command_line(), command_line);
        }
    }

    #[test]
    fn what_a_boot_loader_would_change_is_refused() {
        assert!(matches!(parse(",x"), Err(ModuleError::NoFile(_))));
        assert!(matches!(parse(""), Err(ModuleError::NoFile(_))));
        assert!(matches!(parse("a/.."), Err(ModuleError::NoFile(_))));
        for name in ["two words", "caf\u{e9}", "semi;colon", "new\nline", "$x"] {
            assert!(matches!(parse(name), Err(ModuleError::Name(_))), "{name}");
        }
        for arguments in ["f,it's", "f,\"q\"", "f,back\\slash", "f,tab\t", "f,\u{e9}"] {
            assert!(matches!(parse(arguments), Err(ModuleError::Arguments(_))), "{arguments}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_loaded_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let check = |name: &str| Module::new(directory.path().join(name), "").unwrap().size();
        fs::write(directory.path().join("good"), b"123").unwrap();
        fs::write(directory.path().join("empty"), b"").unwrap();
        fs::create_dir(directory.path().join("directory")).unwrap();
        fs::File::create(directory.path().join("huge")).unwrap().set_len(1 << 32).unwrap();
        assert_eq!(check("good").unwrap(), 3);
        assert!(matches!(check("missing"), Err(ModuleError::NotFound(_))));
        assert!(matches!(check("empty"), Err(ModuleError::Empty(_))));
        assert!(matches!(check("directory"), Err(ModuleError::NotAFile(_))));
        assert!(matches!(check("huge"), Err(ModuleError::TooLarge(_))));
        assert!(check("good/below").is_err());
    }
}
