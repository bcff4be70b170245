//! Draws horizontal bar charts as SVG, with dark text on white, so that they are readable on light and
//! dark pages.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

pub(crate) struct Bar {
    pub(crate) label: String,
    /// Shown to the right of the bar.
    pub(crate) text: String,
    /// Minimum, median and maximum; `None` if there is only the text.
    pub(crate) figures: Option<[f64; 3]>,
    /// Drawn in another colour.
    pub(crate) highlighted: bool,
}

// All sizes are in pixels.
const WIDTH: u32 = 880;
const MARGIN: i32 = 16;
/// Where the bars start and the longest one ends.
const LEFT: i32 = 240;
const RIGHT: i32 = 660;
const HEADING: i32 = 44;
const PANEL_TITLE: i32 = 30;
const ROW: i32 = 24;
const GAP: i32 = 14;
const FOOTER: i32 = 26;

const TEXT: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const FAINT: RGBColor = RGBColor(0x59, 0x63, 0x6e);
const HIGHLIGHT: RGBColor = RGBColor(0x1f, 0x6f, 0xeb);
const NORMAL: RGBColor = RGBColor(0xa8, 0xb1, 0xbb);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes a chart: the title, the panels one below the other, and the footer.
pub(crate) fn draw(file: &Path, title: &str, panels: &[Panel], footer: &str) -> Result<()> {
    let size = (WIDTH, height(panels));
    let area = SVGBackend::new(file, size).into_drawing_area();
    draw_in(&area, title, panels, footer)
        .and_then(|()| area.present().map_err(Into::into))
        .with_context(|| file.display().to_string())
}

fn height(panels: &[Panel]) -> u32 {
    let bars: usize = panels.iter().map(|it| it.bars.len()).sum();
    let (bars, panels) = (scaled(bars, ROW), scaled(panels.len(), PANEL_TITLE + GAP));
    (HEADING + bars + panels + FOOTER).unsigned_abs()
}

fn scaled(count: usize, each: i32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX / 1000) * each
}

fn draw_in(area: &Area, title: &str, panels: &[Panel], footer: &str) -> Result<()> {
    area.fill(&WHITE)?;
    write(area, title, (MARGIN, HEADING / 2), HPos::Left, (20, TEXT))?;
    let mut y = HEADING;
    for panel in panels {
        draw_panel(area, panel, y)?;
        y += PANEL_TITLE + scaled(panel.bars.len(), ROW) + GAP;
    }
    write(area, footer, (MARGIN, y), HPos::Left, (12, FAINT))
}

fn draw_panel(area: &Area, panel: &Panel, top: i32) -> Result<()> {
    let middle = top + PANEL_TITLE / 2;
    write(area, &panel.title, (MARGIN, middle), HPos::Left, (15, TEXT))?;
    let figures = panel.bars.iter().filter_map(|it| it.figures);
    let largest = figures.map(|[.., max]| max).fold(0.0, f64::max);
    for (index, bar) in panel.bars.iter().enumerate() {
        draw_bar(area, bar, top + PANEL_TITLE + scaled(index, ROW), largest)?;
    }
    Ok(())
}

fn draw_bar(area: &Area, bar: &Bar, top: i32, largest: f64) -> Result<()> {
    let middle = top + ROW / 2;
    let label = (LEFT - 10, middle);
    write(area, &bar.label, label, HPos::Right, (14, TEXT))?;
    let mut end = LEFT;
    if let Some(figures) = bar.figures {
        let [min, median, max] = figures.map(|it| x_of(it, largest));
        let color = if bar.highlighted { HIGHLIGHT } else { NORMAL };
        let corners = [(LEFT, top + 4), (median, top + ROW - 4)];
        let bar = Rectangle::new(corners, color.filled());
        area.draw(&bar)?;
        let spread = PathElement::new([(min, middle), (max, middle)], TEXT);
        area.draw(&spread)?;
        end = median.max(max);
    }
    write(area, &bar.text, (end + 8, middle), HPos::Left, (14, TEXT))
}

/// Returns the x coordinate of a figure, in proportion between `LEFT` (zero) and `RIGHT` (`largest`).
fn x_of(figure: f64, largest: f64) -> i32 {
    let part = if largest > 0.0 { figure / largest } else { 0.0 };
    let part = part.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT);
    #[expect(clippy::cast_possible_truncation, reason = "at most the width")]
    let pixels = part.round() as i32;
    LEFT + pixels
}

fn write(
    area: &Area,
    text: &str,
    at: (i32, i32),
    side: HPos,
    (pixels, color): (u32, RGBColor),
) -> Result<()> {
    let style = ("sans-serif", pixels).into_font().color(&color);
    let style = style.pos(Pos::new(side, VPos::Center));
    Ok(area.draw_text(text, &style, at)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_proportional() {
        assert_eq!(x_of(0.0, 10.0), LEFT);
        assert_eq!(x_of(5.0, 10.0), i32::midpoint(LEFT, RIGHT));
        assert_eq!(x_of(10.0, 10.0), RIGHT);
        assert_eq!(x_of(0.0, 0.0), LEFT);
    }

    #[test]
    fn chart_contains_every_text() {
        let bar = |label: &str, figures| Bar {
            label: label.to_owned(),
            text: "text".to_owned(),
            figures,
            highlighted: true,
        };
        let bars = vec![bar("a < b", Some([1.0, 2.0, 3.0])), bar("failed", None)];
        let title = "panel".to_owned();
        let panels = [Panel { title, bars }];
        let mut svg = String::new();
        let size = (WIDTH, height(&panels));
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw_in(&area, "title", &panels, "footer").unwrap();
        drop(area);
        for text in ["title", "panel", "a &lt; b", "failed", "footer"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
    }
}
