//! Logs of HAL operations, and their comparison with the model.
//!
//! A log is text. Its first line describes the machine, each other line is one operation with all
//! arguments and the result:
//!
//! ```text
//! machine levels=4 entries=512 user=256 cpus=1 ram=0x100-0x8000 device=0xb8-0xc0
//! create-page-map-page region=0x103+1 = ok
//! add-mapping map=0x104 supply=0x105,0x106 region=0x200+512 page=0x400 rights=rwx share=- = ok
//! remove-mapping cpu=0 map=0x104 page=0x401 = refused
//! ```
//!
//! Numbers are hexadecimal with `0x`, or decimal. Frames and pages are numbers of 4 KiB. A region is
//! `first+count`, a range of the first line `first-end`; there can be several, with commas between.
//! Rights are `r`, `rw`, `rx`, `rwx`. A share is `region:owner:grantee:rights`, an owner the number
//! of a domain, `hypervisor` or `nobody`. `supply` lists page-map pages, of which those at the end
//! are taken first. Lines that begin with `#`, and empty ones, are skipped; what is before `audit: `
//! in a line, too (the time stamps of a serial log).
//!
//! The log must be complete: what happens to memory and is not in it makes the model deviate
//! later, at the first operation that it changes.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::action::{Action, Through};
use crate::layers::Layers;
use crate::machine::{Cpu, Frame, Machine, Sizes, VirtualPage};
use crate::state::{Owner, Region, Rights, Share, State};
use crate::step::Refusal;

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine(String);

impl fmt::Display for BadLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for BadLine {}

/// The log and the model disagree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deviation {
    /// The log says that the operation succeeded.
    Accepted(Refusal),
    /// The log says that the operation was refused.
    Refused,
}

impl fmt::Display for Deviation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(refusal) => {
                write!(formatter, "it succeeded, and the model refuses it: {refusal}")
            }
            Self::Refused => formatter.write_str("it was refused, and the model allows it"),
        }
    }
}

const fn owner(owner: Owner) -> OwnerText {
    OwnerText(owner)
}

struct OwnerText(Owner);

impl fmt::Display for OwnerText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Owner::Hypervisor => formatter.write_str("hypervisor"),
            Owner::Nobody => formatter.write_str("nobody"),
            Owner::Domain(number) => write!(formatter, "{number}"),
        }
    }
}

fn region(region: Region) -> String {
    format!("{:#x}+{}", region.first.0, region.pages)
}

fn share(share: &Share) -> String {
    let memory = region(share.region);
    format!("{memory}:{}:{}:{:?}", share.owner, owner(share.grantee), share.rights)
}

fn maybe_share(given: Option<&Share>) -> String {
    given.map_or_else(|| "-".to_owned(), share)
}

fn supply(frames: &[Frame]) -> String {
    let frames: Vec<String> = frames.iter().map(|frame| format!("{:#x}", frame.0)).collect();
    if frames.is_empty() { "-".to_owned() } else { frames.join(",") }
}

/// The first line of a log of a run on `machine`.
#[must_use]
pub fn header(machine: &Machine) -> String {
    let sizes = machine.sizes();
    let first = machine.clients().next().map_or(0, |frame| frame.0);
    let end = first + sizes.pages;
    let mut text = format!(
        "machine levels={} entries={} user={} cpus={} ram={first:#x}-{end:#x}",
        sizes.levels, sizes.entries, sizes.user_entries, sizes.cpus
    );
    if sizes.devices > 0 {
        let _ = write!(text, " device={end:#x}-{:#x}", end + sizes.devices);
    }
    text.push('\n');
    text
}

