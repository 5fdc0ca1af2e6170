//! The chart of a comparison: one panel for each figure, one bar for each server, the best on top,
//! with a line from the least to the most.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::chart::{Drawn, FONT};
use crate::failure::{Failure, Outcome};
use crate::spread::Spread;

const WIDTH_PIXELS: u32 = 900;
const CAPTION_PIXELS: i32 = 34;
const BAR_PIXELS: i32 = 24;
const GAP_PIXELS: i32 = 16;
/// Where the bars start and how far the longest goes.
const BARS_X: (i32, i32) = (330, 760);
/// Colours that readers with red-green blindness tell apart.
const BAR: RGBColor = RGBColor(140, 190, 222);
const LINE: RGBColor = RGBColor(0, 80, 130);

/// One figure of all servers.
#[derive(Debug)]
pub(crate) struct Panel<'names> {
    pub(crate) caption: String,
    /// Titles and figures, the best first.
    pub(crate) bars: Vec<(&'names str, Spread)>,
    /// Writes a figure with as many digits as mean something.
    pub(crate) text: fn(f64) -> String,
}

/// Draws `panels` into the SVG file `path`, one below the other.
pub(crate) fn draw(path: &Path, panels: &[Panel<'_>]) -> Outcome<()> {
    let named = |why: String| Failure::run(format!("{}: {why}", path.display()));
    let mut heights = Vec::new();
    for panel in panels {
        let bars = i32::try_from(panel.bars.len()).map_err(Failure::run)?;
        heights.push(CAPTION_PIXELS + bars * BAR_PIXELS + GAP_PIXELS);
    }
    let height = heights.iter().sum::<i32>().max(CAPTION_PIXELS).unsigned_abs();
    let area = SVGBackend::new(path, (WIDTH_PIXELS, height)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| named(error.to_string()))?;
    let mut top = 0;
    for (panel, height) in panels.iter().zip(heights) {
        draw_panel(&area, top, panel).map_err(|error| named(error.to_string()))?;
        top += height;
    }
    area.present().map_err(|error| named(error.to_string()))
}

fn draw_panel<'path>(
    area: &DrawingArea<SVGBackend<'path>, Shift>,
    top: i32,
    Panel { caption: name, bars, text }: &Panel<'_>,
) -> Drawn<'path> {
    let caption = (FONT, 17).into_font().style(FontStyle::Bold);
    area.draw(&Text::new(name.as_str(), (12, top + 10), caption))?;
    let most = bars.iter().map(|(_, spread)| spread.most).fold(f64::MIN_POSITIVE, f64::max);
    let name = TextStyle::from((FONT, 14)).pos(Pos::new(HPos::Right, VPos::Center));
    let value = TextStyle::from((FONT, 14)).pos(Pos::new(HPos::Left, VPos::Center));
    let mut middle = top + CAPTION_PIXELS + BAR_PIXELS / 2;
    for (title, spread) in bars {
        let [median, least, most] =
            [spread.median, spread.least, spread.most].map(|figure| place(figure, most));
        let half = BAR_PIXELS / 3;
        let bar = [(BARS_X.0, middle - half), (median, middle + half)];
        area.draw(&Text::new(*title, (BARS_X.0 - 8, middle), name.clone()))?;
        area.draw(&Rectangle::new(bar, BAR.filled()))?;
        area.draw(&PathElement::new([(least, middle), (most, middle)], LINE.stroke_width(2)))?;
        area.draw(&Text::new(text(spread.median), (most + 8, middle), value.clone()))?;
        middle += BAR_PIXELS;
    }
    Ok(())
}

/// The pixel of `figure` when `most` is the longest bar's.
#[expect(clippy::cast_possible_truncation, reason = "a share of some hundred pixels")]
fn place(figure: f64, most: f64) -> i32 {
    let (start, end) = BARS_X;
    start + ((figure / most).clamp(0.0, 1.0) * f64::from(end - start)).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_start_at_nought_and_end_with_the_longest() {
        assert_eq!([0.0, 5.0, 10.0, -3.0].map(|figure| place(figure, 10.0)), [330, 545, 760, 330]);
    }
}
