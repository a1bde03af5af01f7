//! The answers as text: the picture of a domain's memory in characters, and tables of numbers.
//!
//! Hides how amounts become lines. The picture is to scale, except that every block has at least
//! one line to be named in.

use std::fmt::Write;

use heliox_vm::breakdown::{Block, Bracket, Picture, Plan, Shape};
use heliox_vm::units::KiB;

use super::host::{Host, Left};
use super::{Change, Fits, Planned, Single, amount, signed};

/// Lines for the blocks of a picture, without the lines between them.
const LINES: u64 = 20;
/// Columns inside of a box: a name, a space, an amount.
const BOX_WIDTH: usize = 25;

/// One domain.
pub(super) fn single(single: &Single) -> String {
    let domain = &single.domain;
    let mut text = format!("{}\n{}\n\n", domain.title(), domain.subtitle());
    text += &picture(domain.plan.picture());
    text.push('\n');
    numbers(&mut text, domain);
    if let Some(set) = &single.mem_set {
        row(&mut text, "after mem-set: setmaxmem", amount(set.maxmem));
        row(&mut text, "  xenstore target", amount(set.xenstore_target));
        row(&mut text, "  populate-on-demand target", set.pod_target);
    }
    if let Some(maxmem) = single.mem_max {
        row(&mut text, "after mem-max: setmaxmem", amount(maxmem));
    }
    if let Some(fits) = &single.fits {
        tell_fits(&mut text, fits);
    }
    if let Some(Change { after, cost }) = &single.change {
        let _ = writeln!(text, "\nchanged to {}: {}", after.title(), after.subtitle());
        row(&mut text, "  overhead", change(after.plan.overhead(), cost.overhead));
        row(&mut text, "  footprint", change(after.plan.footprint(), cost.footprint));
    }
    text
}

fn change(after: KiB, by: i64) -> String {
    format!("{} ({})", amount(after), signed(by))
}

fn row(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name:<32} {value}");
}

fn numbers(text: &mut String, domain: &Planned) {
    let picture = domain.plan.picture();
    row(text, "build maximum", amount(picture.span(Bracket::BuildMaximum).size()));
    row(text, "build start", amount(picture.span(Bracket::BuildStart).size()));
    match &domain.plan {
        Plan::Xenops(plan) => {
            row(text, "xen maximum", plan.xen_max);
            row(text, "shadow", plan.shadow);
            row(text, "overhead", plan.overhead);
            row(text, "footprint, required free", plan.footprint);
            row(text, "claimed by the builder", plan.claim);
        }
        Plan::Libxl(plan) => {
            row(text, "xen maximum, setmaxmem", plan.maxmem);
            row(text, "xenstore target", plan.xenstore_target);
            row(text, "populate-on-demand target", plan.pod_target);
            row(text, "shadow", plan.shadow);
            row(text, "page tables of devices", plan.iommu);
            row(text, "overhead", domain.plan.overhead());
            row(text, "footprint, host need", plan.host_need);
        }
    }
}

fn tell_fits(text: &mut String, fits: &Fits) {
    let _ = writeln!(text, "\nin {} of free memory", amount(fits.free));
    let largest = |shape: Option<Shape>, size: fn(&Shape) -> KiB| {
        shape.map_or_else(|| "none fits".to_owned(), |shape| amount(size(&shape)))
    };
    row(text, "  largest domain", largest(fits.largest_domain, Shape::static_max));
    row(text, "  largest target", largest(fits.largest_target, Shape::target));
}

/// The lines of a picture: each block's first line, and how many it has.
struct Layout<'p> {
    picture: &'p Picture,
    /// Blocks that are not empty, with the line of their upper border and their lines.
    blocks: Vec<(Block, usize, usize)>,
    /// The line of the lowest border.
    last: usize,
}

impl<'p> Layout<'p> {
    fn new(picture: &'p Picture) -> Self {
        let total = u128::from(picture.total().count().max(1));
        let mut blocks = Vec::new();
        let mut line = 0;
        for block in Block::ALL {
            let size = u128::from(picture.block(block).size().count());
            if size == 0 {
                continue;
            }
            let lines = (size * u128::from(LINES) + total / 2) / total;
            let lines = usize::try_from(lines).unwrap_or(1).max(1);
            blocks.push((block, line, lines));
            line += lines + 1;
        }
        Self { picture, blocks, last: line }
    }

