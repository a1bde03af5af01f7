//! Measured rows as pictures, SVG or PNG, beside what others measured.
//!
//! Hides the drawing. One function draws each picture on whatever surface there is, so both formats
//! show the same. The letters of a PNG come with the tool, so that it does not depend on the host's
//! fonts.

mod magnified;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::error::Error;

use super::phase::{PHASES, Phase, Shares};
use super::reference::{CONTEXT_SWITCH, IPC_TARGETS, KERNEL_TARGETS, THESIS, Target, WORDS};
use super::report::Receive;
use super::row::Row;
use super::text::{grouped, reached};
use magnified::Magnified;

const WIDTH: u32 = 1180;
/// Pixels of a PNG for each one of a picture, in both directions.
const MAGNIFICATION: u32 = 2;
const MARGIN: i32 = 24;

const INK: RGBColor = RGBColor(0x1f, 0x29, 0x37);
const FAINT: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);
const MUTED: RGBColor = RGBColor(0x6b, 0x72, 0x80);
/// Colours that the colour-blind can tell apart (Okabe and Ito), for what was measured here.
const OURS: [RGBColor; 5] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
];
/// And for what others measured.
const THEIRS: [RGBColor; 5] = [
    RGBColor(0x4b, 0x55, 0x63),
    RGBColor(0x9a, 0x34, 0x12),
    RGBColor(0x6d, 0x28, 0xd9),
    RGBColor(0x1d, 0x4e, 0xd8),
    RGBColor(0x04, 0x78, 0x57),
];
const LIMIT: RGBColor = RGBColor(0xb9, 0x1c, 0x1c);

/// A picture could not be made.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Drawn = Result<(), Failure>;
type Area<DB> = DrawingArea<DB, Shift>;

/// Whether a file's name says which kind of picture it is.
///
/// # Errors
///
/// It is neither `.svg` nor `.png`.
pub fn check(path: &Path) -> Result<(), Error> {
    match extension(path).as_str() {
        "svg" | "png" => Ok(()),
        _ => Err(Error::Usage(format!(
            "a plot is an SVG or a PNG: end {} with .svg or .png",
            path.display()
        ))),
    }
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// Something that can be drawn on any surface.
trait Picture {
    /// How high it is, in pixels.
    fn height(&self) -> u32;

    fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn
    where
        DB::ErrorType: 'static;
}

/// Draws a picture into a file.
fn write(picture: &impl Picture, path: &Path) -> Result<(), Error> {
    check(path)?;
    register_fonts();
    let size = (WIDTH, picture.height());
    let drawn = match extension(path).as_str() {
        "png" => draw_png(picture, size, path),
        _ => draw_svg(picture, size, path),
    };
    drawn.map_err(|error| Error::Bench(format!("cannot draw {}: {error}", path.display())))
}

fn draw_png(picture: &impl Picture, size: (u32, u32), path: &Path) -> Drawn {
    let size = (size.0 * MAGNIFICATION, size.1 * MAGNIFICATION);
    let surface = Magnified::new(BitMapBackend::new(path, size), MAGNIFICATION);
    let area = surface.into_drawing_area();
    picture.draw(&area)?;
    Ok(area.present()?)
}

fn draw_svg(picture: &impl Picture, size: (u32, u32), path: &Path) -> Drawn {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        picture.draw(&area)?;
        area.present()?;
    }
    Ok(fs::write(path, text)?)
}

fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for style in [FontStyle::Normal, FontStyle::Bold] {
            // Fails only for a file that is no font.
            let _ = register_font("sans-serif", style, epaint_default_fonts::UBUNTU_LIGHT);
        }
    });
}

fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// Draws the title, and leaves the area below.
fn titled<DB: DrawingBackend>(
    area: &Area<DB>,
    title: &str,
    subtitle: &str,
) -> Result<Area<DB>, Failure>
where
    DB::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    area.draw_text(title, &font(26), (MARGIN, 16))?;
    area.draw_text(subtitle, &font(15).color(&MUTED), (MARGIN, 50))?;
    Ok(area.margin(76, 12, MARGIN, MARGIN))
}

