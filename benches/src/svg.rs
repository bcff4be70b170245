//! Draws rows of figures as SVG, for light and dark pages.
//!
//! A row has a dot for each round, whiskers for the interval of the median, and a tick with the figure at
//! the median. A linear scale starts at zero, so a bar leads to the tick; a logarithmic one has no zero
//! and no bars.

use std::fmt::{self, Display, Write};

use crate::table::group_thousands;

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Row {
    pub(crate) label: String,
    /// Drawn in another colour.
    pub(crate) highlighted: bool,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    Figures(Figures),
    /// Why there are no figures.
    Missing(String),
}

pub(crate) struct Figures {
    pub(crate) rounds: Vec<f64>,
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
    /// Shown at the median.
    pub(crate) value: String,
    /// Shown in the column to the right.
    pub(crate) note: String,
    /// Whether the note is in bold type.
    pub(crate) emphasized: bool,
    /// Whether some rounds have no figure: the bar is hatched.
    pub(crate) incomplete: bool,
}

// All sizes are in pixels.
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 16.0;
/// Where the scale starts and ends.
const LEFT: f64 = 216.0;
const RIGHT: f64 = 650.0;
/// Where the column of notes starts.
const NOTES: f64 = 680.0;
const HEADING: f64 = 46.0;
const PANEL_HEADING: f64 = 42.0;
const ROW: f64 = 34.0;
/// Below the rows: the labels of the scale, and a gap.
const AXIS: f64 = 36.0;
const LINE: f64 = 17.0;