    /// The line at which an amount from the top of the picture is.
    fn line(&self, offset: KiB) -> usize {
        for (block, border, lines) in &self.blocks {
            let span = self.picture.block(*block);
            if offset == span.start() {
                return *border;
            }
            if offset < span.end() {
                let inside = u128::from(offset.saturating_sub(span.start()).count());
                let size = u128::from(span.size().count());
                let below = usize::try_from(inside * *lines as u128 / size).unwrap_or(0);
                return border + 1 + below.min(lines - 1);
            }
        }
        self.last
    }

    /// The boxes, line by line.
    fn boxes(&self) -> Vec<String> {
        let border = |left: char, line: &str, right: char| {
            format!("{left}{}{right}", line.repeat(BOX_WIDTH))
        };
        let mut rows = Vec::new();
        for (place, (block, _, lines)) in self.blocks.iter().enumerate() {
            rows.push(match (place, block) {
                (0, _) => border('╔', "═", '╗'),
                // The one border that memory moves across.
                (_, Block::Balloon) => border('╟', "─", '╢'),
                _ => border('╠', "═", '╣'),
            });
            for line in 0..*lines {
                let label = if line == (lines - 1) / 2 {
                    let size = amount(self.picture.block(*block).size());
                    format!("{block:<14} {size:>width$}", width = BOX_WIDTH - 17)
                } else {
                    String::new()
                };
                rows.push(format!("║ {label:<width$} ║", width = BOX_WIDTH - 2));
            }
        }
        rows.push(border('╚', "═", '╝'));
        rows
    }
}

/// A column of brackets: what it shows on each line, without its words.
struct Column {
    marks: Vec<char>,
    words: Vec<String>,
}

impl Column {
    fn new(lines: usize) -> Self {
        Self { marks: vec![' '; lines], words: vec![String::new(); lines] }
    }

    fn add(&mut self, layout: &Layout, bracket: Bracket) {
        let span = layout.picture.span(bracket);
        if span.size() == KiB::ZERO {
            return;
        }
        let (first, last) = (layout.line(span.start()), layout.line(span.end()));
        for line in first..=last {
            self.marks[line] = match (line == first, line == last, self.marks[line]) {
                (true, _, '╧') => '╪',
                (true, ..) => '╤',
                (_, true, _) => '╧',
                _ => '│',
            };
        }
        let name = bracket.to_string();
        let words: Vec<_> = name.split(' ').collect();
        let middle = usize::midpoint(first, last + 1);
        let first = middle.saturating_sub(words.len() / 2);
        let first = first.min(self.words.len().saturating_sub(words.len()));
        for (place, word) in self.words.iter_mut().skip(first).zip(words) {
            word.clone_into(place);
        }
    }

    fn width(&self) -> usize {
        self.words.iter().map(String::len).max().unwrap_or(0)
    }
}

/// The picture of a domain's memory.
pub(super) fn picture(picture: &Picture) -> String {
    let layout = Layout::new(picture);
    let boxes = layout.boxes();
    let mut left = Column::new(boxes.len());
    left.add(&layout, Bracket::Overhead);
    left.add(&layout, Bracket::StaticMaximum);
    let right = [
        Bracket::BuildMaximum,
        Bracket::BuildStart,
        Bracket::Actual,
        Bracket::XenMaximum,
        Bracket::Footprint,
    ]
    .map(|bracket| {
        let mut column = Column::new(boxes.len());
        column.add(&layout, bracket);
        column
    });
    let mut text = String::new();
    for (line, row) in boxes.iter().enumerate() {
        let mut whole = format!(
            "{:>width$} {} {row}",
            left.words[line],
            left.marks[line],
            width = left.width()
        );
        for column in &right {
            let width = column.width();
            whole += &format!(" {} {:<width$}", column.marks[line], column.words[line]);
        }
        text += whole.trim_end();
        text.push('\n');
    }
    text
}

