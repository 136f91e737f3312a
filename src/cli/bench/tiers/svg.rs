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
/// From one panel to the next: room for the axis and the title. Legends come on top of it.
const GAP_X: f64 = 78.0;
const GAP_Y: f64 = 58.0;
const MARGIN_BOTTOM: f64 = 30.0;
const MARGIN_RIGHT: f64 = 34.0;
const COLUMNS: usize = 2;

/// A legend below its panel: where it begins, how far apart its rows are, and how many stand in one.
const LEGEND_TOP: f64 = 42.0;
const LEGEND_ROW: f64 = 18.0;
const LEGEND_COLUMNS: usize = 2;

/// A path has one of these. Told apart by people who see colours otherwise, too: Okabe and Ito, 2008.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];

/// A block in one piece is a line without gaps, and each length of fragments has dashes of its own.
const WHOLE: &str = "none";
const PAGED: [&str; 5] = ["6 4", "2 3", "10 4 2 4", "14 5", "1 6"];

/// One line: a path in one layout, its points by block size.
struct Line {
    name: String,
    points: Vec<(u64, f64)>,
    colour: &'static str,
    dashes: &'static str,
}

/// What is drawn together.
struct Panel {
    title: &'static str,
    lines: Vec<Line>,
}

impl Panel {
    #[expect(clippy::cast_precision_loss, reason = "a handful of lines")]
    fn legend_height(&self) -> f64 {
        self.lines.len().div_ceil(LEGEND_COLUMNS) as f64 * LEGEND_ROW
    }
}

/// The whole picture. Rows stand path by path, as [`super::report::sort`] puts them.
#[must_use]
pub fn chart(rows: &[Row]) -> String {
    let panels = panels(rows);
    let mut blocks: Vec<u64> = rows.iter().map(|row| row.block_bytes).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let top = top_of(rows);
    let legend_height = panels.iter().map(Panel::legend_height).fold(0.0, f64::max);
    let (width, height) = size_of(panels.len(), legend_height);
    let mut svg = head(width, height);
    for (at, panel) in panels.iter().enumerate() {
        let frame = Frame::new(at, legend_height, &blocks, top);
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
    let mut paths: Vec<Path> = rows.iter().map(|row| row.cell.path).collect();
    paths.dedup();
    let mut fragments: Vec<u64> = rows.iter().filter_map(|row| row.fragment()).collect();
    fragments.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
    fragments.dedup();
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
            colour: COLOURS[number_of(&paths, &rows[0].cell.path) % COLOURS.len()],
            dashes: fragment
                .map_or(WHOLE, |bytes| PAGED[number_of(&fragments, &bytes) % PAGED.len()]),
        }
    };
    rows.chunk_by(same).map(line).collect()
}

fn number_of<T: PartialEq>(known: &[T], one: &T) -> usize {
    known.iter().position(|other| other == one).expect("it was gathered from the same rows")
}

/// The top of the axis: above every point, and never below the limit itself.
fn top_of(rows: &[Row]) -> f64 {
    let highest = rows.iter().map(|row| row.ratio).fold(1.0, f64::max);
    ((highest + 0.05) / STEP).ceil() * STEP
}

/// From one line of the grid to the next.
const STEP: f64 = 0.25;