const STYLE: &str = "\
.comparison { max-width: 100%; height: auto }
.comparison text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.comparison .heading { font-size: 19px; font-weight: bold }
.comparison .panel { font-size: 14px; font-weight: bold }
.comparison .label { font-size: 13px; text-anchor: end }
.comparison .middle { text-anchor: middle }
.comparison .faint { fill: #59636e }
.comparison .bold { font-weight: bold }
.comparison .paper { fill: #fff }
.comparison .grid { stroke: #d8dee4 }
.comparison .bar { fill: #c3cad2 }
.comparison .highlighted { fill: #8db9f5 }
.comparison .stripe { stroke: #fff; stroke-width: 3 }
.comparison .whiskers { fill: none; stroke: #1f2328 }
.comparison .median { stroke: #1f2328; stroke-width: 3 }
.comparison .round { fill: #bc4c00; fill-opacity: 0.8 }
@media (prefers-color-scheme: dark) {
.comparison text { fill: #e6edf3 }
.comparison .faint { fill: #9da7b1 }
.comparison .paper { fill: #0d1117 }
.comparison .grid { stroke: #2d333b }
.comparison .bar { fill: #444c56 }
.comparison .highlighted { fill: #1f5fb5 }
.comparison .stripe { stroke: #0d1117 }
.comparison .whiskers { stroke: #e6edf3 }
.comparison .median { stroke: #e6edf3 }
.comparison .round { fill: #ffa657 }
}
";

/// Returns a chart: the title, the panels one below the other, and the footer.
pub(crate) fn render(title: &str, panels: &[Panel], notes: &str, footer: &[String]) -> String {
    let mut svg = Svg(String::new());
    svg.text("heading", MARGIN, 30.0, title);
    let mut y = HEADING;
    for panel in panels {
        panel.draw(&mut svg, y, notes);
        y += panel.height();
    }
    for line in footer {
        svg.text("faint", MARGIN, y + 10.0, line);
        y += LINE;
    }
    document(title, y + 8.0, &svg.0)
}

fn document(title: &str, height: f64, body: &str) -> String {
    let title = Escaped(title);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" class="comparison" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">
<title>{title}</title>
<style>
{STYLE}</style>
<defs><pattern id="failed" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line class="stripe" x1="0" y1="0" x2="0" y2="7"/></pattern></defs>
<rect class="paper" width="{WIDTH}" height="{height}"/>
{body}</svg>
"#
    )
}

impl Panel {
    fn height(&self) -> f64 {
        PANEL_HEADING + self.rows_height() + AXIS
    }

    fn rows_height(&self) -> f64 {
        self.rows.iter().map(|_| ROW).sum()
    }

    fn draw(&self, svg: &mut Svg, top: f64, notes: &str) {
        let scale = Scale::of(self.rows.iter().filter_map(Row::figures));
        let subtitle = format!("{}{}", self.subtitle, scale.name());
        svg.text("panel", MARGIN, top + 16.0, &self.title);
        svg.text("faint", MARGIN, top + 34.0, &subtitle);
        svg.text("faint", NOTES, top + 34.0, notes);
        let mut y = top + PANEL_HEADING;
        scale.draw(svg, y, y + self.rows_height());
        for row in &self.rows {
            row.draw(svg, y, &scale);
            y += ROW;
        }
    }
}

impl Row {
    fn figures(&self) -> Option<&Figures> {
        match &self.content {
            Content::Figures(figures) => Some(figures),
            Content::Missing(_) => None,
        }
    }

    fn draw(&self, svg: &mut Svg, top: f64, scale: &Scale) {
        let baseline = top + 26.0;
        svg.text("label", LEFT - 10.0, baseline, &self.label);
        match &self.content {
            Content::Missing(reason) => svg.text("faint", LEFT + 6.0, baseline, reason),
            Content::Figures(figures) => {
                let class = if self.highlighted {
                    "bar highlighted"
                } else {
                    "bar"
                };
                figures.draw(svg, top, scale, class);
            }
        }
    }
}

impl Figures {
    fn draw(&self, svg: &mut Svg, top: f64, scale: &Scale, class: &str) {
        let middle = top + 22.0;
        let [low, median, high] = [self.low, self.median, self.high].map(|it| scale.x(it));
        if let Scale::Linear { .. } = scale {
            svg.bar(class, median, middle, self.incomplete);
        }
        svg.whiskers(low, high, middle);
        for round in &self.rounds {
            svg.dot(scale.x(*round), middle);
        }
        svg.line("median", (median, middle - 8.0), (median, middle + 8.0));
        // Beside the start of the scale, the text would not fit if it were centred.
        let x = median.clamp(LEFT + 24.0, RIGHT);
        svg.text("middle bold", x, top + 11.0, &self.value);
        let class = if self.emphasized { "bold" } else { "faint" };
        svg.text(class, NOTES, middle + 4.0, &self.note);
    }
}

/// From values to x coordinates between `LEFT` and `RIGHT`.
#[derive(Debug, PartialEq)]
enum Scale {
    Linear {
        step: f64,
        max: f64,
    },
    /// The decades between which all values are, as powers of ten.
    Logarithmic {
        first: i32,
        last: i32,
    },
}

impl Scale {
    /// Logarithmic if the medians differ by more than this factor.
    const LINEAR_FACTOR: f64 = 20.0;

    fn of<'a>(rows: impl Iterator<Item = &'a Figures> + Clone) -> Self {
        let medians = rows.clone().map(|it| it.median);
        let (lowest, highest) = range(medians);
        let (min, max) = range(rows.flat_map(|it| it.rounds.iter().copied().chain([it.median])));
        if min > 0.0 && min < f64::INFINITY && highest > lowest * Self::LINEAR_FACTOR {
            let [first, last] = [min.log10().floor(), max.log10().ceil()].map(whole);
            return Scale::Logarithmic { first, last };
        }
        let max = if max > 0.0 { max } else { 1.0 };
        Scale::Linear {
            step: step(max),
            max,
        }
    }

    fn x(&self, value: f64) -> f64 {
        let part = match self {
            Scale::Linear { max, .. } => value / max,
            Scale::Logarithmic { first, last } => {
                (value.log10() - f64::from(*first)) / f64::from(last - first)
            }
        };
        LEFT + part.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    fn name(&self) -> &'static str {
        match self {
            Scale::Linear { .. } => "",
            Scale::Logarithmic { .. } => "; logarithmic scale",
        }
    }

    /// Returns the values of the grid.
    fn ticks(&self) -> Vec<f64> {
        match self {
            Scale::Linear { step, max } => {
                let steps = (0..=10).map(|it| f64::from(it) * step);
                steps.take_while(|it| it <= max).collect()
            }
            Scale::Logarithmic { first, last } => {
                (*first..=*last).map(|it| 10_f64.powi(it)).collect()
            }
        }
    }

    fn draw(&self, svg: &mut Svg, top: f64, bottom: f64) {
        for tick in self.ticks() {
            let x = self.x(tick);
            svg.line("grid", (x, top), (x, bottom));
            svg.text("faint middle", x, bottom + 14.0, &tick_label(tick));
        }
    }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let all = (f64::INFINITY, f64::NEG_INFINITY);
    values.fold(all, |(min, max), it| (min.min(it), max.max(it)))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a logarithm of a double is small"
)]
fn whole(logarithm: f64) -> i32 {
    logarithm as i32
}

/// Returns 1, 2 or 5 times a power of ten, of which 3 to 7 fit into `max`.
fn step(max: f64) -> f64 {
    let power = 10_f64.powf((max / 3.0).log10().floor());
    let fitting = [5.0, 2.0].into_iter().find(|it| power * it <= max / 3.0);
    power * fitting.unwrap_or(1.0)
}

/// Rounds what a product of the step is beside the decimal number.
fn tick_label(value: f64) -> String {
    let rounded = format!("{value:.6}");
    let digits = rounded.trim_end_matches('0').trim_end_matches('.');
    group_thousands(digits)
}

/// The elements of a document.
struct Svg(String);

impl Svg {
    fn add(&mut self, element: fmt::Arguments) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{element}");
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let text = Escaped(text);
        self.add(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#
        ));
    }

    fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.add(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    fn dot(&mut self, x: f64, y: f64) {
        self.add(format_args!(
            r#"<circle class="round" cx="{x:.1}" cy="{y:.1}" r="2.4"/>"#
        ));
    }

    fn bar(&mut self, class: &str, end: f64, middle: f64, hatched: bool) {
        let (y, width) = (middle - 7.0, end - LEFT);
        let position = format!(r#"x="{LEFT}" y="{y:.1}" width="{width:.1}" height="14""#);
        self.add(format_args!(r#"<rect class="{class}" {position}/>"#));
        if hatched {
            self.add(format_args!(r#"<rect fill="url(#failed)" {position}/>"#));
        }
    }

    /// Draws a line with a cap at each end.
    fn whiskers(&mut self, low: f64, high: f64, y: f64) {
        let (top, bottom) = (y - 7.0, y + 7.0);
        self.add(format_args!(
            r#"<path class="whiskers" d="M{low:.1} {top:.1}V{bottom:.1}M{low:.1} {y:.1}H{high:.1}M{high:.1} {top:.1}V{bottom:.1}"/>"#
        ));
    }
}

/// Text as the content of an element.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.replace('&', "&amp;").replace('<', "&lt;");
        f.write_str(&text.replace('>', "&gt;"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, rounds: &[f64]) -> Row {
        let (low, high) = range(rounds.iter().copied());
        let content = Content::Figures(Figures {
            rounds: rounds.to_vec(),
            low,
            median: rounds[rounds.len() / 2],
            high,
            value: "value".to_owned(),
            note: "note".to_owned(),
            emphasized: false,
            incomplete: label == "incomplete",
        });
        Row {
            label: label.to_owned(),
            highlighted: false,
            content,
        }
    }

    /// The share of the width, in percent.
    fn percent(scale: &Scale, value: f64) -> String {
        format!("{:.1}", (scale.x(value) - LEFT) / (RIGHT - LEFT) * 100.0)
    }

    fn scale(rows: &[Row]) -> Scale {
        Scale::of(rows.iter().filter_map(Row::figures))
    }

    fn chart(rows: Vec<Row>) -> String {
        let panel = Panel {
            title: "panel".to_owned(),
            subtitle: "subtitle".to_owned(),
            rows,
        };
        render("a < b", &[panel], "notes", &["footer".to_owned()])
    }

    #[test]
    fn linear_scale_is_proportional() {
        let scale = scale(&[row("a", &[5.0, 10.0]), row("b", &[2.0])]);
        assert_eq!(
            scale,
            Scale::Linear {
                step: 2.0,
                max: 10.0
            }
        );
        let percents = [0.0, 5.0, 10.0].map(|it| percent(&scale, it));
        assert_eq!(percents, ["0.0", "50.0", "100.0"]);
        assert_eq!(scale.ticks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    }

    #[test]
    fn hundredfold_differences_have_a_logarithmic_scale() {
        let scale = scale(&[row("a", &[4.7]), row("b", &[470.0])]);
        assert_eq!(scale, Scale::Logarithmic { first: 0, last: 3 });
        let percents = [0.0, 1.0, 10.0, 1000.0].map(|it| percent(&scale, it));
        assert_eq!(percents, ["0.0", "0.0", "33.3", "100.0"]);
        assert_eq!(scale.ticks(), [1.0, 10.0, 100.0, 1000.0]);
    }

    #[test]
    fn outlier_alone_leaves_the_scale_linear() {
        let scale = scale(&[row("a", &[1.0, 1.0, 100.0]), row("b", &[2.0])]);
        assert_eq!(
            scale,
            Scale::Linear {
                step: 20.0,
                max: 100.0
            }
        );
    }

    #[test]
    fn scale_without_figures_or_of_zeros_is_finite() {
        for rows in [
            vec![],
            vec![row("a", &[0.0])],
            vec![row("a", &[0.0]), row("b", &[5.0])],
        ] {
            assert!(matches!(scale(&rows), Scale::Linear { .. }));
            assert!(scale(&rows).x(0.0).is_finite());
        }
    }

    #[test]
    fn tick_labels_are_short() {
        let labels = [0.0, 0.1 + 0.2, 2.0, 10_000.0].map(tick_label);
        assert_eq!(labels, ["0", "0.3", "2", "10,000"]);
    }

    #[test]
    fn row_without_figures_has_only_the_reason() {
        let reason = Content::Missing("not installed".to_owned());
        let missing = Row {
            content: reason,
            ..row("missing", &[1.0])
        };
        let svg = chart(vec![missing]);
        assert!(svg.contains(">missing</text>") && svg.contains(">not installed</text>"));
        for element in [
            "class=\"bar",
            "class=\"round",
            "class=\"median",
            "class=\"whiskers",
        ] {
            assert!(!svg.contains(element), "{element} in {svg}");
        }
    }

    #[test]
    fn only_bars_of_incomplete_rows_are_hatched() {
        let hatched = "url(#failed)";
        assert!(chart(vec![row("incomplete", &[1.0])]).contains(hatched));
        assert!(!chart(vec![row("complete", &[1.0])]).contains(hatched));
    }

    #[test]
    fn logarithmic_rows_have_no_bar() {
        let svg = chart(vec![row("a", &[1.0]), row("b", &[100.0])]);
        assert!(!svg.contains("class=\"bar"));
        assert!(svg.contains("subtitle; logarithmic scale"));
    }

    #[test]
    fn chart_has_a_title_a_dark_style_and_every_text() {
        let svg = chart(vec![row("label", &[1.0, 2.0, 3.0])]);
        for text in [
            "<title>a &lt; b</title>",
            "prefers-color-scheme: dark",
            ">panel<",
            ">label<",
            ">value<",
            ">note<",
            ">notes<",
            ">footer<",
        ] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 3);
    }
}
