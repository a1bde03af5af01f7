//! The breakdown of libxl, the library behind Xen's own tools.
//!
//! Hides libxl's constants and where each applies. All of it is reckoned in KiB. Its limit on
//! what a domain may own follows the target, where xenops' follows the static maximum: with
//! populate-on-demand a domain owns exactly its target, populated or waiting, so libxl's limit
//! holds it there, and xenops' lets a guest grow past its target until someone lowers the limit.

use super::picture::{Amounts, Bracket, Picture};
use super::{Kind, PlanError, Shape};
use crate::units::{KiB, Pages};

/// What is accounted to a domain beside its target (`LIBXL_MAXMEM_CONSTANT`), in KiB.
const EXTRA_INTERNAL: u64 = 1024;
/// What the host needs for a domain beside target, shadow and tables of devices
/// (`LIBXL_HVM_EXTRA_MEMORY`, `LIBXL_PV_EXTRA_MEMORY`), in KiB.
const EXTRA_HVM: u64 = 2048;
const EXTRA_PV: u64 = 1024;
/// What an HVM guest is told less than it has while it is populated on demand, so that it
/// balloons down to where nothing is missing, in KiB.
const TOLD_LESS: u64 = 1024;
/// What a host's need rounds up to, in KiB: pages of 2 MiB.
const NEED_GRANULE: u64 = 2048;

/// The emulated video adapter of an HVM domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VideoAdapter {
    /// None.
    None,
    /// Cirrus Logic GD 5446.
    #[default]
    Cirrus,
    /// The Bochs display with VESA modes.
    Stdvga,
}

impl VideoAdapter {
    /// The least video memory that it works with, which is also what it gets if nothing is said.
    #[must_use]
    pub const fn least(self) -> KiB {
        let kib = match self {
            Self::None => KiB::new(0),
            Self::Cirrus => KiB::new(8 * 1024),
            Self::Stdvga => KiB::new(16 * 1024),
        };
        match kib {
            Some(amount) => amount,
            // Not reached: all three are far below the largest amount.
            None => KiB::MAX,
        }
    }
}

/// What devices given to the domain translate their addresses with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Passthrough {
    /// No device is given to the domain.
    #[default]
    None,
    /// With the same tables as the processors.
    SharedTables,
    /// With tables of their own.
    OwnTables,
}

/// Options that only libxl asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether the processor translates the guest's addresses (hardware-assisted paging). A PV
    /// domain does without, whatever is said here.
    pub hap: bool,
    /// Whether devices are given to the domain.
    pub passthrough: Passthrough,
    /// The video adapter; of an HVM domain only.
    pub adapter: VideoAdapter,
}

impl Default for Options {
    fn default() -> Self {
        Self { hap: true, passthrough: Passthrough::None, adapter: VideoAdapter::default() }
    }
}

/// The breakdown of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the hypervisor lets the domain own (`setmaxmem`).
    pub maxmem: KiB,
    /// The target that the guest finds in xenstore.
    pub xenstore_target: KiB,
    /// The paging pool.
    pub shadow: KiB,
    /// Page tables of devices.
    pub iommu: KiB,
    /// What has to be free on the host to start the domain.
    pub host_need: KiB,
    /// What the builder lays out.
    pub builder_max: KiB,
    /// What the builder populates.
    pub builder_target: KiB,
    /// Whether the rest is populated on demand.
    pub populate_on_demand: bool,
    /// The populate-on-demand target that belongs to the target, as [`mem_set`] would set it;
    /// nothing for a domain that cannot be populated on demand.
    pub pod_target: Pages,
    /// The blocks.
    pub picture: Picture,
}

/// What `mem-set` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemSet {
    /// The target that the guest finds in xenstore afterwards.
    pub xenstore_target: KiB,
    /// What the hypervisor lets the domain own afterwards.
    pub maxmem: KiB,
    /// The populate-on-demand target afterwards.
    pub pod_target: Pages,
}

