//! A host with several domains: what they need together, and what each gets when balanced.
//!
//! Hides the host file. Memory is divided in terms of footprints, by the rule of
//! `heliox_vm::balance`, so that rounding, which differs between policies, cannot promise more
//! than there is.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use heliox_vm::balance::{Gamma, Range};
use heliox_vm::breakdown::Plan;
use heliox_vm::units::KiB;

use super::Planned;
use super::domain::{DomainOptions, PolicyOptions, used};
use crate::error::Error;
use crate::size::Size;

/// The file: memory, policy, domains.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct HostFile {
    memory: Size,
    #[serde(default)]
    reserved: Option<Size>,
    #[serde(default)]
    policy: Option<toml::Value>,
    #[serde(default)]
    generation: Option<toml::Value>,
    #[serde(default)]
    domain: Vec<toml::Spanned<DomainOptions>>,
}

/// A host and its domains.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// The memory of the host.
    pub(super) memory: KiB,
    /// What of it is not for domains.
    pub(super) reserved: KiB,
    pub(super) domains: Vec<HostDomain>,
    /// The fraction of the way from minimum to maximum that all domains go.
    pub(super) gamma: Gamma,
}

/// A domain of a host.
#[derive(Clone, Debug)]
pub(super) struct HostDomain {
    /// With its target as the file has it.
    pub(super) now: Planned,
    /// How far it can shrink and grow; both its target if it cannot.
    pub(super) dynamic: Range,
    pub(super) cooperates: bool,
    /// With its target after balancing.
    pub(super) balanced: Planned,
}

/// Memory that is left, or missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Free(KiB),
    Missing(KiB),
}

impl Host {
    /// Reads a host file. Its policy stands back behind that of the command line.
    pub(super) fn read(path: &Path, options: &PolicyOptions) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let line_of = |offset: usize| {
            1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
        };
        let wrong = |offset: Option<usize>, why: String| Error::Input {
            path: path.to_owned(),
            line: offset.map(line_of),
            why,
        };
        let malformed = |error: toml::de::Error| {
            wrong(error.span().map(|span| span.start), error.message().replace('\n', ", "))
        };
        let file: HostFile = toml::from_str(&text).map_err(malformed)?;
        let mut table = toml::Table::new();
        for (name, value) in [("policy", file.policy), ("generation", file.generation)] {
            table.extend(value.map(|value| (name.to_owned(), value)));
        }
        let written: PolicyOptions = table
            .try_into()
            .map_err(|error: toml::de::Error| wrong(None, error.message().to_owned()))?;
        let policy = options.or(&written);
        let unsure = |why: super::domain::DomainError| wrong(None, why.to_string());
        let memory = KiB::from_free_bytes(file.memory.bytes())
            .ok_or_else(|| wrong(None, format!("a host of {} is too large", file.memory)))?;
        let reserved = match file.reserved {
            Some(size) => used("the reserved memory", size).map_err(unsure)?,
            None => KiB::ZERO,
        };
        if file.domain.is_empty() {
            return Err(wrong(None, "there is no [[domain]]".to_owned()));
        }
        let mut domains = Vec::new();
        for (place, domain) in file.domain.iter().enumerate() {
            let start = domain.span().start;
            let found = Entry::new(domain.get_ref(), &policy, place)
                .map_err(|why| wrong(Some(start), why))?;
            domains.push(found);
        }
        for (place, entry) in domains.iter().enumerate() {
            let name = &entry.now.name;
            if domains.iter().take(place).any(|other| other.now.name == *name) {
                return Err(wrong(None, format!("two domains are called `{name}`")));
            }
        }
        Self::balance(memory, reserved, domains).map_err(|why| wrong(None, why))
    }

    /// What each domain gets.
    fn balance(memory: KiB, reserved: KiB, entries: Vec<Entry>) -> Result<Self, String> {
        // What does not take part is gone.
        let fixed = entries
            .iter()
            .filter(|entry| !entry.cooperates)
            .fold(reserved, |sum, entry| sum.saturating_add(entry.now.plan.footprint()));
        let available = memory.saturating_sub(fixed);
        let taking_part = entries.iter().filter(|entry| entry.cooperates);
        let gamma = Gamma::new(available, taking_part.map(|entry| (entry.footprints, KiB::ZERO)));
        let mut domains = Vec::new();
        for entry in entries {
            let balanced =
                if entry.cooperates { entry.with_share(gamma)? } else { entry.now.clone() };
            let Entry { now, dynamic, cooperates, .. } = entry;
            domains.push(HostDomain { now, dynamic, cooperates, balanced });
        }
        Ok(Self { memory, reserved, domains, gamma })
    }

    /// What is left with the targets of the file.
    pub(super) fn left_now(&self) -> Left {
        self.left(|domain| &domain.now.plan)
    }

    /// What is left after balancing.
    pub(super) fn left_balanced(&self) -> Left {
        self.left(|domain| &domain.balanced.plan)
    }

    fn left(&self, plan: impl Fn(&HostDomain) -> &Plan) -> Left {
        let needed = self
            .domains
            .iter()
            .fold(self.reserved, |sum, domain| sum.saturating_add(plan(domain).footprint()));
        match self.memory.checked_sub(needed) {
            Some(free) => Left::Free(free),
            None => Left::Missing(needed.saturating_sub(self.memory)),
        }
    }
}

/// A domain before it is known what the others need.
struct Entry {
    now: Planned,
    dynamic: Range,
    /// Its footprints at both ends.
    footprints: Range,
    cooperates: bool,
}

impl Entry {
    fn new(options: &DomainOptions, policy: &PolicyOptions, place: usize) -> Result<Self, String> {
        let mut now = options.plan(policy).map_err(|why| why.to_string())?;
        if now.name.is_empty() {
            now.name = format!("domain {}", place + 1);
        }
        let end = |option: &'static str, size: Option<Size>| {
            size.map_or(Ok(now.shape.target()), |size| used(option, size))
                .map_err(|why| why.to_string())
        };
        let minimum = end("the dynamic minimum", options.dynamic_min)?;
        let maximum = end("the dynamic maximum", options.dynamic_max)?;
        if minimum > now.shape.target() || now.shape.target() > maximum {
            return Err("the target has to lie between the dynamic minimum and maximum".to_owned());
        }
        let dynamic = Range::new(minimum, maximum).ok_or("the dynamic range is empty")?;
        let footprint = |target| now.with_target(target).map(|planned| planned.plan.footprint());
        let footprints = Range::new(footprint(minimum)?, footprint(maximum)?)
            .ok_or("the dynamic range is empty")?;
        Ok(Self { dynamic, footprints, cooperates: !options.uncooperative, now })
    }

    /// With the largest target that its share has room for.
    fn with_share(&self, gamma: Gamma) -> Result<Planned, String> {
        let share = gamma.target(self.footprints);
        let found = self.now.policy.largest_target(&self.now.shape, share);
        let target = match found.map_err(|why| why.to_string())? {
            Some(shape) => shape.target().clamp(self.dynamic.minimum(), self.dynamic.maximum()),
            None => self.dynamic.minimum(),
        };
        self.now.with_target(target)
    }
}

impl Planned {
    /// The same domain with another target.
    fn with_target(&self, target: KiB) -> Result<Self, String> {
        let shape = self.shape.with_target(target).map_err(|why| why.to_string())?;
        let plan = self.policy.plan(&shape).map_err(|why| why.to_string())?;
        Ok(Self { name: self.name.clone(), policy: self.policy, shape, plan })
    }
}