/// The line for an action and whether it was accepted. Nothing for what is no operation of the HAL.
#[must_use]
pub fn line(action: &Action, accepted: bool) -> String {
    let text = match action {
        Action::DeriveRegionH { from, to } => {
            format!("derive-region from={} to={}", region(*from), region(*to))
        }
        Action::CreatePageMapPageH { region: of } => {
            format!("create-page-map-page region={}", region(*of))
        }
        Action::ReleasePageMapPageH { frame } => {
            format!("release-page-map-page page={:#x}", frame.0)
        }
        Action::AllocatePageDirectoryH { frame } => {
            format!("allocate-page-map page={:#x}", frame.0)
        }
        Action::FreePageDirectoryH { cpu, directory } => {
            format!("free-page-map cpu={} map={:#x}", cpu.0, directory.0)
        }
        Action::AddMappingH { directory, supply: tables, region: of, page, rights, share } => {
            format!(
                "add-mapping map={:#x} supply={} region={} page={:#x} rights={rights:?} share={}",
                directory.0,
                supply(tables),
                region(*of),
                page.0,
                maybe_share(share.as_ref())
            )
        }
        Action::RemoveMappingH { cpu, directory, page } => {
            format!("remove-mapping cpu={} map={:#x} page={:#x}", cpu.0, directory.0, page.0)
        }
        Action::ModifyMappingH { cpu, directory, page, rights } => format!(
            "modify-mapping cpu={} map={:#x} page={:#x} rights={rights:?}",
            cpu.0, directory.0, page.0
        ),
        Action::SplitMappingH { cpu, directory, supply: tables, page } => format!(
            "split-mapping cpu={} map={:#x} supply={} page={:#x}",
            cpu.0,
            directory.0,
            supply(tables),
            page.0
        ),
        Action::AddKernelMappingH { cpu, region: of, rights, user, share } => format!(
            "add-kernel-mapping cpu={} region={} rights={rights:?} programs={} share={}",
            cpu.0,
            region(*of),
            if *user { "yes" } else { "no" },
            maybe_share(share.as_ref())
        ),
        Action::RemoveKernelMappingH { cpu, region: of } => {
            format!("remove-kernel-mapping cpu={} region={}", cpu.0, region(*of))
        }
        Action::ExecuteH { cpu, directory } => {
            format!("load cpu={} map={:#x}", cpu.0, directory.0)
        }
        Action::EnterH { cpu } => format!("enter cpu={}", cpu.0),
        Action::ReclaimH { frame } => format!("reclaim page={:#x}", frame.0),
        Action::AssignH { region: of, to } => format!("assign region={} to={to}", region(*of)),
        Action::ReleaseH { region: of, from } => {
            format!("release region={} from={from}", region(*of))
        }
        Action::ShareH { share: of } => format!("share share={}", share(of)),
        Action::EndShareH { share: of } => format!("end-share share={}", share(of)),
        // Writes to memory change nothing that an operation depends on.
        Action::WriteE { .. }
        | Action::WriteK { .. }
        | Action::WriteU { through: Through::Tables | Through::Cache(_), .. }
        | Action::WriteD { .. } => return String::new(),
    };
    format!("{text} = {}\n", if accepted { "ok" } else { "refused" })
}

/// The words of a line, by name.
struct Words<'line>(BTreeMap<&'line str, &'line str>);

impl<'line> Words<'line> {
    fn of(text: &'line str) -> Result<Self, BadLine> {
        let mut words = BTreeMap::new();
        for word in text.split_whitespace() {
            let bad = || BadLine(format!("`{word}` is not of the form name=value"));
            let (name, value) = word.split_once('=').ok_or_else(bad)?;
            words.insert(name, value);
        }
        Ok(Self(words))
    }

    fn get(&self, name: &str) -> Result<&'line str, BadLine> {
        let found = self.0.get(name).copied();
        found.ok_or_else(|| BadLine(format!("`{name}` is missing")))
    }

    fn number<T: TryFrom<u64>>(&self, name: &str) -> Result<T, BadLine> {
        number(self.get(name)?)
    }

    fn cpu(&self) -> Result<Cpu, BadLine> {
        self.number("cpu").map(Cpu)
    }

    fn page(&self) -> Result<VirtualPage, BadLine> {
        self.number("page").map(VirtualPage)
    }

    fn rights(&self) -> Result<Rights, BadLine> {
        rights(self.get("rights")?)
    }
}

