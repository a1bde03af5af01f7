//! `heliox plan`: how much memory domains need, and what for.
//!
//! Hides the way from options or a host file to the answer, as text with a picture, as JSON, or
//! as an SVG file. The reckoning itself is `heliox-vm`'s. Invariant: what is printed, drawn and
//! written comes from one and the same plan.

mod domain;
mod host;
mod json;
mod svg;
mod text;

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use heliox_vm::breakdown::libxl::{self, MemSet};
use heliox_vm::breakdown::{Cost, Kind, Plan, Policy, Shape};
use heliox_vm::units::KiB;

use self::domain::{DomainOptions, PolicyOptions};
use self::host::Host;
use crate::error::Error;
use crate::size::Size;

/// What is asked.
#[derive(Args, Clone, Debug, Default)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    domain: DomainOptions,
    /// Also tell the largest domain of this kind that fits into so much free memory, and the
    /// largest target for this static maximum
    #[arg(long, value_name = "SIZE", conflicts_with = "host")]
    fits: Option<Size>,
    /// Also tell what a change costs: an option's name and its new value, as in
    /// `--change vcpus=4`; can be repeated
    #[arg(long, value_name = "OPTION=VALUE", conflicts_with = "host")]
    change: Vec<String>,
    /// Also tell what libxl's `mem-set` to this target changes
    #[arg(long, value_name = "SIZE", conflicts_with = "host")]
    mem_set: Option<Size>,
    /// Also tell what libxl's `mem-max` to this maximum changes
    #[arg(long, value_name = "SIZE", conflicts_with = "host")]
    mem_max: Option<Size>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw the picture, to scale, into a file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// A file with a host and its domains (TOML; `heliox plan --help` shows one)
    #[arg(value_name = "HOST.toml", conflicts_with = "domain")]
    host: Option<PathBuf>,
}

/// A domain with its breakdown.
#[derive(Clone, Debug)]
struct Planned {
    name: String,
    policy: Policy,
    shape: Shape,
    plan: Plan,
}

impl Planned {
    /// `kind domain by policy`, for titles.
    fn title(&self) -> String {
        let by = match self.policy {
            Policy::Xenops { generation, .. } => format!("xenops, generation {generation}"),
            Policy::Libxl(_) => "libxl".to_owned(),
        };
        format!("{} domain by {by}", self.shape.kind())
    }

    /// The options, for subtitles.
    fn subtitle(&self) -> String {
        let shape = &self.shape;
        let mut words = format!(
            "static maximum {}, target {}",
            amount(shape.static_max()),
            amount(shape.target())
        );
        if shape.kind() == Kind::Hvm {
            words += &format!(", video {}", amount(shape.video()));
        }
        let vcpus = shape.vcpus().count();
        words += &format!(", {vcpus} virtual CPU{}", if vcpus == 1 { "" } else { "s" });
        words
    }
}

/// One domain, and the answers to what was asked beside its plan.
#[derive(Clone, Debug)]
struct Single {
    domain: Planned,
    fits: Option<Fits>,
    change: Option<Change>,
    mem_set: Option<MemSet>,
    mem_max: Option<KiB>,
}

/// What fits into some free memory.
#[derive(Clone, Copy, Debug)]
struct Fits {
    free: KiB,
    largest_domain: Option<Shape>,
    largest_target: Option<Shape>,
}

/// A change, and what it costs.
#[derive(Clone, Debug)]
struct Change {
    after: Planned,
    cost: Cost,
}

/// Answers what is asked, on standard output and in the file that is asked for.
///
/// # Errors
/// [`Error::Usage`] for options that no domain can have, [`Error::Input`] for a host file that is
/// not one, [`Error::File`].
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let (text, json, svg) = match &arguments.host {
        Some(path) => {
            let host = Host::read(path, &arguments.policy)?;
            (text::host(&host), json::host(&host), svg::host(&host))
        }
        None => {
            let single = single(arguments)?;
            (text::single(&single), json::single(&single), svg::domain(&single.domain))
        }
    };
    if let Some(path) = &arguments.plot {
        fs::write(path, svg).map_err(|source| Error::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    let output = if arguments.json { json } else { text };
    // Whoever closes standard output early has read enough.
    let _ = anstream::stdout().write_all(output.as_bytes());
    Ok(())
}

fn single(arguments: &Arguments) -> Result<Single, Error> {
    let planned = |domain: &DomainOptions, options: &PolicyOptions| {
        domain.plan(options).map_err(|why| Error::Usage(why.to_string()))
    };
    let usage = |why: heliox_vm::breakdown::PlanError| Error::Usage(why.to_string());
    let domain = planned(&arguments.domain, &arguments.policy)?;
    let mut change = None;
    if !arguments.change.is_empty() {
        let (mut options, mut policy) = (arguments.domain.clone(), arguments.policy.clone());
        for assignment in &arguments.change {
            options.assign(&mut policy, assignment).map_err(Error::Usage)?;
        }
        let after = planned(&options, &policy)?;
        change = Some(Change { cost: domain.plan.cost_of_change(&after.plan), after });
    }
    let mut fits = None;
    if let Some(size) = arguments.fits {
        let free = KiB::from_free_bytes(size.bytes()).unwrap_or(KiB::MAX);
        let (policy, shape) = (&domain.policy, &domain.shape);
        fits = Some(Fits {
            free,
            largest_domain: policy.largest_domain(shape, free).map_err(usage)?,
            largest_target: policy.largest_target(shape, free).map_err(usage)?,
        });
    }
    let only_libxl = [("mem-set", arguments.mem_set), ("mem-max", arguments.mem_max)];
    let given = only_libxl.iter().find_map(|(option, size)| size.and(Some(option)));
    if let (Policy::Xenops { .. }, Some(option)) = (domain.policy, given) {
        return Err(Error::Usage(format!("--{option} is libxl's: leave out the generation")));
    }
    let mem_set = match arguments.mem_set {
        Some(size) => Some(libxl::mem_set(&domain.shape, used(size)?).map_err(usage)?),
        None => None,
    };
    let mem_max = match arguments.mem_max {
        Some(size) => Some(mem_max(&domain.shape, used(size)?).map_err(usage)?),
        None => None,
    };
    Ok(Single { domain, fits, change, mem_set, mem_max })
}

/// `mem-max` cannot go below the target.
fn mem_max(shape: &Shape, amount: KiB) -> Result<KiB, heliox_vm::breakdown::PlanError> {
    shape.with_static_max(amount).and_then(|shape| libxl::mem_max(shape.static_max()))
}

fn used(size: Size) -> Result<KiB, Error> {
    KiB::from_used_bytes(size.bytes())
        .ok_or_else(|| Error::Usage(format!("{size} is more than physical addresses can name")))
}

/// An amount as people write it: in MiB if it is a whole number of them, or else in KiB.
fn amount(amount: KiB) -> String {
    let kib = amount.count();
    if kib.is_multiple_of(1024) { format!("{} MiB", kib / 1024) } else { format!("{kib} KiB") }
}

/// The same for an amount that can be negative, always with its sign.
fn signed(kib: i64) -> String {
    if kib % 1024 == 0 { format!("{:+} MiB", kib / 1024) } else { format!("{kib:+} KiB") }
}
