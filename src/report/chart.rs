//! Charts with the page's colours: kuva draws them as SVG, and the page's style sheet says what its
//! variables are.

use kuva::{
    backend::svg::SvgBackend,
    plot::{
        legend::{LegendEntry, LegendPosition, LegendShape},
        scatter::MarkerShape,
    },
    render::{layout::Layout, plots::Plot, render::render_multiple, theme::Theme},
};
use maud::html;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 320.0;

/// Size of texts. On a phone a chart is shown at about 0.7 of its size.
const TEXT: u32 = 14;

/// Height of a line of the legend.
const LINE: f64 = 20.0;

/// Series that colours tell apart. Each has a marker of its own too.
pub const SERIES: usize = 8;

const MARKERS: [MarkerShape; SERIES] = [
    MarkerShape::Circle,
    MarkerShape::Square,
    MarkerShape::Triangle,
    MarkerShape::Diamond,
    MarkerShape::TriangleDown,
    MarkerShape::Pentagon,
    MarkerShape::Star,
    MarkerShape::Hexagon,
];

/// Colour of gains, and of a single series.
pub const GAIN: &str = "var(--s0)";
/// Colour of losses.
pub const LOSS: &str = "var(--s1)";
/// Colour of texts and axes.
pub const INK: &str = "var(--ink)";

/// Colour of the i-th series.
pub fn colour(i: usize) -> String {
    format!("var(--s{})", i % SERIES)
}

/// Marker of the i-th series.
pub fn marker(i: usize) -> MarkerShape {
    MARKERS[i % SERIES]
}

/// A chart to be drawn.
pub struct Chart {
    plots: Vec<Plot>,
    layout: Layout,
    height: f64,
    legend: Vec<LegendEntry>,
}

impl Chart {
    /// Of `plots`, with axes that say what they are and in which unit.
    pub fn new(plots: Vec<Plot>, x: &str, y: &str) -> Self {
        let theme = Theme {
            background: "none".into(),
            axis_color: INK.into(),
            tick_color: INK.into(),
            text_color: INK.into(),
            grid_color: "var(--grid)".into(),
            legend_bg: "none".into(),
            legend_border: "none".into(),
            colorbar_border: INK.into(),
            font_family: Some("inherit".into()),
            ..Theme::light()
        };
        let layout = Layout::auto_from_plots(&plots)
            .with_theme(theme)
            .with_width(WIDTH)
            .with_label_size(TEXT)
            .with_tick_size(TEXT)
            .with_body_size(TEXT)
            .with_x_label(x)
            .with_y_label(y);
        Chart { plots, layout, height: HEIGHT, legend: Vec::new() }
    }

    /// With another layout.
    pub fn layout(mut self, change: impl FnOnce(Layout) -> Layout) -> Self {
        self.layout = change(self.layout);
        self
    }

    /// With another height than usual, before the legend.
    pub fn height(mut self, height: f64) -> Self {
        self.height = height;
        self
    }

    /// With a legend below: names, the i-th that of the i-th series, whose marker is `marker(i)`.
    pub fn legend(mut self, names: &[String], marker: impl Fn(usize) -> MarkerShape) -> Self {
        let entry = |(i, label): (usize, &String)| LegendEntry {
            label: label.clone(),
            color: colour(i),
            shape: LegendShape::Marker(marker(i)),
            dasharray: None,
        };
        self.legend = names.iter().enumerate().map(entry).collect();
        self
    }

    /// As SVG, to stand in a page; `description` is read in its place.
    pub fn draw(self, description: &str) -> String {
        let (height, lines) = (self.height, self.legend.len() as f64 * LINE);
        let mut layout = self.layout.with_height(height + lines);
        if !self.legend.is_empty() {
            layout = layout
                .with_legend_position(LegendPosition::OutsideBottomColumns)
                .with_legend_box(false)
                .with_legend_col_limit(1)
                .with_legend_entries(self.legend);
        }
        let svg = SvgBackend::new().render_scene(&render_multiple(self.plots, layout));
        let (opening, rest) = svg.split_once('>').unwrap_or((&svg, ""));
        let size = |name: &str| {
            let value = opening.split_once(&format!(" {name}=\""))?.1;
            value.split('"').next()
        };
        let view = format!("0 0 {} {}", size("width").unwrap_or("0"), size("height").unwrap_or("0"));
        let attributes = html! { svg viewBox=(view) role="img" aria-label=(description) {} }.into_string();
        let attributes = attributes.trim_start_matches("<svg").trim_end_matches("></svg>");
        format!("{opening}{attributes}>{rest}")
    }
}
