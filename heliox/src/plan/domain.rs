//! The options of a domain and of a policy, as the command line and host files give them.
//!
//! Hides defaults and names. Invariant: whatever comes out is a plan of `heliox-vm`; nothing is
//! reckoned here.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer};

use heliox_vm::breakdown::libxl::{self, Passthrough, VideoAdapter};
use heliox_vm::breakdown::{Generation, Kind, Multiplier, PlanError, Policy, Shape, VirtualCpus};
use heliox_vm::units::{KiB, MiB};

use super::Planned;
use crate::size::Size;

/// `--kind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KindName {
    /// Hardware virtualisation with emulated devices
    Hvm,
    /// Hardware virtualisation without emulated devices
    #[default]
    Pvh,
    /// Paravirtualised
    #[value(alias = "linux")]
    #[serde(alias = "linux")]
    Pv,
    /// Paravirtualised, on a shim in a PVH domain
    PvInPvh,
}

/// `--generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum GenerationName {
    /// OpenXT's xenops
    #[serde(alias = "A")]
    A,
    /// xapi, when PV-in-PVH was new
    #[serde(alias = "B")]
    B,
    /// Today's xapi
    #[serde(alias = "C")]
    C,
}

/// `--policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PolicyName {
    /// The library behind Xen's own tools
    #[default]
    Libxl,
    /// xenops and xapi; generation C unless --generation says otherwise
    Xenops,
}

/// `--video-adapter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AdapterName {
    /// No adapter
    None,
    /// Cirrus Logic, at least 8 MiB
    #[default]
    Cirrus,
    /// Standard VGA, at least 16 MiB
    Stdvga,
}

/// `--passthrough`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PassthroughName {
    /// No devices
    #[default]
    None,
    /// Devices with page tables of their own
    Own,
    /// Devices that share the processors' page tables
    Shared,
}

/// Whose formulas.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct PolicyOptions {
    /// Whose formulas [default: libxl, or xenops with --generation]
    #[arg(long, value_enum)]
    policy: Option<PolicyName>,
    /// Which generation of xenops' formulas
    #[arg(long, value_enum, ignore_case = true)]
    generation: Option<GenerationName>,
}

impl PolicyOptions {
    /// `self` where it says something, or else `other`.
    pub(super) fn or(&self, other: &Self) -> Self {
        if self.policy.is_some() || self.generation.is_some() { self } else { other }.clone()
    }

    /// The generation, or `None` for libxl.
    fn generation(&self) -> Result<Option<Generation>, DomainError> {
        let generation = self.generation.map(|name| match name {
            GenerationName::A => Generation::A,
            GenerationName::B => Generation::B,
            GenerationName::C => Generation::C,
        });
        match (self.policy, generation) {
            (Some(PolicyName::Libxl), Some(_)) => Err(DomainError::Generation),
            (Some(PolicyName::Xenops), None) => Ok(Some(Generation::C)),
            (_, generation) => Ok(generation),
        }
    }
}

/// A domain, as it is written down.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[group(id = "domain", multiple = true)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct DomainOptions {
    /// How the domain is virtualised (`linux` is `pv`)
    #[arg(long, value_enum, default_value = "pvh")]
    kind: KindName,
    /// The most memory that it can have
    #[arg(long, value_name = "SIZE", required_unless_present = "host")]
    static_max: Option<Size>,
    /// The memory that it is to have [default: the static maximum]
    #[arg(long, value_name = "SIZE")]
    target: Option<Size>,
    /// Video memory, which is part of both [default: for HVM, what the policy gives; else none]
    #[arg(long, value_name = "SIZE")]
    video: Option<Size>,
    /// The video adapter of an HVM domain; libxl's only [default: cirrus]
    #[arg(long, value_enum)]
    video_adapter: Option<AdapterName>,
    /// Number of virtual CPUs [default: 1]
    #[arg(long, value_name = "N")]
    vcpus: Option<u16>,
    /// What shadow memory is multiplied with; xenops' only [default: 1]
    #[arg(long, value_name = "NUMBER")]
    #[serde(deserialize_with = "multiplier")]
    shadow_multiplier: Option<Multiplier>,
    /// Without hardware-assisted paging; libxl's only
    #[arg(long)]
    no_hap: bool,
    /// Devices are given to the domain; libxl's only [alone: with page tables of their own]
    #[arg(
        long, value_enum, value_name = "TABLES", num_args = 0..=1, require_equals = true,
        default_missing_value = "own"
    )]
    passthrough: Option<PassthroughName>,
    /// In host files: what it is called.
    #[arg(skip)]
    pub(super) name: Option<String>,
    /// In host files: how far it can shrink.
    #[arg(skip)]
    pub(super) dynamic_min: Option<Size>,
    /// In host files: how far it can grow.
    #[arg(skip)]
    pub(super) dynamic_max: Option<Size>,
    /// In host files: it does not do what the balancer asks.
    #[arg(skip)]
    pub(super) uncooperative: bool,
}

