//! The ratios by block size as a picture: a panel a tier, a line a path and layout.
//!
//! Draws only what was measured, and needs nothing to be looked at: no script, font or style sheet
//! from elsewhere.

use std::fmt::Write;

use crate::domain::tier::Tier;
use crate::domain::units::Bytes;

use super::path::Path;
use super::report::Row;

const PANEL_WIDTH: f64 = 420.0;
const PANEL_HEIGHT: f64 = 230.0;
const MARGIN_LEFT: f64 = 62.0;
const MARGIN_TOP: f64 = 92.0;
/// From one panel to the next: room for the axis and the title.
const GAP_X: f64 = 78.0;
const GAP_Y: f64 = 112.0;
const MARGIN_BOTTOM: f64 = 84.0;
const MARGIN_RIGHT: f64 = 34.0;
const COLUMNS: usize = 2;

/// Told apart by people who see colours otherwise, too: Okabe and Ito, 2008.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];

/// One line: a path in one layout, its points by block size.
struct Line {
    name: String,
    points: Vec<(u64, f64)>,
    is_paged: bool,
}

/// What is drawn together.
struct Panel {
    title: &'static str,
    lines: Vec<Line>,
}

/// The whole picture. Rows stand path by path, as [`super::report::sort`] puts them.
#[must_use]
pub fn chart(rows: &[Row]) -> String {
    let panels = panels(rows);
    let mut blocks: Vec<u64> = rows.iter().map(|row| row.block_bytes).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let top = top_of(rows);
    let (width, height) = size_of(panels.len());
    let mut svg = head(width, height);
    for (at, panel) in panels.iter().enumerate() {
        let frame = Frame::new(at, &blocks, top);
        frame.draw(&mut svg, panel);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panels(rows: &[Row]) -> Vec<Panel> {
    let of = |title, wanted: fn(Path) -> bool| {
        let rows: Vec<&Row> = rows.iter().filter(|row| wanted(row.cell.path)).collect();
        Panel { title, lines: lines(&rows) }
    };
    let all = [
        of("HBM and DRAM", |path| path.far_tier() == Tier::Hbm && path != Path::HbmHbm),
        of("within HBM", |path| path == Path::HbmHbm),
        of("DRAM and NVMe", |path| path.far_tier() == Tier::Nvme),
        of("DRAM and object store", |path| path.far_tier() == Tier::Object),
    ];
    all.into_iter().filter(|panel| !panel.lines.is_empty()).collect()
}

fn lines(rows: &[&Row]) -> Vec<Line> {
    let same = |a: &&Row, b: &&Row| a.path == b.path && a.fragment() == b.fragment();
    let line = |rows: &[&Row]| {
        let fragment = rows[0].fragment();
        let layout = fragment.map(|bytes| format!(", pages of {}", Bytes(bytes)));
        Line {
            name: format!(
                "{}{}",
                rows[0].path.replace("<->", " ↔ ").replace("->", " → "),
                layout.unwrap_or_default()
            ),
            points: rows.iter().map(|row| (row.block_bytes, row.ratio)).collect(),
            is_paged: fragment.is_some(),
        }
    };
    rows.chunk_by(same).map(line).collect()
}

/// The top of the axis: above every point, and never below the limit itself.
fn top_of(rows: &[Row]) -> f64 {
    let highest = rows.iter().map(|row| row.ratio).fold(1.0, f64::max);
    ((highest + 0.05) / STEP).ceil() * STEP
}

/// From one line of the grid to the next.
const STEP: f64 = 0.25;

#[expect(clippy::cast_precision_loss, reason = "a handful of panels")]
fn size_of(panels: usize) -> (f64, f64) {
    let columns = panels.clamp(1, COLUMNS) as f64;
    let rows = panels.div_ceil(COLUMNS).max(1) as f64;
    let across = |count: f64, length: f64, gap: f64| count * length + (count - 1.0) * gap;
    (
        MARGIN_LEFT + across(columns, PANEL_WIDTH, GAP_X) + MARGIN_RIGHT,
        MARGIN_TOP + across(rows, PANEL_HEIGHT, GAP_Y) + MARGIN_BOTTOM,
    )
}

fn head(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"system-ui, 'DejaVu Sans', \
         sans-serif\" font-size=\"12\" fill=\"#333\">\n\
         <title>terrace bench tiers: share of the limit by block size</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN_LEFT}\" y=\"30\" font-size=\"17\" font-weight=\"600\">How close each \
         path comes to its limit</text>\n\
         <text x=\"{MARGIN_LEFT}\" y=\"50\" fill=\"#666\">throughput over the limit measured in \
         the same run, by block size; more is better</text>\n"
    )
}

/// A panel's place, and its axes.
struct Frame<'a> {
    left: f64,
    top: f64,
    blocks: &'a [u64],
    /// The ratio at the panel's top edge.
    ratio_max: f64,
}

impl<'a> Frame<'a> {
    #[expect(clippy::cast_precision_loss, reason = "a handful of panels")]
    fn new(at: usize, blocks: &'a [u64], ratio_max: f64) -> Self {
        let (column, row) = ((at % COLUMNS) as f64, (at / COLUMNS) as f64);
        let left = MARGIN_LEFT + column * (PANEL_WIDTH + GAP_X);
        let top = MARGIN_TOP + row * (PANEL_HEIGHT + GAP_Y);
        Self { left, top, blocks, ratio_max }
    }

