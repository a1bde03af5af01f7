//! The breakdown of xenops and xapi, in three generations.
//!
//! Hides the constants of each generation and how they combine. All of it is reckoned in whole
//! MiB. Generation A is OpenXT's `xenops/memory.ml` (Philipson, *VM Memory Layout*, 2016), B and
//! C are the xapi project's module of the same name, B before and C after it counted memory for
//! each virtual CPU.

use core::fmt;

use super::picture::{Amounts, Picture};
use super::{Kind, Multiplier, PlanError, Shape};
use crate::units::{KiB, MiB, Pages};

/// A generation of xenops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// OpenXT's.
    A,
    /// xapi's, when PV-in-PVH was new.
    B,
    /// Today's xapi's.
    C,
}

impl fmt::Display for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
        })
    }
}

/// Pages that the paging pool has for each virtual CPU, and in one MiB.
const SHADOW_PAGES_PER_VCPU: u64 = 256;
/// Pages of the paging pool for each MiB of the static maximum.
const SHADOW_PAGES_PER_MIB: u64 = 2;
/// Pages that generation C counts for each virtual CPU's own structures.
const EXTERNAL_PAGES_PER_VCPU: u64 = 38;
const PAGES_PER_MIB: u64 = super::ONE_MIB.pages().count();

/// The constants of one kind of domain in one generation, in MiB.
struct Model {
    extra_internal: u64,
    extra_external: u64,
    /// The shim takes this much, and one MiB for each so many of the domain's; `None` without one.
    shim: Option<(u64, u64)>,
    /// Whether everything is populated when the domain is built.
    all_at_start: bool,
}

impl Model {
    const fn of(generation: Generation, kind: Kind) -> Option<Self> {
        let (extra_external, all_at_start) = (1, false);
        Some(match (kind, generation) {
            (Kind::Hvm | Kind::Pvh, _) => {
                Self { extra_internal: 1, extra_external, shim: None, all_at_start }
            }
            (Kind::Pv, _) => Self { extra_internal: 0, extra_external, shim: None, all_at_start },
            (Kind::PvInPvh, Generation::A) => return None,
            (Kind::PvInPvh, Generation::B) => {
                let shim = Some((20, 110));
                Self { extra_internal: 1, extra_external, shim, all_at_start: true }
            }
            (Kind::PvInPvh, Generation::C) => {
                let shim = Some((23, 90));
                Self { extra_internal: 1, extra_external, shim, all_at_start }
            }
        })
    }

    /// The shim's memory for `amount` of the domain's.
    const fn shim(&self, amount: u64) -> u64 {
        match self.shim {
            Some((base, per)) => base + amount / per,
            None => 0,
        }
    }
}

/// The breakdown of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the builder lays out.
    pub build_max: MiB,
    /// What the builder populates.
    pub build_start: MiB,
    /// What the hypervisor lets the domain own.
    pub xen_max: MiB,
    /// The paging pool.
    pub shadow: MiB,
    /// What the domain needs beside its target.
    pub overhead: MiB,
    /// What has to be free on the host to start it.
    pub footprint: MiB,
    /// What the builder claims before it begins, so that it cannot fail half way.
    pub claim: Pages,
    /// The blocks.
    pub picture: Picture,
}

/// The breakdown of `shape` by the formulas of `generation`.
///
/// # Errors
/// [`PlanError::NotInGeneration`]; [`PlanError::TargetTooSmall`] if the target has no whole MiB
/// beside the video memory; [`PlanError::TooLarge`].
pub fn plan(
    generation: Generation,
    shape: &Shape,
    shadow_multiplier: Multiplier,
) -> Result<Plan, PlanError> {
    let kind = shape.kind();
    let Some(model) = Model::of(generation, kind) else {
        return Err(PlanError::NotInGeneration { kind, generation });
    };
    let [static_max, target, video] = [shape.static_max(), shape.target(), shape.video()]
        .map(|amount| MiB::from_used(amount).count());
    if target <= video {
        let least = mib(video + 1)?;
        return Err(PlanError::TargetTooSmall { target: shape.target(), least: least.into() });
    }
    let vcpus = shape.vcpus().count();
    let pages = SHADOW_PAGES_PER_VCPU * vcpus + SHADOW_PAGES_PER_MIB * static_max;
    let shadow = shadow_multiplier.times(pages.div_ceil(PAGES_PER_MIB)).max(1);
    let (shim, shim_at_start) = (model.shim(static_max), model.shim(target));
    let per_vcpu = match generation {
        Generation::A | Generation::B => 0,
        Generation::C => (EXTERNAL_PAGES_PER_VCPU * vcpus).div_ceil(PAGES_PER_MIB),
    };
    let extra_external = model.extra_external + per_vcpu;
    let build_max = static_max - video + shim;
    let build_start = if model.all_at_start { build_max } else { target - video + shim_at_start };
    let overhead = model.extra_internal + extra_external + shadow + shim;
    let picture = Picture::new(&Amounts {
        shadow: kib(shadow)?,
        extra_external: kib(extra_external)?,
        extra_internal: kib(model.extra_internal)?,
        shim: kib(shim)?,
        video: kib(video)?,
        guest: kib(target - video)?,
        balloon: kib(static_max - target)?,
        shim_at_start: kib(shim_at_start)?,
        all_at_start: model.all_at_start,
        limit_is_static: true,
    })?;
    let build_start = mib(build_start)?;
    Ok(Plan {
        build_max: mib(build_max)?,
        build_start,
        xen_max: mib(static_max + model.extra_internal + shim)?,
        shadow: mib(shadow)?,
        overhead: mib(overhead)?,
        footprint: mib(target + overhead)?,
        claim: build_start.pages(),
        picture,
    })
}

fn mib(count: u64) -> Result<MiB, PlanError> {
    MiB::new(count).ok_or(PlanError::TooLarge)
}

fn kib(count: u64) -> Result<KiB, PlanError> {
    mib(count).map(KiB::from)
}
