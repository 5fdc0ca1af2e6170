//! The curves of a comparison: latency over the percentile, whose axis gives every further nine
//! the same width, one panel for each tag.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::compare::Compared;
use crate::failure::{Failure, Outcome};

const PANEL_PIXELS: (u32, u32) = (900, 380);
const POINTS_PER_NINE: u32 = 40;
pub(crate) const FONT: &str = "sans-serif";
/// Colours that readers with red-green blindness tell apart.
pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(crate) const ORANGE: RGBColor = RGBColor(213, 94, 0);

/// Whether something could be drawn.
pub(crate) type Drawn<'path> =
    Result<(), DrawingAreaErrorKind<<SVGBackend<'path> as DrawingBackend>::ErrorType>>;

/// Draws `pairs` into the SVG file `path`.
pub(crate) fn draw(path: &Path, pairs: &[Compared]) -> Outcome<()> {
    let named = |why: String| Failure::run(format!("{}: {why}", path.display()));
    let panels = u32::try_from(pairs.len()).map_err(Failure::run)?;
    let size = (PANEL_PIXELS.0, PANEL_PIXELS.1 * panels);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE).map_err(|error| named(error.to_string()))?;
    for (pair, panel) in pairs.iter().zip(area.split_evenly((pairs.len(), 1))) {
        draw_panel(&panel, pair).map_err(|error| named(error.to_string()))?;
    }
    area.present().map_err(|error| named(error.to_string()))
}

fn draw_panel<'path>(
    panel: &DrawingArea<SVGBackend<'path>, Shift>,
    pair: &Compared,
) -> Drawn<'path> {
    let (before, after) = (curve(&pair.before), curve(&pair.after));
    let all = || before.iter().chain(&after);
    let nines = all().map(|(nines, _)| *nines).fold(1.0, f64::max);
    let least = all().map(|(_, us)| *us).fold(f64::MAX, f64::min).max(0.1);
    let most = all().map(|(_, us)| *us).fold(least * 2.0, f64::max);
    let mut chart = ChartBuilder::on(panel)
        .caption(&pair.tag, (FONT, 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..nines, (least..most * 1.1).log_scale())?;
    chart
        .configure_mesh()
        .x_labels(8)
        .x_label_formatter(&|nines| percentile_name(*nines))
        .x_desc("percentile")
        .y_desc("latency, µs")
        .draw()?;
    for (name, points, colour) in [("A", before, BLUE), ("B", after, ORANGE)] {
        draw_line(&mut chart, name, points, colour)?;
    }
    draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

/// Draws a curve that the legend names.
pub(crate) fn draw_line<'path, P: Clone + 'static, T: CoordTranslate<From = P>>(
    chart: &mut ChartContext<'path, SVGBackend<'path>, T>,
    name: &str,
    points: impl IntoIterator<Item = P>,
    colour: RGBColor,
) -> Drawn<'path> {
    chart
        .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    Ok(())
}

/// Says which curve is whose.
pub(crate) fn draw_legend<'path, T: CoordTranslate>(
    chart: &mut ChartContext<'path, SVGBackend<'path>, T>,
    position: SeriesLabelPosition,
) -> Drawn<'path> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()
}

/// Points of nines (0: the minimum, 1: p90, 2: p99, …) and microseconds, as far as there are
/// values enough for another nine.
#[expect(clippy::cast_precision_loss, reason = "counts and times are far below 2^53")]
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let nines_max = (histogram.len() as f64).log10().max(1.0);
    (0..)
        .map(|step: u32| f64::from(step) / f64::from(POINTS_PER_NINE))
        .take_while(|nines| *nines <= nines_max)
        .map(|nines| {
            let quantile = 1.0 - 10_f64.powf(-nines);
            (nines, histogram.value_at_quantile(quantile) as f64 / 1000.0)
        })
        .collect()
}

/// The percentile at a place of the axis: 90, 99, 99.9 and so on.
fn percentile_name(nines: f64) -> String {
    let percent = 100.0 - 100.0 * 10_f64.powf(-nines);
    let decimals = if nines <= 2.0 { 0.0 } else { (nines - 2.0).ceil() };
    match decimals {
        0.0 => format!("{percent:.0}"),
        1.0 => format!("{percent:.1}"),
        2.0 => format!("{percent:.2}"),
        3.0 => format!("{percent:.3}"),
        _ => format!("{percent:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::histogram;

    #[test]
    fn percentiles_are_named_with_as_many_nines_as_they_have() {
        assert_eq!(percentile_name(0.0), "0");
        assert_eq!(percentile_name(1.0), "90");
        assert_eq!(percentile_name(2.0), "99");
        assert_eq!(percentile_name(3.0), "99.9");
        assert_eq!(percentile_name(5.0), "99.999");
    }

    #[test]
    fn a_curve_ends_where_the_values_do() {
        let mut histogram = histogram();
        (1..=1000).for_each(|us| histogram.saturating_record(us * 1000));
        let curve = curve(&histogram);
        assert_eq!(curve.len(), 121);
        assert!(curve[40].1 > 890.0 && curve[40].1 < 910.0, "p90 of 1..1000: {:?}", curve[40]);
    }
}
