//! The picture of a rolling restart: who was connected to which process over time, and below it the
//! closes of each second. Everything is told from the clients' side.

use std::collections::BTreeMap;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::Times;
use super::crowd::Move;
use crate::chart::{BLUE, Drawn, FONT, ORANGE, draw_legend, draw_line};
use crate::failure::{Failure, Outcome};

const PIXELS: (u32, u32) = (900, 560);
const UPPER_PIXELS: u32 = 360;
/// Seconds shown before the second process starts, and after the first has ended.
const MARGIN_SECONDS: f64 = 1.0;
/// Steps of a curve a second.
const STEPS_PER_SECOND: f64 = 20.0;
const GREY: RGBColor = RGBColor(120, 120, 120);

/// A curve: its name, its colour, and how many were there at a moment.
type Curve<'moves> = (&'static str, RGBColor, Box<dyn Fn(f64) -> u32 + 'moves>);

/// Draws into the SVG file `path`.
pub(super) fn draw(
    path: &Path,
    title: &str,
    subscribers: u32,
    moves: &[Move],
    times: &Times,
) -> Outcome<()> {
    let named = |why: String| Failure::run(format!("{}: {why}", path.display()));
    let area = SVGBackend::new(path, PIXELS).into_drawing_area();
    area.fill(&WHITE).map_err(|error| named(error.to_string()))?;
    let (upper, lower) = area.split_vertically(UPPER_PIXELS);
    // By client: when it was closed and open again, in seconds from the signal.
    let bars = closes_by_second(moves, times.signal_ns);
    let from_signal = |ns: u64| (ns as f64 - times.signal_ns as f64) / 1e9;
    let moves: Vec<(f64, f64)> =
        moves.iter().map(|it| (from_signal(it.closed_ns), from_signal(it.opened_ns))).collect();
    let last = moves.iter().map(|(_, opened)| *opened).fold(0.0, f64::max);
    let start = from_signal(times.second_ns) - MARGIN_SECONDS;
    let end = from_signal(times.ended_ns).max(last) + MARGIN_SECONDS;
    draw_connections(&upper, title, subscribers, &moves, (start, end))
        .map_err(|error| named(error.to_string()))?;
    draw_closes(&lower, &bars, (start, end)).map_err(|error| named(error.to_string()))?;
    area.present().map_err(|error| named(error.to_string()))
}

fn draw_connections<'path>(
    panel: &DrawingArea<SVGBackend<'path>, Shift>,
    title: &str,
    subscribers: u32,
    moves: &[(f64, f64)],
    (start, end): (f64, f64),
) -> Drawn<'path> {
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("subscribers by process, {title}"), (FONT, 18))
        .margin(12)
        .x_label_area_size(20)
        .y_label_area_size(60)
        .build_cartesian_2d(start..end, 0..subscribers + subscribers / 20 + 1)?;
    chart
        .configure_mesh()
        .x_labels(12)
        .max_light_lines(1)
        .x_label_formatter(&whole)
        .y_desc("connected")
        .draw()?;
    let count = |holds: &dyn Fn(&&(f64, f64)) -> bool| {
        u32::try_from(moves.iter().filter(holds).count()).unwrap_or(u32::MAX)
    };
    let curves: [Curve<'_>; 3] = [
        ("first process", BLUE, Box::new(|at| subscribers - count(&|it| it.0 <= at))),
        ("second process", ORANGE, Box::new(|at| count(&|it| it.1 <= at))),
        ("away", GREY, Box::new(|at| count(&|it| it.0 <= at && it.1 > at))),
    ];
    for (name, colour, connected) in curves {
        let steps = (0..)
            .map(|step: u32| start + f64::from(step) / STEPS_PER_SECOND)
            .take_while(|at| *at <= end);
        let points = steps.map(|at| (at, connected(at)));
        draw_line(&mut chart, name, points, colour)?;
    }
    draw_legend(&mut chart, SeriesLabelPosition::MiddleLeft)
}

fn draw_closes<'path>(
    panel: &DrawingArea<SVGBackend<'path>, Shift>,
    bars: &[(u32, u32)],
    (start, end): (f64, f64),
) -> Drawn<'path> {
    let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let mut chart = ChartBuilder::on(panel)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(start..end, 0..most + most / 10 + 1)?;
    chart
        .configure_mesh()
        .x_labels(12)
        .max_light_lines(1)
        .y_labels(5)
        .x_label_formatter(&whole)
        .x_desc("seconds since SIGTERM to the first process")
        .y_desc("closes 1012 a second")
        .draw()?;
    chart.draw_series(bars.iter().map(|(second, count)| {
        let (left, right) = (f64::from(*second), f64::from(*second) + 1.0);
        Rectangle::new([(left + 0.05, 0), (right - 0.05, *count)], BLUE.filled())
    }))?;
    Ok(())
}

/// How many were closed in each second from the signal.
fn closes_by_second(moves: &[Move], signal_ns: u64) -> Vec<(u32, u32)> {
    let mut bars = BTreeMap::new();
    for it in moves {
        let second = it.closed_ns.saturating_sub(signal_ns) / 1_000_000_000;
        *bars.entry(u32::try_from(second).unwrap_or(u32::MAX)).or_insert(0) += 1;
    }
    bars.into_iter().collect()
}

fn whole(second: &f64) -> String {
    format!("{second:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_are_counted_by_second() {
        let closed = |ms: u64| Move { closed_ns: ms * 1_000_000, opened_ns: 0 };
        let moves = [closed(5_200), closed(5_900), closed(7_000)];
        assert_eq!(closes_by_second(&moves, 5_000_000_000), [(0, 2), (2, 1)]);
    }
}