/// A host: a table of its domains, before and after balancing.
pub(super) fn host(host: &Host) -> String {
    let mut rows = vec![
        ["domain", "kind", "target", "footprint", "dynamic range", "balanced", "footprint"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for domain in &host.domains {
        let (minimum, maximum) = (domain.dynamic.minimum(), domain.dynamic.maximum());
        rows.push(vec![
            domain.now.name.clone(),
            domain.now.shape.kind().to_string(),
            amount(domain.now.shape.target()),
            amount(domain.now.plan.footprint()),
            match (domain.cooperates, minimum == maximum) {
                (false, _) => "left out".to_owned(),
                (true, true) => "fixed".to_owned(),
                (true, false) => format!("{} to {}", amount(minimum), amount(maximum)),
            },
            amount(domain.balanced.shape.target()),
            amount(domain.balanced.plan.footprint()),
        ]);
    }
    let mut text = format!("host with {}", amount(host.memory));
    if host.reserved > KiB::ZERO {
        let _ = write!(text, ", of which {} are reserved", amount(host.reserved));
    }
    text.push_str("\n\n");
    text += &table(&rows);
    let left = |left: Left| match left {
        Left::Free(size) => format!("{} free", amount(size)),
        Left::Missing(size) => format!("{} missing", amount(size)),
    };
    let _ = writeln!(text, "\nnow       {}", left(host.left_now()));
    let balanced = left(host.left_balanced());
    let _ = writeln!(text, "balanced  {balanced}, gamma {}", host.gamma);
    text += "\n          0                                                          memory\n";
    text += &bar(host, "now", |domain| &domain.now);
    text += &bar(host, "balanced", |domain| &domain.balanced);
    let names = host.domains.iter().zip(letters());
    let names = names.map(|(domain, letter)| format!("{letter} {}", domain.now.name));
    let reserved = (host.reserved > KiB::ZERO).then(|| "# reserved".to_owned());
    let legend: Vec<_> = reserved.into_iter().chain(names).chain([". free".to_owned()]).collect();
    let _ = writeln!(text, "\n          {}", legend.join(", "));
    text
}

/// Letters for domains, over and over.
fn letters() -> impl Iterator<Item = char> {
    ('A'..='Z').chain('a'..='z').cycle()
}

/// The host's memory as one line, to scale.
fn bar(host: &Host, title: &str, which: impl Fn(&super::host::HostDomain) -> &Planned) -> String {
    const WIDTH: u128 = 64;
    let reserved = (host.reserved, '#');
    let domains = host.domains.iter().zip(letters());
    let domains = domains.map(|(domain, letter)| (which(domain).plan.footprint(), letter));
    let parts: Vec<_> = std::iter::once(reserved).chain(domains).collect();
    let used = parts.iter().fold(0, |sum, (size, _)| sum + u128::from(size.count()));
    // If memory is missing, the bar is as long as what is needed.
    let total = used.max(u128::from(host.memory.count())).max(1);
    let column = |amount: u128| usize::try_from((amount * WIDTH + total / 2) / total).unwrap_or(0);
    let (mut text, mut end) = (String::new(), 0);
    for (size, letter) in parts {
        let start = column(end);
        end += u128::from(size.count());
        text.extend(std::iter::repeat_n(letter, column(end) - start));
    }
    let mut cells: Vec<char> = text.chars().collect();
    cells.resize(usize::try_from(WIDTH).unwrap_or(0), '.');
    let limit = column(u128::from(host.memory.count()));
    let (inside, beyond) = cells.split_at(limit.min(cells.len()));
    let beyond: String = beyond.iter().collect();
    let mark = if beyond.is_empty() { String::new() } else { format!("!{beyond}") };
    format!("{title:<9} [{}]{mark}\n", inside.iter().collect::<String>())
}

/// Columns, each as wide as its widest cell; the first two to the left, the rest to the right.
fn table(rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len))
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (place, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match place {
                0 | 1 => write!(line, "{cell:<width$}  "),
                _ => write!(line, "{cell:>width$}  "),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