/// Text whose given corner or side is at a point.
fn label<DB: DrawingBackend>(
    area: &Area<DB>,
    text: &str,
    style: &TextStyle<'_>,
    position: (i32, i32),
    anchor: (HPos, VPos),
) -> Drawn
where
    DB::ErrorType: 'static,
{
    let style = style.pos(Pos::new(anchor.0, anchor.1));
    Ok(area.draw_text(text, &style, position)?)
}

// --- IPC ---

/// A curve of a chart: points by words, and how it is drawn.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    color: RGBColor,
    width: u32,
}

/// Something to draw below a legend's curves.
struct Ipc<'rows> {
    rows: &'rows [Row],
}

/// Draws the rows of `heliox bench ipc`.
///
/// # Errors
///
/// The file cannot be written.
pub fn ipc(rows: &[Row], path: &Path) -> Result<(), Error> {
    write(&Ipc { rows }, path)
}

impl Ipc<'_> {
    fn series(
        &self,
        name: &str,
        (operation, same, receive): (&str, bool, Receive),
        (color, width): (RGBColor, u32),
        count: fn(&Row) -> u64,
    ) -> Option<Series> {
        let row = self.rows.iter().filter(|row| {
            row.operation == operation
                && row.same_space == Some(same)
                && row.receive == Some(receive)
        });
        let mut points: Vec<_> =
            row.filter_map(|row| Some((f64::from(row.words?), count(row) as f64))).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        (!points.is_empty()).then(|| Series { name: name.to_owned(), points, color, width })
    }

    /// Everything on a logarithmic scale, the thesis's curves among it.
    fn overview<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let mut series: Vec<_> = THESIS
            .iter()
            .zip(THEIRS)
            .rev()
            .map(|(curve, color)| Series {
                name: format!("{} ({}, cycles)", curve.name, curve.source),
                points: WORDS
                    .iter()
                    .zip(curve.cycles)
                    .map(|(words, cycles)| (f64::from(*words), f64::from(cycles)))
                    .collect(),
                color,
                width: 2,
            })
            .collect();
        for ((_, cycles), color) in CONTEXT_SWITCH.into_iter().zip([MUTED, INK]) {
            let name = format!("a context switch alone ({} cycles)", grouped(u64::from(cycles)));
            let cycles = f64::from(cycles);
            series.push(Series {
                name,
                points: vec![(0.0, cycles), (60.0, cycles)],
                color,
                width: 1,
            });
        }
        let all = |row: &Row| row.instructions;
        let ours = ("call", false, Receive::Closed);
        series.extend(self.series("Heliox, call, with the program's own", ours, (OURS[0], 4), all));
        let kernel = |row: &Row| row.kernel_instructions;
        series.extend(self.series("Heliox, call, in the kernel", ours, (OURS[1], 4), kernel));
        chart(
            area,
            "Heliox: instructions. The thesis: cycles of a 1.66 GHz Atom. Logarithmic scale",
            &series,
            Scale::Logarithmic,
            &[],
        )
    }

    /// What the kernel does here, counted in instructions as elsewhere.
    fn kernel_part<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let count = |row: &Row| row.kernel_instructions;
        let mut series = Vec::new();
        // Wide below narrow, so that curves which are the same are all seen.
        for (name, key, style) in [
            ("call, closed receive", ("call", false, Receive::Closed), (OURS[4], 7)),
            ("call, open receive", ("call", false, Receive::Open), (OURS[0], 3)),
            ("reply and wait, closed", ("reply-and-wait", false, Receive::Closed), (OURS[1], 7)),
            ("reply and wait, open", ("reply-and-wait", false, Receive::Open), (OURS[2], 3)),
            ("Lipc, same space", ("lipc", true, Receive::Closed), (OURS[3], 2)),
        ] {
            series.extend(self.series(name, key, style, count));
        }
        // The published points of others, and the limits.
        let marks = [
            Mark::new(
                "Pistachio through C",
                &[(0.0, 218.0), (7.0, 218.0), (32.0, 257.0), (60.0, 285.0)],
                THEIRS[0],
            ),
            Mark::new(
                "Pistachio, assembly",
                &[(0.0, 73.0), (7.0, 73.0), (32.0, 109.0), (60.0, 137.0)],
                THEIRS[4],
            ),
            Mark::new("seL4 fast path", &[(0.0, 205.0), (7.0, 211.0)], THEIRS[2]),
            Mark::new("allowed here", &limits(), LIMIT),
        ];
        chart(
            area,
            "In the kernel, SYSCALL to SYSRET, instructions. Between address spaces but for Lipc",
            &series,
            Scale::Linear,
            &marks,
        )
    }
}