#[expect(clippy::cast_precision_loss, reason = "a handful of panels")]
fn size_of(panels: usize, legend_height: f64) -> (f64, f64) {
    let columns = panels.clamp(1, COLUMNS) as f64;
    let rows = panels.div_ceil(COLUMNS).max(1) as f64;
    let across = |count: f64, length: f64, gap: f64| count * length + (count - 1.0) * gap;
    (
        MARGIN_LEFT + across(columns, PANEL_WIDTH, GAP_X) + MARGIN_RIGHT,
        MARGIN_TOP + across(rows, PANEL_HEIGHT + legend_height, GAP_Y) + MARGIN_BOTTOM,
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
    fn new(at: usize, legend_height: f64, blocks: &'a [u64], ratio_max: f64) -> Self {
        let (column, row) = ((at % COLUMNS) as f64, (at / COLUMNS) as f64);
        let left = MARGIN_LEFT + column * (PANEL_WIDTH + GAP_X);
        let top = MARGIN_TOP + row * (PANEL_HEIGHT + legend_height + GAP_Y);
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
        for line in &panel.lines {
            self.line(svg, line);
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

    fn line(&self, svg: &mut String, line: &Line) {
        let Line { colour, dashes, .. } = line;
        let points = line.points.iter().map(|(block, ratio)| (self.x(*block), self.y(*ratio)));
        let path: Vec<String> = points.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        push(
            svg,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" \
                 stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>",
                path.join(" ")
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

    /// Below the panel.
    #[expect(clippy::cast_precision_loss, reason = "a handful of lines")]
    fn legend(&self, svg: &mut String, lines: &[Line]) {
        for (at, Line { name, colour, dashes, .. }) in lines.iter().enumerate() {
            let (column, row) = ((at % LEGEND_COLUMNS) as f64, (at / LEGEND_COLUMNS) as f64);
            let x = self.left + column * PANEL_WIDTH / LEGEND_COLUMNS as f64;
            let y = self.top + PANEL_HEIGHT + LEGEND_TOP + row * LEGEND_ROW;
            push(
                svg,
                format_args!(
                    "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" \
                     stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>\
                     <text x=\"{:.1}\" y=\"{y:.1}\">{name}</text>",
                    y - 4.0,
                    x + 24.0,
                    y - 4.0,
                    x + 31.0
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

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(svg, "{text}").expect("a string takes what is written to it");
}

#[cfg(test)]
mod tests {
    use super::super::args::Cell;
    use super::super::report::{self, sample};
    use super::*;

    #[test]
    fn every_row_is_a_point_inside_its_panel() {
        let rows = sample();
        let svg = chart(&rows);
        assert_eq!(svg.matches("<circle").count(), rows.len());
        assert_eq!(svg.matches("<polyline").count(), 12);
        assert!(svg.contains("dram ↔ hbm"), "{svg}");
        assert_eq!(svg.matches("\"6 4\"").count(), 2 * 4, "lines and their legend");
        assert!(attributes(&svg, "cx").iter().all(|x| (0.0..width(&svg)).contains(x)));
        assert!(attributes(&svg, "cy").iter().all(|y| (0.0..height(&svg)).contains(y)));
    }

    #[test]
    fn however_many_layouts_each_line_is_told_apart_and_has_a_place_in_the_legend() {
        let mut rows = sample();
        for fragment_bytes in [8 << 10, 32 << 10] {
            for row in sample().into_iter().filter(|row| row.fragment().is_some()) {
                let cell = Cell { fragment_bytes, ..row.cell };
                rows.push(Row { fragment_bytes, cell, ..row });
            }
        }
        report::sort(&mut rows);
        let panels = panels(&rows);
        assert_eq!(panels[0].lines.len(), 12);
        for panel in &panels {
            let mut looks: Vec<_> =
                panel.lines.iter().map(|line| (line.colour, line.dashes)).collect();
            looks.sort_unstable();
            looks.dedup();
            assert_eq!(looks.len(), panel.lines.len(), "{}", panel.title);
        }
        let svg = chart(&rows);
        let lowest = attributes(&svg, "y").into_iter().fold(0.0, f64::max);
        assert!(lowest < height(&svg), "{lowest}");
        let title = svg.lines().find(|line| line.contains(">DRAM and NVMe<")).unwrap();
        let title_y = attributes(title, "y")[0];
        let last =
            svg.lines().rev().find(|line| line.ends_with(">dram ↔ hbm, pages of 8 KiB</text>"));
        let last_y = *attributes(last.unwrap(), "y").last().unwrap();
        assert!(last_y + LEGEND_ROW < title_y, "{last_y} {title_y}");
    }

    /// All values of one attribute.
    fn attributes(svg: &str, name: &str) -> Vec<f64> {
        let mark = format!(" {name}=\"");
        let parts = svg.split(mark.as_str()).skip(1);
        parts.filter_map(|rest| rest.split('"').next().unwrap().parse().ok()).collect()
    }

    fn width(svg: &str) -> f64 {
        attributes(svg, "width")[0]
    }

    fn height(svg: &str) -> f64 {
        attributes(svg, "height")[0]
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