fn number<T: TryFrom<u64>>(text: &str) -> Result<T, BadLine> {
    let bad = || BadLine(format!("`{text}` is not a number that can be here"));
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.ok().and_then(|number| T::try_from(number).ok()).ok_or_else(bad)
}

fn rights(text: &str) -> Result<Rights, BadLine> {
    let found = Rights::EACH.into_iter().find(|rights| format!("{rights:?}") == text);
    found.ok_or_else(|| BadLine(format!("`{text}` are no rights: r, rw, rx, rwx")))
}

fn owner_from(text: &str) -> Result<Owner, BadLine> {
    Ok(match text {
        "hypervisor" => Owner::Hypervisor,
        "nobody" => Owner::Nobody,
        number_of => Owner::Domain(number(number_of)?),
    })
}

/// Ranges of frames of the logged machine.
fn ranges(text: &str) -> Result<Vec<(u64, u64)>, BadLine> {
    let range = |range: &str| {
        let bad = || BadLine(format!("`{range}` is not a range of frames"));
        let (first, end) = range.split_once('-').ok_or_else(bad)?;
        let (first, end): (u64, u64) = (number(first)?, number(end)?);
        if first < end { Ok((first, end)) } else { Err(bad()) }
    };
    text.split(',').map(range).collect()
}

/// Stands for frames that are none of the model's. Behind it there is room for a region's pages: at the
/// end of the numbers, one of several pages would have none, and every check of each would hold.
const OUTSIDE: Frame = Frame(1 << 31);

/// A log that is being compared.
#[derive(Debug, Default)]
pub struct Log {
    replay: Option<Replay>,
    operations: u64,
    refusals: u64,
}

/// The model of the logged machine.
#[derive(Debug)]
struct Replay {
    machine: Machine,
    state: State,
    /// Frames of the logged machine, and which of the model's the first of them is.
    places: Vec<(u64, u64, u32)>,
    /// The frames of the logged machine that clients can have. What lies between is the kernel's own.
    clients: Vec<(u64, u64)>,
    /// How many contexts use each page map.
    uses: BTreeMap<Frame, u32>,
}

impl Log {
    /// A log of which nothing was read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of operations that were compared.
    #[must_use]
    pub const fn operations(&self) -> u64 {
        self.operations
    }

    /// How many of them were refused.
    #[must_use]
    pub const fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Compares one line.
    ///
    /// # Errors
    ///
    /// [`BadLine`] if it cannot be read.
    pub fn line(&mut self, line: &str) -> Result<Option<Deviation>, BadLine> {
        let text = line.split_once("audit: ").map_or(line, |(_, text)| text).trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        if let Some(description) = text.strip_prefix("machine ") {
            self.replay = Some(Replay::of(&Words::of(description)?)?);
            return Ok(None);
        }
        let (operation, result) = text
            .rsplit_once(" = ")
            .ok_or_else(|| BadLine("there is no result (` = ok` or ` = refused`)".to_owned()))?;
        // A refusal may say why.
        let accepted = match result.split_whitespace().next() {
            Some("ok") => true,
            Some("refused") => false,
            _ => return Err(BadLine(format!("`{result}` is no result"))),
        };
        let replay = self.replay.as_mut();
        let replay =
            replay.ok_or_else(|| BadLine("no `machine` line comes before it".to_owned()))?;
        self.operations += 1;
        self.refusals += u64::from(!accepted);
        let (name, words) = operation.split_once(' ').unwrap_or((operation, ""));
        let expected = replay.operation(name, &Words::of(words)?)?;
        Ok(match (expected, accepted) {
            (Ok(()), false) => Some(Deviation::Refused),
            (Err(refusal), true) => Some(Deviation::Accepted(refusal)),
            _ => None,
        })
    }
}