/// The most that is allowed, by words.
fn limits() -> Vec<(f64, f64)> {
    let mut points: Vec<_> = IPC_TARGETS
        .iter()
        .filter_map(|target| {
            let words = target.rows.first()?.1?;
            Some((f64::from(words), target.most as f64))
        })
        .collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    points.dedup();
    points
}

impl Picture for Ipc<'_> {
    fn height(&self) -> u32 {
        1140
    }

    fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let subtitle = "One message, one way, by its number of untyped words";
        let body = titled(area, "What a message costs", subtitle)?;
        let (upper, lower) = body.split_vertically(540);
        self.overview(&upper.margin(0, 24, 0, 0))?;
        self.kernel_part(&lower)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Logarithmic,
}

/// Single points of others, joined by a thin line.
struct Mark {
    series: Series,
}

impl Mark {
    fn new(name: &str, points: &[(f64, f64)], color: RGBColor) -> Self {
        let (name, points) = (name.to_owned(), points.to_vec());
        Self { series: Series { name, points, color, width: 1 } }
    }
}

/// Where a legend lies right of its chart, and how high an entry is.
const LEGEND_WIDTH: i32 = 330;
const LEGEND_LINE: i32 = 24;

/// Words from one mark of the axis to the next.
const WORDS_A_MARK: f64 = 8.0;

