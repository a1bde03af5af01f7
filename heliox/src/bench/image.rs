//! A program's ELF file: its code, and which function an address belongs to, through everything
//! that the compiler inlined.
//!
//! Hides ELF, DWARF and the mangling of names. A function's name is a path, `crate::module::function`,
//! without generic parameters, and the same for methods: see [`path_of`].

use std::fs;
use std::path::{Path, PathBuf};

use addr2line::Loader;
use object::{Object, ObjectSegment, ObjectSymbol, SymbolKind};

/// An ELF file is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {why}", path.display())]
pub struct ImageError {
    path: PathBuf,
    why: String,
}

/// An ELF file.
pub struct Image {
    path: PathBuf,
    /// Address and contents of what is loaded from the file.
    segments: Vec<(u64, Vec<u8>)>,
    /// Address, size and name of functions, by address.
    symbols: Vec<(u64, u64, String)>,
    lines: Loader,
}

impl Image {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not an ELF file.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |why: String| ImageError { path: path.to_path_buf(), why };
        let data = fs::read(path).map_err(|error| failed(error.to_string()))?;
        let file = object::File::parse(&*data).map_err(|error| failed(error.to_string()))?;
        let mut segments = Vec::new();
        for segment in file.segments() {
            let data = segment.data().map_err(|error| failed(error.to_string()))?;
            segments.push((segment.address(), data.to_vec()));
        }
        let mut symbols = Vec::new();
        for symbol in file.symbols().filter(ObjectSymbol::is_definition) {
            // Labels of assembly have no type.
            if matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown)
                && let Ok(name) = symbol.name()
                && !name.is_empty()
            {
                let name = path_of(&format!("{:#}", rustc_demangle::demangle(name)));
                symbols.push((symbol.address(), symbol.size(), name));
            }
        }
        symbols.sort();
        let lines = Loader::new(path).map_err(|error| failed(error.to_string()))?;
        Ok(Self { path: path.to_path_buf(), segments, symbols, lines })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file has from an address on, to the end of what is loaded there.
    #[must_use]
    pub fn code(&self, address: u64) -> Option<&[u8]> {
        self.segments.iter().find_map(|(start, data)| {
            let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
            data.get(offset..).filter(|rest| !rest.is_empty())
        })
    }

    /// Where the function is whose path is `name`, or ends with `::name`.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u64> {
        let end = format!("::{name}");
        let is_it = |path: &String| path == name || path.ends_with(&end);
        self.symbols.iter().find(|(_, _, path)| is_it(path)).map(|(address, _, _)| *address)
    }

    /// The symbol that an address belongs to: the last one not above it, if that is known to reach
    /// so far or does not say how far it does.
    #[must_use]
    pub fn symbol(&self, address: u64) -> Option<&str> {
        let below = self.symbols.partition_point(|(start, _, _)| *start <= address);
        let (start, size, name) = self.symbols.get(below.checked_sub(1)?)?;
        (*size == 0 || address - start < *size).then_some(name.as_str())
    }

    /// The functions that an address belongs to: the one that an instruction was written in first,
    /// then the one that that was inlined into, and so on, to the one that a symbol names.
    #[must_use]
    pub fn functions(&self, address: u64) -> Vec<String> {
        let mut functions = Vec::new();
        if let Ok(mut frames) = self.lines.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                if let Some(name) = frame.function.as_ref().and_then(|name| name.demangle().ok()) {
                    functions.push(path_of(&name));
                }
            }
        }
        if functions.is_empty()
            && let Some(name) = self.symbol(address)
        {
            functions.push(name.to_owned());
        }
        functions
    }
}

/// A function's path without generic parameters, and without saying that it is a method of an
/// implementation elsewhere:
///
/// | the compiler's name | path |
/// |---|---|
/// | `a::b::<impl a::C<D>>::f` | `a::b::f` |
/// | `a::C<D>::f::{{closure}}` | `a::C::f::{{closure}}` |
/// | `<a::C<D> as e::F>::f` | `a::C::f` |
/// | `<a::C<D>>::f` | `a::C::f` |
/// | `a::f::<D>` | `a::f` |
#[must_use]
pub fn path_of(name: &str) -> String {
    let (subject, rest) = match name.strip_prefix('<').and_then(split_at_close) {
        Some((inside, rest)) => (before_as(inside), rest),
        None => ("", name),
    };
    // What is between angle brackets goes, and of the colons around it one pair.
    let mut path = without_brackets(subject);
    path.push_str(&without_brackets(rest));
    let mut path = path.replace("::::", "::");
    while path.ends_with(':') {
        path.pop();
    }
    path
}

/// Splits what follows an open angle bracket at the one that closes it.
fn split_at_close(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    let mut previous = ' ';
    for (index, character) in text.char_indices() {
        match character {
            '<' => depth += 1,
            // Not the end of an arrow.
            '>' if previous != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((text.get(..index)?, text.get(index + 1..)?));
        }
        previous = character;
    }
    None
}

/// What is in front of ` as `, outside of brackets.
fn before_as(text: &str) -> &str {
    let mut depth = 0;
    for (index, character) in text.char_indices() {
        match character {
            '<' => depth += 1,
            '>' => depth -= 1,
            ' ' if depth == 0 && text[index..].starts_with(" as ") => return &text[..index],
            _ => {}
        }
    }
    text
}

fn without_brackets(text: &str) -> String {
    let mut output = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        output.push_str(&rest[..open]);
        match split_at_close(&rest[open + 1..]) {
            Some((_, tail)) => rest = tail,
            None => return output,
        }
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_no_parameters() {
        for (name, path) in [
            ("main", "main"),
            ("a::b::<impl a::C<D>>::f", "a::b::f"),
            ("a::b::<impl e::F for a::C<D>>::f", "a::b::f"),
            ("a::C<D>::f::{{closure}}", "a::C::f::{{closure}}"),
            ("<a::C<D> as e::F<G>>::f", "a::C::f"),
            ("<a::C<D>>::f", "a::C::f"),
            ("a::f::<D>", "a::f"),
            ("a::f::<fn(u8) -> u8>::g", "a::f::g"),
            ("<core::slice::Iter<T> as core::iter::Iterator>::next", "core::slice::Iter::next"),
            ("core::ptr::mut_ptr::<impl *mut T>::write", "core::ptr::mut_ptr::write"),
            ("<u64>::saturating_add", "u64::saturating_add"),
        ] {
            assert_eq!(path_of(name), path);
        }
    }

    #[inline(never)]
    fn marked(value: u64) -> u64 {
        std::hint::black_box(value ^ 0x5a5a)
    }

    #[test]
    fn this_test_finds_itself() {
        assert_eq!(marked(0x5a5a), 0);
        let own = Image::open(&std::env::current_exe().unwrap()).unwrap();
        let address = own.function("image::tests::marked").unwrap();
        assert!(own.code(address).unwrap().len() > 16);
        assert!(own.symbol(address).unwrap().ends_with("::image::tests::marked"));
        let functions = own.functions(address);
        // Tests are built without the paths of functions in their debug information.
        assert!(functions.last().unwrap().ends_with("marked"), "{functions:?}");
        assert_eq!(own.function("no_such_function"), None);
        assert!(own.code(u64::MAX).is_none());
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        let error = Image::open(Path::new(file!())).err().unwrap().to_string();
        assert!(error.contains("image.rs"), "{error}");
        assert!(Image::open(Path::new("/nonexistent")).is_err());
    }
}