impl Replay {
    fn of(words: &Words<'_>) -> Result<Self, BadLine> {
        let ram = ranges(words.get("ram")?)?;
        let devices = match words.0.get("device") {
            Some(text) => ranges(text)?,
            None => Vec::new(),
        };
        let entries: u32 = words.number("entries")?;
        let first = ram.iter().map(|range| range.0).min().unwrap_or(0);
        let end = ram.iter().map(|range| range.1).max().unwrap_or(0);
        let too_large = |_| BadLine("there is too much memory".to_owned());
        // Large pages keep their places: devices begin where they do within a table's worth.
        let begin = first - first % u64::from(entries);
        let mut next = u32::try_from(end - begin).map_err(too_large)?;
        let mut offsets = vec![(begin, end, 0)];
        for (first, end) in &devices {
            let into = u32::try_from(first % u64::from(entries)).map_err(too_large)?;
            next = next.next_multiple_of(entries) + into;
            offsets.push((*first, *end, next));
            next += u32::try_from(end - first).map_err(too_large)?;
        }
        let pages = u32::try_from(end - begin).map_err(too_large)?.next_multiple_of(entries);
        let sizes = Sizes {
            levels: words.number("levels")?,
            entries,
            user_entries: words.number("user")?,
            used_pages: None,
            environment: 1,
            pages,
            devices: next.saturating_sub(pages),
            cpus: words.number("cpus")?,
            domains: 64,
        };
        let machine = Machine::new(sizes, Layers::ALL).map_err(|bad| BadLine(bad.to_string()))?;
        let client = machine.clients().next().map_or(0, |frame| frame.0);
        let place = |(first, end, offset)| (first, end, client + offset);
        let places = offsets.into_iter().map(place).collect();
        let clients = ram.into_iter().chain(devices).collect();
        let state = State::initial(&machine);
        Ok(Self { state, machine, places, clients, uses: BTreeMap::new() })
    }

    /// The model's name of a frame. A frame that is none of the machine's gets a name that is none of
    /// the model's.
    fn frame(&self, number: u64) -> Frame {
        if !self.clients.iter().any(|(first, end)| (*first..*end).contains(&number)) {
            return OUTSIDE;
        }
        let of = |(first, end, place): &(u64, u64, u32)| {
            let offset = u32::try_from(number.checked_sub(*first)?).ok()?;
            (number < *end).then_some(Frame(place + offset))
        };
        self.places.iter().find_map(of).unwrap_or(OUTSIDE)
    }

    fn named(&self, words: &Words<'_>, name: &str) -> Result<Frame, BadLine> {
        Ok(self.frame(words.number(name)?))
    }

    /// The root that a processor is to load: the reference root is called `reference`.
    fn root(&self, words: &Words<'_>) -> Result<Frame, BadLine> {
        match words.get("map")? {
            "reference" | "0x0" => Ok(crate::machine::REFERENCE),
            _ => self.named(words, "map"),
        }
    }

    fn region(&self, text: &str) -> Result<Region, BadLine> {
        let bad = || BadLine(format!("`{text}` is not a region: first+count"));
        let (first, pages) = text.split_once('+').ok_or_else(bad)?;
        let (first, pages): (u64, u32) = (number(first)?, number(pages)?);
        // All of it must be the clients'; its ranges follow each other, so that both ends tell.
        let last = first.saturating_add(u64::from(pages).saturating_sub(1));
        let is_whole = self.frame(last) != OUTSIDE;
        let first = if is_whole { self.frame(first) } else { OUTSIDE };
        Ok(Region { first, pages })
    }

    fn region_of(&self, words: &Words<'_>, name: &str) -> Result<Region, BadLine> {
        self.region(words.get(name)?)
    }

    fn share(&self, text: &str) -> Result<Share, BadLine> {
        let parts: Vec<&str> = text.split(':').collect();
        let [memory, from, grantee, most] = parts[..] else {
            return Err(BadLine(format!("`{text}` is not a share: region:owner:grantee:rights")));
        };
        Ok(Share {
            region: self.region(memory)?,
            owner: number(from)?,
            grantee: owner_from(grantee)?,
            rights: rights(most)?,
        })
    }

    fn maybe_share(&self, words: &Words<'_>) -> Result<Option<Share>, BadLine> {
        match words.get("share")? {
            "-" => Ok(None),
            text => self.share(text).map(Some),
        }
    }