    fn draw(&self, svg: &mut String, panel: &Panel) {
        let (x, y) = (self.left, self.top - 12.0);
        push(
            svg,
            format_args!(
                "<text x=\"{x}\" y=\"{y}\" font-size=\"13\" font-weight=\"600\">{}</text>",
                panel.title
            ),
        );
        self.grid(svg);
        for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
            self.line(svg, line, colour);
        }
        self.legend(svg, &panel.lines);
    }

    fn grid(&self, svg: &mut String) {
        let right = self.left + PANEL_WIDTH;
        let mut ratio = 0.0;
        while ratio <= self.ratio_max + 1e-9 {
            let y = self.y(ratio);
            // The limit stands out.
            let (stroke, wide) =
                if (ratio - 1.0).abs() < 1e-9 { ("#888", 1.5) } else { ("#e4e4e4", 1.0) };
            push(
                svg,
                format_args!(
                    "<line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\" \
                     stroke=\"{stroke}\" stroke-width=\"{wide}\"/>\
                     <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{:.0}%</text>",
                    self.left,
                    self.left - 8.0,
                    y + 4.0,
                    ratio * 100.0
                ),
            );
            ratio += STEP;
        }
        for block in self.blocks {
            push(
                svg,
                format_args!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{}</text>",
                    self.x(*block),
                    self.top + PANEL_HEIGHT + 18.0,
                    Bytes(*block)
                ),
            );
        }
    }

    fn line(&self, svg: &mut String, line: &Line, colour: &str) {
        let points = line.points.iter().map(|(block, ratio)| (self.x(*block), self.y(*ratio)));
        let path: Vec<String> = points.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        push(
            svg,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" \
                 stroke-width=\"2\"{}/>",
                path.join(" "),
                dashes(line)
            ),
        );
        for ((x, y), (block, ratio)) in points.zip(&line.points) {
            // The figure itself, for whoever points at it.
            push(
                svg,
                format_args!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\">\
                     <title>{}, {}: {:.1}%</title></circle>",
                    line.name,
                    Bytes(*block),
                    ratio * 100.0
                ),
            );
        }
    }

    /// Below the panel, in two columns.
    #[expect(clippy::cast_precision_loss, reason = "a handful of lines")]
    fn legend(&self, svg: &mut String, lines: &[Line]) {
        for (at, (line, colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let x = self.left + (at % 2) as f64 * PANEL_WIDTH / 2.0;
            let y = self.top + PANEL_HEIGHT + 42.0 + (at / 2) as f64 * 18.0;
            push(
                svg,
                format_args!(
                    "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" \
                     stroke=\"{colour}\" stroke-width=\"2\"{}/>\
                     <text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                    y - 4.0,
                    x + 24.0,
                    y - 4.0,
                    dashes(line),
                    x + 31.0,
                    line.name
                ),
            );
        }
    }

    /// Block sizes stand at equal steps, from edge to edge with some air.
    #[expect(clippy::cast_precision_loss, reason = "a handful of sizes")]
    fn x(&self, block: u64) -> f64 {
        let at = self.blocks.iter().position(|known| *known == block).unwrap_or(0) as f64;
        let step = PANEL_WIDTH / self.blocks.len() as f64;
        self.left + (at + 0.5) * step
    }

    fn y(&self, ratio: f64) -> f64 {
        self.top + PANEL_HEIGHT * (1.0 - ratio / self.ratio_max)
    }
}

/// Paged layouts are dashed.
fn dashes(line: &Line) -> &'static str {
    if line.is_paged { " stroke-dasharray=\"6 4\"" } else { "" }
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(svg, "{text}").expect("a string takes what is written to it");
}

#[cfg(test)]
mod tests {
    use super::super::report::sample;
    use super::*;

    #[test]
    fn every_row_is_a_point_inside_its_panel() {
        let rows = sample();
        let svg = chart(&rows);
        assert_eq!(svg.matches("<circle").count(), rows.len());
        assert_eq!(svg.matches("<polyline").count(), 12);
        assert!(svg.contains("dram ↔ hbm"), "{svg}");
        assert_eq!(svg.matches("stroke-dasharray").count(), 2 * 4, "lines and their legend");
        let (width, height) = size_of(4);
        let numbers = |name: &str| {
            let mark = format!("{name}=\"");
            let parts = svg.split(mark.as_str()).skip(1);
            let numbers = parts.map(|rest| rest.split('"').next().unwrap().parse().unwrap());
            numbers.collect::<Vec<f64>>()
        };
        assert!(numbers("cx").iter().all(|x| (0.0..width).contains(x)));
        assert!(numbers("cy").iter().all(|y| (0.0..height).contains(y)));
    }

    #[test]
    fn what_was_not_measured_has_no_panel() {
        let rows: Vec<_> =
            sample().into_iter().filter(|row| row.cell.path.far_tier() == Tier::Nvme).collect();
        let svg = chart(&rows);
        assert!(svg.contains("DRAM and NVMe") && !svg.contains("object"));
        assert_eq!(svg.matches("<polyline").count(), 2);
    }

    #[test]
    fn a_ratio_above_the_limit_stays_in_the_picture() {
        let mut rows = sample();
        rows[0].ratio = 1.31;
        assert!((top_of(&rows) - 1.5).abs() < 1e-9);
        let frame = Frame { left: 0.0, top: 0.0, blocks: &[1], ratio_max: top_of(&rows) };
        assert!(frame.y(1.31) > 0.0 && frame.y(0.0) <= PANEL_HEIGHT);
    }
}
