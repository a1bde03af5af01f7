//! Figures about the heap, as a value and as a table.

use core::fmt;

use crate::environment::{MAX_NODES, ORDERS, ZONES};
use crate::{Node, Zone};

/// Figures about one zone on one node, in pages unless said otherwise.
///
/// `pages = free + scrub_pending + bad + allocated`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneFigures {
    /// Pages that belong to the zone.
    pub pages: u64,
    /// Free pages, with those in CPUs' caches.
    pub free: u64,
    /// Free pages in CPUs' caches.
    pub cached: u64,
    /// Pages that wait to be cleared.
    pub scrub_pending: u64,
    /// Bad pages that nobody holds.
    pub bad: u64,
    /// Pages that somebody holds.
    pub allocated: u64,
    /// Pages of `allocated` that went bad and will not be handed out again.
    pub failing: u64,
    /// Free blocks (not pages) by order, without what is in CPUs' caches.
    pub free_blocks: [u32; ORDERS],
}

impl ZoneFigures {
    /// Add `other` to each figure.
    pub(crate) fn add(&mut self, other: &Self) {
        self.pages += other.pages;
        self.free += other.free;
        self.cached += other.cached;
        self.scrub_pending += other.scrub_pending;
        self.bad += other.bad;
        self.allocated += other.allocated;
        self.failing += other.failing;
        for (sum, blocks) in self.free_blocks.iter_mut().zip(&other.free_blocks) {
            *sum += blocks;
        }
    }
}

/// Figures about the whole heap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeapFigures {
    pub(crate) zones: [[ZoneFigures; MAX_NODES]; ZONES],
    /// Pages that domains have claimed and not yet got.
    pub claimed: u64,
}

impl HeapFigures {
    /// Figures of `zone` on `node`.
    #[must_use]
    pub fn zone_on(&self, zone: Zone, node: Node) -> ZoneFigures {
        self.zones
            .get(zone.index())
            .and_then(|nodes| nodes.get(node.number()))
            .copied()
            .unwrap_or_default()
    }

    /// Figures of `zone` on all nodes.
    #[must_use]
    pub fn zone(&self, zone: Zone) -> ZoneFigures {
        let mut sum = ZoneFigures::default();
        for figures in self.zones.get(zone.index()).into_iter().flatten() {
            sum.add(figures);
        }
        sum
    }
}

impl fmt::Display for HeapFigures {
    /// One line for each zone and node that has pages, in pages; then the free blocks by order.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "zone node      pages       free     cached   scrubbing        bad  allocated"
        )?;
        for (zone, node, figures) in self.rows() {
            writeln!(
                formatter,
                "{zone:<4} {node:>4} {:>10} {:>10} {:>10}  {:>10} {:>10} {:>10}",
                figures.pages,
                figures.free,
                figures.cached,
                figures.scrub_pending,
                figures.bad,
                figures.allocated,
            )?;
        }
        writeln!(formatter, "zone node  free blocks, as order:number")?;
        for (zone, node, figures) in self.rows() {
            write!(formatter, "{zone:<4} {node:>4} ")?;
            for (order, blocks) in figures.free_blocks.iter().enumerate() {
                if *blocks != 0 {
                    write!(formatter, " {order}:{blocks}")?;
                }
            }
            writeln!(formatter)?;
        }
        write!(formatter, "claimed   {:>10}", self.claimed)
    }
}

impl HeapFigures {
    /// The figures of `zone` on `node`, to be changed.
    pub(crate) fn entry(&mut self, zone: Zone, node: Node) -> Option<&mut ZoneFigures> {
        self.zones.get_mut(zone.index())?.get_mut(node.number())
    }

    /// The zones and nodes that have pages.
    fn rows(&self) -> impl Iterator<Item = (Zone, usize, &ZoneFigures)> {
        Zone::ALL
            .into_iter()
            .zip(&self.zones)
            .flat_map(|(zone, nodes)| {
                nodes.iter().enumerate().map(move |(node, figures)| (zone, node, figures))
            })
            .filter(|(_, _, figures)| figures.pages != 0)
    }
}