    fn supply(&self, words: &Words<'_>) -> Result<Vec<Frame>, BadLine> {
        match words.get("supply")? {
            "-" => Ok(Vec::new()),
            text => text.split(',').map(|frame| Ok(self.frame(number(frame)?))).collect(),
        }
    }

    /// Carries an operation out in the model.
    fn operation(&mut self, name: &str, words: &Words<'_>) -> Result<Result<(), Refusal>, BadLine> {
        let action = match name {
            "attach" => {
                let map = self.named(words, "map")?;
                *self.uses.entry(map).or_default() += 1;
                return Ok(Ok(()));
            }
            "detach" => {
                let map = self.named(words, "map")?;
                let uses = self.uses.entry(map).or_default();
                *uses = uses.saturating_sub(1);
                return Ok(Ok(()));
            }
            "derive-region" => Action::DeriveRegionH {
                from: self.region_of(words, "from")?,
                to: self.region_of(words, "to")?,
            },
            "create-page-map-page" => {
                Action::CreatePageMapPageH { region: self.region_of(words, "region")? }
            }
            "release-page-map-page" => {
                Action::ReleasePageMapPageH { frame: self.named(words, "page")? }
            }
            "allocate-page-map" => {
                Action::AllocatePageDirectoryH { frame: self.named(words, "page")? }
            }
            "free-page-map" => {
                let directory = self.named(words, "map")?;
                if self.uses.get(&directory).is_some_and(|uses| *uses > 0) {
                    // Contexts use it, which is no matter of the model.
                    return Ok(Err(Refusal::Loaded));
                }
                Action::FreePageDirectoryH { cpu: words.cpu()?, directory }
            }
            "add-mapping" => Action::AddMappingH {
                directory: self.named(words, "map")?,
                supply: self.supply(words)?,
                region: self.region_of(words, "region")?,
                page: words.page()?,
                rights: words.rights()?,
                share: self.maybe_share(words)?,
            },
            "remove-mapping" => Action::RemoveMappingH {
                cpu: words.cpu()?,
                directory: self.named(words, "map")?,
                page: words.page()?,
            },
            "modify-mapping" => Action::ModifyMappingH {
                cpu: words.cpu()?,
                directory: self.named(words, "map")?,
                page: words.page()?,
                rights: words.rights()?,
            },
            "reset-usage" => {
                let (directory, page) = (self.named(words, "map")?, words.page()?);
                // As a change of rights to what they are.
                let rights = self.state.leaf(&self.machine, directory, page);
                let rights = rights.map_or(Rights::READ, |(mapping, _)| mapping.rights);
                Action::ModifyMappingH { cpu: words.cpu()?, directory, page, rights }
            }
            "split-mapping" => Action::SplitMappingH {
                cpu: words.cpu()?,
                directory: self.named(words, "map")?,
                supply: self.supply(words)?,
                page: words.page()?,
            },
            "add-kernel-mapping" => Action::AddKernelMappingH {
                cpu: words.cpu()?,
                region: self.region_of(words, "region")?,
                rights: words.rights()?,
                user: words.get("programs")? == "yes",
                share: self.maybe_share(words)?,
            },
            "remove-kernel-mapping" => Action::RemoveKernelMappingH {
                cpu: words.cpu()?,
                region: self.region_of(words, "region")?,
            },
            "load" => Action::ExecuteH { cpu: words.cpu()?, directory: self.root(words)? },
            "enter" => Action::EnterH { cpu: words.cpu()? },
            "reclaim" => Action::ReclaimH { frame: self.named(words, "page")? },
            "assign" => Action::AssignH {
                region: self.region_of(words, "region")?,
                to: words.number("to")?,
            },
            "release" => Action::ReleaseH {
                region: self.region_of(words, "region")?,
                from: words.number("from")?,
            },
            "share" => Action::ShareH { share: self.share(words.get("share")?)? },
            "end-share" => Action::EndShareH { share: self.share(words.get("share")?)? },
            _ => return Err(BadLine(format!("no operation is called `{name}`"))),
        };
        if action.cpu().is_some_and(|cpu| cpu.0 >= self.machine.sizes().cpus) {
            return Err(BadLine("there is no such processor".to_owned()));
        }
        Ok(self.state.apply(&self.machine, &action))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Random, random};

