//! The picture of a domain's memory as an SVG file, to scale, with its brackets; and that of a
//! host before and after balancing.
//!
//! Hides the layout. Heights are amounts, by one scale per file, and exact; what is too small to be
//! written into gets its name beside it.

use std::fmt::Write;

use heliox_vm::breakdown::{Block, Bracket, Picture, Span};
use heliox_vm::units::KiB;

use super::host::{Host, HostDomain, Left};
use super::{Planned, amount};

/// Where the picture begins below titles, and how high it is.
const TOP: f64 = 118.0;
const HEIGHT: f64 = 600.0;
/// Height of a line of small text.
const LINE: f64 = 19.0;
/// Width of a character of small text, about.
const CHARACTER: f64 = 7.0;

const INK: &str = "#1f2937";
const FAINT: &str = "#d1d5db";
const ALARM: &str = "#b91c1c";

/// A file in the making.
struct Drawing {
    body: String,
    width: f64,
    height: f64,
}

impl Drawing {
    fn new(width: f64, height: f64) -> Self {
        Self { body: String::new(), width, height }
    }

    fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, style: &str) {
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}" {style}/>"#
        );
    }

    /// A line through `points`.
    fn line(&mut self, points: &[(f64, f64)], style: &str) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect();
        let points = points.join(" ");
        let _ = writeln!(self.body, r#"<polyline points="{points}" fill="none" {style}/>"#);
    }

    fn text(&mut self, x: f64, y: f64, style: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(self.body, r#"<text x="{x:.2}" y="{y:.2}" {style}>{text}</text>"#);
    }

    /// Text that reads upwards, with its middle (or, by `anchor`, an end) at a point.
    fn upright(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.body,
            r#"<text transform="translate({x:.2} {y:.2}) rotate(-90)" text-anchor="{anchor}">{text}</text>"#
        );
    }

    fn title(&mut self, title: &str, subtitle: &str) {
        self.text(40.0, 44.0, r#"font-size="22" font-weight="bold""#, title);
        self.text(40.0, 70.0, r##"fill="#4b5563""##, subtitle);
    }

    fn finish(self) -> String {
        let Self { body, width, height } = self;
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="'DejaVu Sans', Verdana, Arial, sans-serif" font-size="13" fill="{INK}">
<defs>
<pattern id="hatch" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="8" height="8" fill="#eff6ff"/><rect width="2" height="8" fill="#bfdbfe"/></pattern>
<pattern id="free" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="8" height="8" fill="#ffffff"/><rect width="1" height="8" fill="#e5e7eb"/></pattern>
</defs>
<rect width="{width}" height="{height}" fill="#ffffff"/>
{body}</svg>
"##
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// From amounts to heights.
#[derive(Clone, Copy)]
struct Scale {
    per_kib: f64,
}

impl Scale {
    fn new(total: KiB) -> Self {
        Self { per_kib: HEIGHT / total.count().max(1) as f64 }
    }

    fn height(self, amount: KiB) -> f64 {
        amount.count() as f64 * self.per_kib
    }

    fn y(self, offset: KiB) -> f64 {
        TOP + self.height(offset)
    }

    /// A bar as high as a round amount, about a fifth of the whole.
    fn draw(self, drawing: &mut Drawing, total: KiB) {
        let mut size = 1;
        while size * 8 <= total.count() {
            size *= 2;
        }
        let size = KiB::new(size).unwrap_or_default();
        let (x, bottom) = (56.0, TOP + HEIGHT);
        let top = bottom - self.height(size);
        let style = format!(r#"stroke="{INK}" stroke-width="1.5""#);
        let points = [
            (x - 5.0, top),
            (x + 5.0, top),
            (x, top),
            (x, bottom),
            (x - 5.0, bottom),
            (x + 5.0, bottom),
        ];
        drawing.line(&points, &style);
        drawing.upright(x - 10.0, f64::midpoint(top, bottom), "middle", &round(size));
    }
}

/// A power of two in its largest unit.
fn round(size: KiB) -> String {
    let kib = size.count();
    match kib {
        _ if kib >= 1 << 30 => format!("{} TiB", kib >> 30),
        _ if kib >= 1 << 20 => format!("{} GiB", kib >> 20),
        _ if kib >= 1 << 10 => format!("{} MiB", kib >> 10),
        _ => format!("{kib} KiB"),
    }
}

/// Heights for labels near their wishes (rising) and at least a line apart.
fn spread(wishes: &[f64]) -> Vec<f64> {
    let mut places: Vec<f64> = Vec::new();
    for wish in wishes {
        let least = places.last().map_or(TOP, |above| above + LINE);
        places.push(wish.max(least));
    }
    let mut most = TOP + HEIGHT;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - LINE;
    }
    places
}

/// Labels to the right of `from`, each tied to the middle of its stretch by a thin line.
fn tie_labels(drawing: &mut Drawing, from: f64, labels: &[(f64, String)]) {
    let wishes: Vec<f64> = labels.iter().map(|(middle, _)| *middle).collect();
    for ((middle, label), place) in labels.iter().zip(spread(&wishes)) {
        let points =
            [(from, *middle), (from + 8.0, *middle), (from + 26.0, place), (from + 32.0, place)];
        drawing.line(&points, r##"stroke="#6b7280" stroke-width="0.8""##);
        let halo = r##"stroke="#ffffff" stroke-width="4" paint-order="stroke""##;
        drawing.text(from + 37.0, place + 4.5, halo, label);
    }
}

const fn fill(block: Block) -> &'static str {
    match block {
        Block::Shadow => "#475569",
        Block::ExtraExternal => "#94a3b8",
        Block::ExtraInternal => "#a78bfa",
        Block::Shim => "#f59e0b",
        Block::Video => "#34d399",
        Block::Guest => "#60a5fa",
        Block::Balloon => "url(#hatch)",
    }
}

/// The column of blocks.
const COLUMN: f64 = 220.0;
const COLUMN_WIDTH: f64 = 210.0;

/// A domain.
pub(super) fn domain(domain: &Planned) -> String {
    let picture = domain.plan.picture();
    let scale = Scale::new(picture.total());
    let mut drawing = Drawing::new(1040.0, TOP + HEIGHT + 40.0);
    drawing.title(&domain.title(), &domain.subtitle());
    scale.draw(&mut drawing, picture.total());
    let right = [
        Bracket::BuildMaximum,
        Bracket::BuildStart,
        Bracket::Actual,
        Bracket::XenMaximum,
        Bracket::Footprint,
    ];
    let columns: Vec<(Bracket, f64)> = right
        .iter()
        .zip(0_u8..)
        .map(|(bracket, place)| (*bracket, 690.0 + 66.0 * f64::from(place)))
        .collect();
    // From where blocks end to the brackets that begin or end there.
    for (bracket, x) in &columns {
        let span = picture.span(*bracket);
        for offset in [span.start(), span.end()] {
            let y = scale.y(offset);
            let style = format!(r#"stroke="{FAINT}" stroke-dasharray="2 3""#);
            drawing.line(&[(COLUMN + COLUMN_WIDTH, y), (*x, y)], &style);
        }
    }
    blocks(&mut drawing, scale, picture);
    for bracket in [Bracket::Overhead, Bracket::StaticMaximum] {
        left_bracket(&mut drawing, scale, picture.span(bracket), bracket);
    }
    for (bracket, x) in columns {
        right_bracket(&mut drawing, scale, picture.span(bracket), bracket, x);
    }
    drawing.finish()
}

fn blocks(drawing: &mut Drawing, scale: Scale, picture: &Picture) {
    let mut beside = Vec::new();
    for block in Block::ALL {
        let span = picture.block(block);
        if span.size() == KiB::ZERO {
            continue;
        }
        let (y, height) = (scale.y(span.start()), scale.height(span.size()));
        let style = format!(r#"fill="{}""#, fill(block));
        drawing.rectangle(COLUMN, y, COLUMN_WIDTH, height, &style);
        if height > 3.0 && span.start() > KiB::ZERO {
            let style = format!(r#"stroke="{INK}" stroke-width="0.8""#);
            drawing.line(&[(COLUMN, y), (COLUMN + COLUMN_WIDTH, y)], &style);
        }
        let middle = y + height / 2.0;
        let size = amount(span.size());
        if height < LINE {
            beside.push((middle, format!("{block}, {size}")));
        } else {
            let ink = if block == Block::Shadow { "#ffffff" } else { INK };
            let style = format!(r#"fill="{ink}""#);
            drawing.text(COLUMN + 12.0, middle + 4.5, &style, &block.to_string());
            let style = format!(r#"fill="{ink}" text-anchor="end""#);
            drawing.text(COLUMN + COLUMN_WIDTH - 12.0, middle + 4.5, &style, &size);
        }
    }
    let style = format!(r#"fill="none" stroke="{INK}" stroke-width="1.5""#);
    drawing.rectangle(COLUMN, TOP, COLUMN_WIDTH, scale.height(picture.total()), &style);
    tie_labels(drawing, COLUMN + COLUMN_WIDTH, &beside);
}

/// The line of a bracket, with its ends towards the blocks.
fn bracket_line(drawing: &mut Drawing, x: f64, towards: f64, top: f64, bottom: f64) {
    let style = format!(r#"stroke="{INK}" stroke-width="1.5""#);
    let end = x + towards;
    drawing.line(&[(end, top), (x, top), (x, bottom), (end, bottom)], &style);
}

/// To the left of the blocks, where two brackets share a column: the upper one's label goes on top
/// of it if it is too long for its side.
fn left_bracket(drawing: &mut Drawing, scale: Scale, span: Span, bracket: Bracket) {
    let (top, bottom) = (scale.y(span.start()), scale.y(span.end()));
    let x = COLUMN - 22.0;
    bracket_line(drawing, x, 9.0, top, bottom);
    let label = format!("{bracket}, {}", amount(span.size()));
    if bottom - top > label.len() as f64 * CHARACTER + 8.0 {
        drawing.upright(x - 8.0, f64::midpoint(top, bottom), "middle", &label);
    } else {
        drawing.text(x + 9.0, top - 9.0, r#"text-anchor="end""#, &label);
    }
}

/// To the right of the blocks, where each bracket has a column: its label goes below if it is too
/// long for its side.
fn right_bracket(drawing: &mut Drawing, scale: Scale, span: Span, bracket: Bracket, x: f64) {
    let (top, bottom) = (scale.y(span.start()), scale.y(span.end()));
    bracket_line(drawing, x, -9.0, top, bottom);
    let label = format!("{bracket}, {}", amount(span.size()));
    let length = label.len() as f64 * CHARACTER + 8.0;
    let below = bottom + length < TOP + HEIGHT;
    if bottom - top < length && below {
        drawing.upright(x + 5.0, bottom + 8.0, "end", &label);
    } else {
        drawing.upright(x + 18.0, f64::midpoint(top, bottom), "middle", &label);
    }
}

const DOMAIN_FILLS: [(&str, &str); 6] = [
    ("#60a5fa", "#2563eb"),
    ("#34d399", "#059669"),
    ("#fbbf24", "#d97706"),
    ("#f472b6", "#db2777"),
    ("#a78bfa", "#7c3aed"),
    ("#22d3ee", "#0891b2"),
];

/// The columns of a host.
const NOW: f64 = 110.0;
const BALANCED: f64 = 400.0;
const HOST_WIDTH: f64 = 170.0;

/// Where a domain's part of a column begins and ends, and the end of its overhead.
struct Part {
    top: f64,
    overhead: f64,
    bottom: f64,
}

/// A host before and after balancing.
pub(super) fn host(host: &Host) -> String {
    let needed = |which: fn(&HostDomain) -> &Planned| {
        host.domains
            .iter()
            .fold(host.reserved, |sum, domain| sum.saturating_add(which(domain).plan.footprint()))
    };
    let total =
        needed(|domain| &domain.now).max(needed(|domain| &domain.balanced)).max(host.memory);
    let scale = Scale::new(total);
    let mut drawing = Drawing::new(1040.0, TOP + HEIGHT + 40.0);
    let title = format!("Host with {}", amount(host.memory));
    let mut subtitle = format!("{} domains, gamma {}", host.domains.len(), host.gamma);
    if host.reserved > KiB::ZERO {
        subtitle += &format!(", {} reserved", amount(host.reserved));
    }
    drawing.title(&title, &subtitle);
    scale.draw(&mut drawing, total);
    let now = host_column(&mut drawing, scale, host, NOW, |domain| &domain.now);
    let balanced = host_column(&mut drawing, scale, host, BALANCED, |domain| &domain.balanced);
    for ((before, after), (fill, _)) in now.iter().zip(&balanced).zip(DOMAIN_FILLS.iter().cycle()) {
        let (left, right) = (NOW + HOST_WIDTH, BALANCED);
        let _ = writeln!(
            drawing.body,
            r#"<polygon points="{left},{:.2} {right},{:.2} {right},{:.2} {left},{:.2}" fill="{fill}" opacity="0.25"/>"#,
            before.top, after.top, after.bottom, before.bottom
        );
    }
    for (x, title, left) in
        [(NOW, "now", host.left_now()), (BALANCED, "balanced", host.left_balanced())]
    {
        let (words, style) = match left {
            Left::Free(size) => (format!("{title}: {} free", amount(size)), String::new()),
            Left::Missing(size) => {
                (format!("{title}: {} missing", amount(size)), format!(r#"fill="{ALARM}""#))
            }
        };
        let style = format!(r#"text-anchor="middle" font-weight="bold" {style}"#);
        drawing.text(x + HOST_WIDTH / 2.0, TOP - 12.0, &style, &words);
    }
    let labels: Vec<(f64, String)> = host
        .domains
        .iter()
        .zip(&balanced)
        .map(|(domain, part)| (f64::midpoint(part.top, part.bottom), describe(domain)))
        .collect();
    tie_labels(&mut drawing, BALANCED + HOST_WIDTH, &labels);
    drawing.finish()
}

/// What is written beside a domain.
fn describe(domain: &HostDomain) -> String {
    let name = &domain.now.name;
    let (before, after) = (domain.now.shape.target(), domain.balanced.shape.target());
    if before == after {
        let why = match domain.cooperates {
            false => ", left out",
            true if domain.dynamic.minimum() == domain.dynamic.maximum() => ", fixed",
            true => "",
        };
        format!("{name}: {}{why}", amount(before))
    } else {
        let (minimum, maximum) = (domain.dynamic.minimum(), domain.dynamic.maximum());
        let range = format!("{} to {}", amount(minimum), amount(maximum));
        format!("{name}: {} → {}, of {range}", amount(before), amount(after))
    }
}

fn host_column(
    drawing: &mut Drawing,
    scale: Scale,
    host: &Host,
    x: f64,
    which: fn(&HostDomain) -> &Planned,
) -> Vec<Part> {
    let memory = scale.height(host.memory);
    drawing.rectangle(x, TOP, HOST_WIDTH, memory, r#"fill="url(#free)""#);
    let inside = |drawing: &mut Drawing, top: f64, bottom: f64, ink: &str, words: &str| {
        if bottom - top >= LINE {
            let style = format!(r#"fill="{ink}" text-anchor="middle""#);
            let y = f64::midpoint(top, bottom) + 4.5;
            drawing.text(x + HOST_WIDTH / 2.0, y, &style, words);
        }
    };
    let mut end = host.reserved;
    if end > KiB::ZERO {
        drawing.rectangle(x, TOP, HOST_WIDTH, scale.height(end), r##"fill="#475569""##);
        inside(drawing, TOP, scale.y(end), "#ffffff", "reserved");
    }
    let mut parts = Vec::new();
    for (domain, (fill, dark)) in host.domains.iter().zip(DOMAIN_FILLS.iter().cycle()) {
        let plan = &which(domain).plan;
        let top = scale.y(end);
        let overhead = scale.y(end.saturating_add(plan.overhead()));
        end = end.saturating_add(plan.footprint());
        let bottom = scale.y(end);
        drawing.rectangle(x, top, HOST_WIDTH, overhead - top, &format!(r#"fill="{dark}""#));
        drawing.rectangle(x, overhead, HOST_WIDTH, bottom - overhead, &format!(r#"fill="{fill}""#));
        let size = amount(plan.footprint());
        inside(drawing, overhead, bottom, INK, &format!("{}, {size}", domain.now.name));
        parts.push(Part { top, overhead, bottom });
    }
    for part in &parts {
        if part.bottom - part.overhead > 3.0 {
            let style = format!(r#"stroke="{INK}" stroke-width="0.8""#);
            drawing.line(&[(x, part.top), (x + HOST_WIDTH, part.top)], &style);
        }
    }
    let bottom = scale.y(end).max(TOP + memory);
    let style = format!(r#"fill="none" stroke="{INK}" stroke-width="1.5""#);
    drawing.rectangle(x, TOP, HOST_WIDTH, bottom - TOP, &style);
    if end > host.memory {
        let style = format!(r#"stroke="{ALARM}" stroke-width="2.5""#);
        drawing.line(&[(x - 10.0, TOP + memory), (x + HOST_WIDTH + 10.0, TOP + memory)], &style);
    }
    parts
}