/// A chart of curves over words, with its legend to the right.
fn chart<DB: DrawingBackend>(
    area: &Area<DB>,
    caption: &str,
    series: &[Series],
    scale: Scale,
    marks: &[Mark],
) -> Drawn
where
    DB::ErrorType: 'static,
{
    let (width, _) = area.dim_in_pixel();
    let (plot, legend) = area.split_horizontally(i32::try_from(width)? - LEGEND_WIDTH);
    label(&plot, caption, &font(16), (8, 6), (HPos::Left, VPos::Top))?;
    let plot = plot.margin(34, 0, 0, 12);
    let values = series.iter().chain(marks.iter().map(|mark| &mark.series));
    let values = values.flat_map(|series| series.points.iter().map(|point| point.1));
    let most = values.clone().fold(1.0, f64::max);
    let mut builder = ChartBuilder::on(&plot);
    builder.x_label_area_size(42).y_label_area_size(70);
    let number = |value: &f64| grouped(value.round().max(0.0) as u64);
    // The axis is in eights of words: marked at each whole one.
    let words = |value: &f64| format!("{:.0}", value * WORDS_A_MARK);
    let place = |point: &(f64, f64)| (point.0 / WORDS_A_MARK, point.1);
    // The two coordinate systems are different types, and the rest is the same for both.
    macro_rules! draw {
        ($context:expr) => {{
            let mut context = $context;
            context
                .configure_mesh()
                .x_labels(9)
                .y_labels(9)
                .x_desc("untyped words")
                .light_line_style(WHITE)
                .bold_line_style(FAINT)
                .axis_style(MUTED)
                .label_style(font(14))
                .axis_desc_style(font(15))
                .x_label_formatter(&words)
                .y_label_formatter(&number)
                .draw()?;
            for Mark { series } in marks {
                let style = series.color.mix(0.6).stroke_width(1);
                context.draw_series(DashedLineSeries::new(
                    series.points.iter().map(place),
                    5,
                    4,
                    style,
                ))?;
                let color = series.color;
                context.draw_series(
                    series.points.iter().map(|point| Circle::new(place(point), 4, color.filled())),
                )?;
            }
            for series in series {
                let style = series.color.stroke_width(series.width);
                context.draw_series(LineSeries::new(series.points.iter().map(place), style))?;
                if series.points.len() == 1 || series.width > 2 {
                    let (color, radius) = (series.color, series.width.div_ceil(2) + 1);
                    context.draw_series(
                        series
                            .points
                            .iter()
                            .map(|point| Circle::new(place(point), radius, color.filled())),
                    )?;
                }
            }
        }};
    }
    match scale {
        Scale::Linear => {
            draw!(builder.build_cartesian_2d(0.0..8.0, 0.0..most * 1.08)?);
        }
        Scale::Logarithmic => {
            let least = values.fold(most, f64::min).max(1.0);
            let bottom = 10_f64.powf(least.log10().floor());
            let top = 10_f64.powf(most.log10().ceil());
            draw!(builder.build_cartesian_2d(0.0..8.0, (bottom..top).log_scale())?);
        }
    }
    let mut line = 40;
    // In the order in which the curves end, from above.
    let mut entries: Vec<_> = series
        .iter()
        .map(|series| (series, false))
        .chain(marks.iter().map(|mark| (&mark.series, true)))
        .collect();
    let end = |series: &Series| series.points.last().map_or(0.0, |point| point.1);
    entries.sort_by(|one, other| end(other.0).total_cmp(&end(one.0)));
    for (series, dashed) in entries {
        let (left, right) = (18, 46);
        let middle = line + LEGEND_LINE / 2;
        if dashed {
            for start in (left..right).step_by(9) {
                let points = vec![(start, middle), (start + 5, middle)];
                legend.draw(&PathElement::new(points, series.color.stroke_width(1)))?;
            }
            legend.draw(&Circle::new(((left + right) / 2, middle), 4, series.color.filled()))?;
        } else {
            let points = vec![(left, middle), (right, middle)];
            legend.draw(&PathElement::new(points, series.color.stroke_width(series.width)))?;
        }
        let anchor = (HPos::Left, VPos::Center);
        label(&legend, &series.name, &font(15), (right + 10, middle), anchor)?;
        line += LEGEND_LINE;
    }
    Ok(())
}

// --- Operations ---

struct Operations<'rows> {
    rows: &'rows [Row],
}

/// Draws the rows of `heliox bench kernel`.
///
/// # Errors
///
/// The file cannot be written.
pub fn kernel(rows: &[Row], path: &Path) -> Result<(), Error> {
    write(&Operations { rows }, path)
}

/// A bar of the chart, and the most that is allowed, if something is.
struct Bar {
    title: String,
    count: u64,
    most: Option<u64>,
}

impl Operations<'_> {
    /// A bar for each operation, and for each sum that has a limit of its own.
    fn bars(&self) -> Vec<Bar> {
        let single = |row: &Row| {
            let is_it = |target: &&Target| target.rows.len() == 1 && row.is(target.rows[0]);
            let most = KERNEL_TARGETS.iter().find(is_it).map(|target| target.most);
            Bar { title: row.operation.clone(), count: row.kernel_instructions, most }
        };
        let mut bars: Vec<_> = self.rows.iter().map(single).collect();
        let sums = KERNEL_TARGETS.iter().filter(|target| target.rows.len() > 1);
        bars.extend(sums.filter_map(|target| {
            let count = reached(target, self.rows)?;
            Some(Bar { title: target.title.to_owned(), count, most: Some(target.most) })
        }));
        bars
    }
}

const BAR_LINE: u32 = 34;