/// A multiplier in TOML: a number, or a text with one.
fn multiplier<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<Multiplier>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Integer(i64),
        Fraction(f64),
        Text(String),
    }
    let text = match Written::deserialize(deserializer)? {
        Written::Integer(number) => number.to_string(),
        Written::Fraction(number) => number.to_string(),
        Written::Text(text) => text,
    };
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Why there is no plan for a domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DomainError {
    #[error("{0}")]
    Plan(PlanError),
    #[error("{option}, {size}, is more than physical addresses can name")]
    TooLarge { option: &'static str, size: Size },
    #[error("a domain has 1 to {most} virtual CPUs, not {0}", most = VirtualCpus::MAX.count())]
    VirtualCpus(u16),
    #[error("libxl has no generations: leave out the policy or the generation")]
    Generation,
    #[error("the static maximum is missing")]
    NoStaticMax,
    #[error("{option} is for {of} only")]
    Foreign { option: &'static str, of: &'static str },
}

impl DomainOptions {
    /// The domain's breakdown.
    pub(super) fn plan(&self, options: &PolicyOptions) -> Result<Planned, DomainError> {
        let policy = self.policy(options)?;
        let static_max = self.static_max.ok_or(DomainError::NoStaticMax)?;
        let kind = match self.kind {
            KindName::Hvm => Kind::Hvm,
            KindName::Pvh => Kind::Pvh,
            KindName::Pv => Kind::Pv,
            KindName::PvInPvh => Kind::PvInPvh,
        };
        let video = match self.video {
            Some(size) => used("the video memory", size)?,
            None => default_video(kind, &policy),
        };
        let vcpus = self.vcpus.unwrap_or(1);
        let vcpus = VirtualCpus::new(vcpus).ok_or(DomainError::VirtualCpus(vcpus))?;
        let static_max = used("the static maximum", static_max)?;
        let target = match self.target {
            Some(size) => used("the target", size)?,
            None => static_max,
        };
        let shape =
            Shape::new(kind, static_max, target, video, vcpus).map_err(DomainError::Plan)?;
        let plan = policy.plan(&shape).map_err(DomainError::Plan)?;
        Ok(Planned { name: self.name.clone().unwrap_or_default(), policy, shape, plan })
    }

    fn policy(&self, options: &PolicyOptions) -> Result<Policy, DomainError> {
        let foreign = |option, is_given, of| match is_given {
            true => Err(DomainError::Foreign { option, of }),
            false => Ok(()),
        };
        let Some(generation) = options.generation()? else {
            foreign("a shadow multiplier", self.shadow_multiplier.is_some(), "xenops")?;
            return Ok(Policy::Libxl(libxl::Options {
                hap: !self.no_hap,
                passthrough: match self.passthrough.unwrap_or_default() {
                    PassthroughName::None => Passthrough::None,
                    PassthroughName::Own => Passthrough::OwnTables,
                    PassthroughName::Shared => Passthrough::SharedTables,
                },
                adapter: match self.video_adapter.unwrap_or_default() {
                    AdapterName::None => VideoAdapter::None,
                    AdapterName::Cirrus => VideoAdapter::Cirrus,
                    AdapterName::Stdvga => VideoAdapter::Stdvga,
                },
            }));
        };
        foreign("a video adapter", self.video_adapter.is_some(), "libxl")?;
        foreign("paging without hardware", self.no_hap, "libxl")?;
        foreign("passthrough", self.passthrough.is_some(), "libxl")?;
        let shadow_multiplier = self.shadow_multiplier.unwrap_or(Multiplier::ONE);
        Ok(Policy::Xenops { generation, shadow_multiplier })
    }

    /// Change one option, given as `name=value` with its name on the command line.
    pub(super) fn assign(
        &mut self,
        policy: &mut PolicyOptions,
        assignment: &str,
    ) -> Result<(), String> {
        let (name, value) = assignment.split_once('=').ok_or_else(|| {
            format!("`{assignment}` is no change: write an option, = and its value")
        })?;
        let size = || value.parse::<Size>().map(Some).map_err(|why| why.to_string());
        let wrong = |what: &str| format!("`{value}` is not {what}");
        match name {
            "static-max" => self.static_max = size()?,
            "target" => self.target = size()?,
            "video" => self.video = size()?,
            "vcpus" => self.vcpus = Some(value.parse().map_err(|_| wrong("a number of CPUs"))?),
            "shadow-multiplier" => {
                self.shadow_multiplier =
                    Some(value.parse().map_err(|why| format!("`{value}` is {why}"))?);
            }
            "kind" => self.kind = KindName::from_str(value, true).map_err(|_| wrong("a kind"))?,
            "generation" => {
                let name = GenerationName::from_str(value, true);
                policy.generation = Some(name.map_err(|_| wrong("a generation"))?);
            }
            _ => return Err(format!("`{name}` is no option whose change can be told")),
        }
        Ok(())
    }
}

/// The video memory of a domain for which none was said.
fn default_video(kind: Kind, policy: &Policy) -> KiB {
    let mib = |count| MiB::new(count).map(KiB::from).unwrap_or_default();
    match (kind, policy) {
        (Kind::Hvm, Policy::Libxl(options)) => options.adapter.least(),
        // OpenXT's is what its device model maps; xapi's is the default of `videoram`.
        (Kind::Hvm, Policy::Xenops { generation: Generation::A, .. }) => mib(16),
        (Kind::Hvm, Policy::Xenops { .. }) => mib(4),
        _ => KiB::ZERO,
    }
}

pub(super) fn used(option: &'static str, size: Size) -> Result<KiB, DomainError> {
    KiB::from_used_bytes(size.bytes()).ok_or(DomainError::TooLarge { option, size })
}
