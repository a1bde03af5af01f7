//! The answers as JSON, for scripts. Hides nothing but the names of the keys, each of which ends
//! in its unit.

use serde::Serialize;

use heliox_vm::breakdown::{Block, Bracket, Generation, Kind, Plan, Policy, Shape};
use heliox_vm::units::{KiB, MiB, Pages};

use super::host::{Host, HostDomain, Left};
use super::{Planned, Single};

#[derive(Serialize)]
struct Domain {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: String,
    policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<&'static str>,
    kind: &'static str,
    static_max_kib: u64,
    target_kib: u64,
    video_kib: u64,
    vcpus: u64,
    build_max_mib: u64,
    build_start_mib: u64,
    xen_max_mib: u64,
    shadow_mib: u64,
    overhead_mib: u64,
    footprint_mib: u64,
    claim_pages: u64,
    #[serde(flatten)]
    libxl: Option<Libxl>,
    blocks_kib: Blocks,
}

/// What only libxl knows.
#[derive(Serialize)]
struct Libxl {
    maxmem_kib: u64,
    xenstore_target_kib: u64,
    shadow_kib: u64,
    iommu_kib: u64,
    host_need_kib: u64,
    builder_max_kib: u64,
    builder_target_kib: u64,
    populate_on_demand: bool,
    pod_target_pages: u64,
}

#[derive(Serialize)]
struct Blocks {
    shadow: u64,
    extra_external: u64,
    extra_internal: u64,
    shim: u64,
    video: u64,
    guest: u64,
    balloon: u64,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    domain: Domain,
    #[serde(skip_serializing_if = "Option::is_none")]
    fits: Option<Fits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_set: Option<MemSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_max: Option<MemMax>,
}

#[derive(Serialize)]
struct Fits {
    free_kib: u64,
    largest_static_max_mib: Option<u64>,
    largest_target_mib: Option<u64>,
}

#[derive(Serialize)]
struct Change {
    after: Domain,
    overhead_kib: i64,
    footprint_kib: i64,
}

#[derive(Serialize)]
struct MemSet {
    xenstore_target_kib: u64,
    maxmem_kib: u64,
    pod_target_pages: u64,
}

#[derive(Serialize)]
struct MemMax {
    maxmem_kib: u64,
}

#[derive(Serialize)]
struct HostAnswer {
    memory_kib: u64,
    reserved_kib: u64,
    /// Negative if memory is missing.
    free_kib: i64,
    gamma: f64,
    balanced_free_kib: i64,
    domains: Vec<Member>,
}

#[derive(Serialize)]
struct Member {
    #[serde(flatten)]
    domain: Domain,
    footprint_kib: u64,
    dynamic_min_kib: u64,
    dynamic_max_kib: u64,
    cooperates: bool,
    balanced_target_kib: u64,
    balanced_footprint_kib: u64,
}

fn domain(planned: &Planned) -> Domain {
    let picture = planned.plan.picture();
    let block = |block| picture.block(block).size().count();
    let mib = |bracket| MiB::from_used(picture.span(bracket).size()).count();
    let shape = &planned.shape;
    let build_start = picture.span(Bracket::BuildStart).size();
    Domain {
        name: planned.name.clone(),
        policy: match planned.policy {
            Policy::Xenops { .. } => "xenops",
            Policy::Libxl(_) => "libxl",
        },
        generation: match planned.policy {
            Policy::Xenops { generation: Generation::A, .. } => Some("a"),
            Policy::Xenops { generation: Generation::B, .. } => Some("b"),
            Policy::Xenops { generation: Generation::C, .. } => Some("c"),
            Policy::Libxl(_) => None,
        },
        kind: match shape.kind() {
            Kind::Hvm => "hvm",
            Kind::Pvh => "pvh",
            Kind::Pv => "pv",
            Kind::PvInPvh => "pv-in-pvh",
        },
        static_max_kib: shape.static_max().count(),
        target_kib: shape.target().count(),
        video_kib: shape.video().count(),
        vcpus: shape.vcpus().count(),
        build_max_mib: mib(Bracket::BuildMaximum),
        build_start_mib: mib(Bracket::BuildStart),
        xen_max_mib: mib(Bracket::XenMaximum),
        shadow_mib: MiB::from_used(picture.block(Block::Shadow).size()).count(),
        overhead_mib: mib(Bracket::Overhead),
        footprint_mib: mib(Bracket::Footprint),
        claim_pages: match &planned.plan {
            Plan::Xenops(plan) => plan.claim.count(),
            Plan::Libxl(_) => Pages::from_used(build_start).count(),
        },
        libxl: match &planned.plan {
            Plan::Xenops(_) => None,
            Plan::Libxl(plan) => Some(Libxl {
                maxmem_kib: plan.maxmem.count(),
                xenstore_target_kib: plan.xenstore_target.count(),
                shadow_kib: plan.shadow.count(),
                iommu_kib: plan.iommu.count(),
                host_need_kib: plan.host_need.count(),
                builder_max_kib: plan.builder_max.count(),
                builder_target_kib: plan.builder_target.count(),
                populate_on_demand: plan.populate_on_demand,
                pod_target_pages: plan.pod_target.count(),
            }),
        },
        blocks_kib: Blocks {
            shadow: block(Block::Shadow),
            extra_external: block(Block::ExtraExternal),
            extra_internal: block(Block::ExtraInternal),
            shim: block(Block::Shim),
            video: block(Block::Video),
            guest: block(Block::Guest),
            balloon: block(Block::Balloon),
        },
    }
}

/// One domain.
pub(super) fn single(single: &Single) -> String {
    let mib = |shape: Option<Shape>, amount: fn(&Shape) -> KiB| {
        shape.map(|shape| MiB::from_free(amount(&shape)).count())
    };
    print(&Answer {
        domain: domain(&single.domain),
        fits: single.fits.map(|fits| Fits {
            free_kib: fits.free.count(),
            largest_static_max_mib: mib(fits.largest_domain, Shape::static_max),
            largest_target_mib: mib(fits.largest_target, Shape::target),
        }),
        change: single.change.as_ref().map(|change| Change {
            after: domain(&change.after),
            overhead_kib: change.cost.overhead,
            footprint_kib: change.cost.footprint,
        }),
        mem_set: single.mem_set.map(|set| MemSet {
            xenstore_target_kib: set.xenstore_target.count(),
            maxmem_kib: set.maxmem.count(),
            pod_target_pages: set.pod_target.count(),
        }),
        mem_max: single.mem_max.map(|maxmem| MemMax { maxmem_kib: maxmem.count() }),
    })
}

/// A host.
pub(super) fn host(host: &Host) -> String {
    let left = |left: Left| match left {
        Left::Free(amount) => amount.count().cast_signed(),
        Left::Missing(amount) => -amount.count().cast_signed(),
    };
    let member = |member: &HostDomain| Member {
        domain: domain(&member.now),
        footprint_kib: member.now.plan.footprint().count(),
        dynamic_min_kib: member.dynamic.minimum().count(),
        dynamic_max_kib: member.dynamic.maximum().count(),
        cooperates: member.cooperates,
        balanced_target_kib: member.balanced.shape.target().count(),
        balanced_footprint_kib: member.balanced.plan.footprint().count(),
    };
    print(&HostAnswer {
        memory_kib: host.memory.count(),
        reserved_kib: host.reserved.count(),
        free_kib: left(host.left_now()),
        gamma: f64::from(host.gamma.millionths()) / 1e6,
        balanced_free_kib: left(host.left_balanced()),
        domains: host.domains.iter().map(member).collect(),
    })
}

fn print(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