impl Picture for Operations<'_> {
    fn height(&self) -> u32 {
        150 + BAR_LINE * u32::try_from(self.bars().len()).unwrap_or(0)
    }

    fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let subtitle = "Instructions in the kernel for one round, logarithmic scale; the red stroke \
                        is the most that is allowed";
        let body = titled(area, "What operations cost", subtitle)?;
        let bars = self.bars();
        let (left, right) = (300, i32::try_from(body.dim_in_pixel().0)? - 90);
        let most = bars.iter().map(|bar| bar.count.max(bar.most.unwrap_or(0))).max().unwrap_or(1);
        let decades = (most.max(10) as f64).log10().ceil();
        let x = |count: u64| {
            let part = (count.max(1) as f64).log10() / decades;
            left + (part * f64::from(right - left)).round() as i32
        };
        let line = i32::try_from(BAR_LINE)?;
        let bottom = line * i32::try_from(bars.len())? + 6;
        for decade in 0..=decades as u32 {
            let count = 10_u64.pow(decade);
            let points = vec![(x(count), 0), (x(count), bottom)];
            body.draw(&PathElement::new(points, FAINT.stroke_width(1)))?;
            let anchor = (HPos::Center, VPos::Top);
            label(&body, &grouped(count), &font(14), (x(count), bottom + 6), anchor)?;
        }
        for (index, bar) in (0..).zip(&bars) {
            let (top, middle) = (index * line + 6, index * line + line / 2);
            let anchor = (HPos::Right, VPos::Center);
            label(&body, &bar.title, &font(15), (left - 10, middle), anchor)?;
            let over = bar.most.is_some_and(|most| bar.count > most);
            let color = if over { OURS[0] } else { OURS[1] };
            let corners = [(left, top), (x(bar.count), top + line - 12)];
            body.draw(&Rectangle::new(corners, color.filled()))?;
            let anchor = (HPos::Left, VPos::Center);
            let mut end = x(bar.count);
            if let Some(most) = bar.most {
                let points = vec![(x(most), top - 4), (x(most), top + line - 8)];
                body.draw(&PathElement::new(points, LIMIT.stroke_width(3)))?;
                end = end.max(x(most));
            }
            label(&body, &grouped(bar.count), &font(15), (end + 8, middle), anchor)?;
        }
        Ok(())
    }
}

// --- Phases ---

struct Stacks<'rows> {
    shares: &'rows [(&'rows Row, Shares)],
}

/// Draws the rows of `heliox bench phases`.
///
/// # Errors
///
/// The file cannot be written.
pub fn phases(shares: &[(&Row, Shares)], path: &Path) -> Result<(), Error> {
    write(&Stacks { shares }, path)
}

/// Colours of the phases, in the order of [`PHASES`].
const PHASE_COLORS: [RGBColor; 8] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xf0, 0xe4, 0x42),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x9c, 0xa3, 0xaf),
];
/// Height of the columns of one operation.
const STACK_HEIGHT: i32 = 380;

impl Stacks<'_> {
    /// The columns of each operation, by words.
    fn groups(&self) -> BTreeMap<(String, Option<Receive>), BTreeMap<u32, &Shares>> {
        let mut groups: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (row, shares) in self.shares {
            if let Some(words) = row.words {
                let group = (row.operation.clone(), row.receive);
                groups.entry(group).or_default().insert(words, shares);
            }
        }
        groups
    }
}