    /// A log of a run on the HAL, of a few tiny machines and one of real geometry.
    fn log(sizes: Sizes, seed: u64) -> String {
        let machine = Machine::new(sizes, Layers::ALL).unwrap();
        let mut text = header(&machine);
        let run = Random::new(machine, 4_000, seed);
        let mut note = |action: &Action, accepted| text += &line(action, accepted);
        let report = random(&run, &|_| {}, &mut note).unwrap();
        assert!(report.violation.is_none(), "{:?}", report.violation);
        text
    }

    fn replay(text: &str) -> Option<(usize, Deviation)> {
        let mut log = Log::new();
        let mut lines = text.lines().enumerate();
        lines.find_map(|(number, line)| Some((number + 1, log.line(line).unwrap()?)))
    }

    fn logs() -> [String; 2] {
        let small = Sizes { user_entries: 2, pages: 7, cpus: 2, ..Sizes::SMALL };
        let real = Sizes {
            levels: 4,
            entries: 512,
            user_entries: 256,
            pages: 1024,
            devices: 3,
            cpus: 3,
            ..Sizes::SMALL
        };
        [log(small, 11), log(real, 12)]
    }

    #[test]
    fn logs_of_the_hal_replay_clean() {
        for text in logs() {
            assert_eq!(replay(&text), None);
            // As the serial port shows it.
            assert_eq!(replay(&text.replace('\n', "\n[    0.1] audit: ")), None);
        }
    }

    #[test]
    fn a_result_that_is_flipped_is_reported_with_its_line() {
        for text in logs() {
            let lines: Vec<&str> = text.lines().collect();
            for number in (1..lines.len()).step_by(97) {
                let mut lines = lines.clone();
                let flipped = match lines[number].strip_suffix(" = ok") {
                    Some(start) => format!("{start} = refused"),
                    None => lines[number].replace(" = refused", " = ok"),
                };
                lines[number] = &flipped;
                let found = replay(&lines.join("\n"));
                assert_eq!(found.map(|(line, _)| line), Some(number + 1), "{flipped}");
            }
        }
    }

    #[test]
    fn memory_between_the_ranges_is_nobody_s() {
        let machine = "machine levels=2 entries=4 user=2 cpus=1 ram=8-12,16-20 device=24-26";
        for (region, is_clients) in
            [("8+1", true), ("17+1", true), ("12+1", false), ("15+1", false), ("22+1", false)]
        {
            let mut log = Log::new();
            assert_eq!(log.line(machine), Ok(None));
            let found = log.line(&format!("create-page-map-page region={region} = ok")).unwrap();
            assert_eq!(found.is_none(), is_clients, "{region}: {found:?}");
        }
        // One that begins in a range and ends behind it.
        let mut log = Log::new();
        assert_eq!(log.line(machine), Ok(None));
        let line = "add-kernel-mapping cpu=0 region=10+4 rights=r programs=no share=- = ok";
        assert!(log.line(line).unwrap().is_some());
    }

    #[test]
    fn lines_that_cannot_be_read_are_refused() {
        let machine = "machine levels=2 entries=4 user=2 cpus=1 ram=8-16";
        for line in [
            "enter cpu=0",
            "enter cpu=0 = perhaps",
            "enter cpu=7 = ok",
            "enter = ok",
            "leave cpu=0 = ok",
            "create-page-map-page region=8 = ok",
            "create-page-map-page region=x+1 = ok",
            "machine levels=9 entries=4 user=2 cpus=1 ram=8-16",
            "machine levels=2 entries=4 user=2 cpus=1 ram=16-8",
            "share share=8+1:0:1 = ok",
        ] {
            let mut log = Log::new();
            assert_eq!(log.line(machine), Ok(None));
            assert!(log.line(line).is_err(), "{line}");
        }
        assert!(Log::new().line("enter cpu=0 = ok").is_err());
    }
}
