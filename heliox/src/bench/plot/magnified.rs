//! A surface for drawing that has several pixels for each one that is drawn on it, so that letters and
//! slanting lines are smooth.
//!
//! Hides the factor: whoever draws sees the small surface.

use plotters::prelude::DrawingBackend;
use plotters::style::{FontDesc, RGBAColor, TextStyle};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingErrorKind,
};

/// The surface.
pub(super) struct Magnified<DB> {
    inner: DB,
    factor: u32,
}

impl<DB: DrawingBackend> Magnified<DB> {
    /// Draws on `inner`, whose sides are `factor` times as long as they seem.
    pub(super) fn new(inner: DB, factor: u32) -> Self {
        Self { inner, factor }
    }

    fn point(&self, (x, y): BackendCoord) -> BackendCoord {
        let factor = i32::try_from(self.factor).unwrap_or(1);
        (x.saturating_mul(factor), y.saturating_mul(factor))
    }

    fn style<S: BackendStyle>(&self, style: &S) -> Stroke {
        Stroke { color: style.color(), width: style.stroke_width().saturating_mul(self.factor) }
    }
}

/// A line's colour and width.
struct Stroke {
    color: BackendColor,
    width: u32,
}

impl BackendStyle for Stroke {
    fn color(&self) -> BackendColor {
        self.color
    }

    fn stroke_width(&self) -> u32 {
        self.width
    }
}

type Drawn<DB> = Result<(), DrawingErrorKind<<DB as DrawingBackend>::ErrorType>>;

impl<DB: DrawingBackend> DrawingBackend for Magnified<DB> {
    type ErrorType = DB::ErrorType;

    fn get_size(&self) -> (u32, u32) {
        let (width, height) = self.inner.get_size();
        (width / self.factor, height / self.factor)
    }

    fn ensure_prepared(&mut self) -> Drawn<DB> {
        self.inner.ensure_prepared()
    }

    fn present(&mut self) -> Drawn<DB> {
        self.inner.present()
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> Drawn<DB> {
        let (from, to) = (self.point(point), self.point((point.0 + 1, point.1 + 1)));
        self.inner.draw_rect(from, (to.0 - 1, to.1 - 1), &color, true)
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> Drawn<DB> {
        // The surface below draws lines of one pixel only; as a path they have a width.
        self.draw_path([from, to], style)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        upper_left: BackendCoord,
        bottom_right: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Drawn<DB> {
        let (from, to) = (self.point(upper_left), self.point(bottom_right));
        let style = self.style(style);
        self.inner.draw_rect(from, to, &style, fill)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Drawn<DB> {
        let style = self.style(style);
        let points: Vec<_> = path.into_iter().map(|point| self.point(point)).collect();
        self.inner.draw_path(points, &style)
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        center: BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> Drawn<DB> {
        let (center, style) = (self.point(center), self.style(style));
        self.inner.draw_circle(center, radius.saturating_mul(self.factor), &style, fill)
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        corners: I,
        style: &S,
    ) -> Drawn<DB> {
        let style = self.style(style);
        let corners: Vec<_> = corners.into_iter().map(|point| self.point(point)).collect();
        self.inner.fill_polygon(corners, &style)
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        position: BackendCoord,
    ) -> Drawn<DB> {
        let BackendColor { alpha, rgb: (red, green, blue) } = style.color();
        let size = style.size() * f64::from(self.factor);
        let font = FontDesc::new(style.family(), size, style.style()).transform(style.transform());
        let style = TextStyle::from(font).pos(style.anchor());
        let color = RGBAColor(red, green, blue, alpha);
        let style = style.color(&color);
        let position = self.point(position);
        self.inner.draw_text(text, &style, position)
    }
}