impl Picture for Stacks<'_> {
    fn height(&self) -> u32 {
        let groups = i32::try_from(self.groups().len()).unwrap_or(1);
        u32::try_from(100 + groups * STACK_HEIGHT).unwrap_or(500)
    }

    fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let subtitle = "Instructions in the kernel by phase, for each number of untyped words";
        let body = titled(area, "Where the instructions of a message go", subtitle)?;
        let (width, _) = body.dim_in_pixel();
        let right = i32::try_from(width)? - 200;
        let groups = self.groups();
        let total = |shares: &Shares| shares.values().sum::<u64>();
        let most = groups.values().flat_map(|group| group.values().map(|shares| total(shares)));
        let most = most.max().unwrap_or(1).max(1) as f64;
        for (index, ((operation, receive), group)) in (0..).zip(&groups) {
            let top = index * STACK_HEIGHT;
            let bottom = top + STACK_HEIGHT - 50;
            let open = receive.map_or("", Receive::name);
            let title = format!("{operation}, {open} receive");
            label(&body, &title, &font(17), (0, top), (HPos::Left, VPos::Top))?;
            let y = |count: u64| {
                bottom - (count as f64 / most * f64::from(STACK_HEIGHT - 100)).round() as i32
            };
            let pitch = (right - 10) / i32::try_from(group.len().max(1))?;
            for (column, (words, shares)) in (0..).zip(group) {
                let left = 10 + column * pitch;
                let edge = left + (pitch * 3 / 4).clamp(3, 60);
                let mut below = 0;
                for (phase, color) in PHASES.iter().zip(PHASE_COLORS) {
                    let count = shares.get(phase).copied().unwrap_or(0);
                    let corners = [(left, y(below + count)), (edge, y(below))];
                    body.draw(&Rectangle::new(corners, color.filled()))?;
                    below += count;
                }
                let middle = (left + edge) / 2;
                let anchor = (HPos::Center, VPos::Bottom);
                label(&body, &grouped(below), &font(14), (middle, y(below) - 4), anchor)?;
                let anchor = (HPos::Center, VPos::Top);
                label(&body, &words.to_string(), &font(14), (middle, bottom + 6), anchor)?;
            }
        }
        for (index, (phase, color)) in (0..).zip(PHASES.iter().zip(PHASE_COLORS).rev()) {
            let top = 40 + index * LEGEND_LINE;
            let corners = [(right + 20, top), (right + 36, top + 16)];
            body.draw(&Rectangle::new(corners, color.filled()))?;
            let anchor = (HPos::Left, VPos::Center);
            label(&body, Phase::name(*phase), &font(15), (right + 46, top + 8), anchor)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::row::tests::sample;
    use crate::bench::text::tests::rows;

    fn operations() -> Vec<Row> {
        [
            ("null-system-call", 38),
            ("map", 250),
            ("unmap", 300),
            ("page-fault", 900),
            ("create-and-delete", 7000),
        ]
        .map(|(name, count)| sample(name, None, count))
        .to_vec()
    }

    fn shares(rows: &[Row]) -> Vec<(&Row, Shares)> {
        let share = |row: &Row| {
            let part = row.kernel_instructions / 8;
            PHASES.iter().map(|phase| (*phase, part)).collect()
        };
        let rows = rows.iter().filter(|row| row.same_space == Some(false));
        rows.map(|row| (row, share(row))).collect()
    }

    #[test]
    fn pictures_are_drawn_in_both_formats() {
        let kept = std::env::var_os("HELIOX_PLOTS").map(std::path::PathBuf::from);
        let directory = tempfile::tempdir().unwrap();
        let directory = kept.as_deref().unwrap_or(directory.path());
        let rows = rows();
        for extension in ["svg", "png"] {
            let file = |name: &str| directory.join(format!("{name}.{extension}"));
            ipc(&rows, &file("ipc")).unwrap();
            kernel(&operations(), &file("kernel")).unwrap();
            phases(&shares(&rows), &file("phases")).unwrap();
            // Nothing to show is no reason to fail.
            ipc(&[], &file("empty")).unwrap();
        }
        let svg = fs::read_to_string(directory.join("ipc.svg")).unwrap();
        for expected in ["<svg", "table 8.1", "table 8.7", "Heliox, call", "Pistachio, assembly"] {
            assert!(svg.contains(expected), "{expected}");
        }
        let png = fs::read(directory.join("ipc.png")).unwrap();
        assert_eq!(png.get(1..4), Some(&b"PNG"[..]));
        assert!(png.len() > 10_000);
    }

    #[test]
    fn other_formats_are_refused() {
        for name in ["plot.pdf", "plot", ".svg"] {
            assert!(check(Path::new(name)).is_err(), "{name}");
        }
        assert!(check(Path::new("a/b.SVG")).is_ok());
    }

    #[test]
    fn limits_rise_with_words() {
        assert_eq!(limits(), [(0.0, 72.0), (7.0, 72.0), (32.0, 112.0), (60.0, 140.0)]);
    }
}