/// The breakdown of `shape`.
///
/// # Errors
/// [`PlanError::NotInLibxl`]; [`PlanError::VideoTooSmall`];
/// [`PlanError::TargetTooSmall`] if an HVM guest would be told that it has nothing;
/// [`PlanError::TooLarge`].
pub fn plan(shape: &Shape, options: &Options) -> Result<Plan, PlanError> {
    let kind = shape.kind();
    if kind == Kind::PvInPvh {
        return Err(PlanError::NotInLibxl { kind });
    }
    let least = options.adapter.least();
    if kind == Kind::Hvm && shape.video() < least {
        return Err(PlanError::VideoTooSmall { video: shape.video(), least });
    }
    let [static_max, target, video] =
        [shape.static_max(), shape.target(), shape.video()].map(KiB::count);
    let builder_target = target - video;
    let populate_on_demand = kind.can_populate_on_demand() && static_max > target;
    let told_less = if kind == Kind::Hvm && static_max > target { TOLD_LESS } else { 0 };
    if builder_target <= told_less {
        let least = kib(video + told_less + 1)?;
        return Err(PlanError::TargetTooSmall { target: shape.target(), least });
    }
    let shadow = shadow(shape, options.hap);
    let iommu = match options.passthrough {
        Passthrough::None | Passthrough::SharedTables => 0,
        Passthrough::OwnTables => device_tables(static_max),
    };
    let extra = if kind == Kind::Pv { EXTRA_PV } else { EXTRA_HVM };
    let host_need = (target + shadow + iommu + extra).next_multiple_of(NEED_GRANULE);
    let picture = Picture::new(&Amounts {
        shadow: kib(shadow)?,
        // What is left of the host's need, and so with the tables of devices and the rounding.
        extra_external: kib(host_need - target - shadow - EXTRA_INTERNAL)?,
        extra_internal: kib(EXTRA_INTERNAL)?,
        shim: KiB::ZERO,
        video: shape.video(),
        guest: kib(builder_target)?,
        balloon: kib(static_max - target)?,
        shim_at_start: KiB::ZERO,
        all_at_start: false,
        limit_is_static: false,
    })?;
    Ok(Plan {
        maxmem: picture.span(Bracket::XenMaximum).size(),
        xenstore_target: kib(builder_target - told_less)?,
        shadow: kib(shadow)?,
        iommu: kib(iommu)?,
        host_need: kib(host_need)?,
        builder_max: picture.span(Bracket::BuildMaximum).size(),
        builder_target: picture.span(Bracket::BuildStart).size(),
        populate_on_demand,
        pod_target: pod_target(shape)?,
        picture,
    })
}

/// What `mem-set` changes when it gives the domain `target`, which counts its video memory.
///
/// # Errors
/// [`PlanError::TargetAboveMaximum`], [`PlanError::TargetTooSmall`].
pub fn mem_set(shape: &Shape, target: KiB) -> Result<MemSet, PlanError> {
    let shape = shape.with_target(target)?;
    Ok(MemSet {
        xenstore_target: target.saturating_sub(shape.video()),
        maxmem: mem_max(target)?,
        pod_target: pod_target(&shape)?,
    })
}

/// What the hypervisor lets a domain own after `mem-max` raised or lowered its maximum to `amount`.
///
/// # Errors
/// [`PlanError::TooLarge`].
pub fn mem_max(amount: KiB) -> Result<KiB, PlanError> {
    kib(amount.count() + EXTRA_INTERNAL)
}

/// The populate-on-demand target that belongs to the target.
fn pod_target(shape: &Shape) -> Result<Pages, PlanError> {
    if !shape.kind().can_populate_on_demand() {
        return Ok(Pages::ZERO);
    }
    let amount = shape.target().count() - shape.video().count() + EXTRA_INTERNAL;
    kib(amount).map(Pages::from_free)
}

/// The paging pool: a MiB for each virtual CPU, a page for each MiB of memory to keep the
/// processor's or the hypervisor's tables in, and another to find their users.
fn shadow(shape: &Shape, hap: bool) -> u64 {
    let is_pv = shape.kind() == Kind::Pv;
    let pages_per_mib = u64::from(!is_pv) + u64::from(is_pv || !hap);
    4 * (256 * shape.vcpus().count() + pages_per_mib * (shape.static_max().count() / 1024))
}

/// Four levels of tables with 512 entries over `memory`, each level in whole pages; in KiB.
fn device_tables(memory: u64) -> u64 {
    let mut below = memory / 4;
    let mut pages = 0;
    for _ in 0..4 {
        below = below.div_ceil(512);
        pages += below;
    }
    pages * 4
}

fn kib(count: u64) -> Result<KiB, PlanError> {
    KiB::new(count).ok_or(PlanError::TooLarge)
}
