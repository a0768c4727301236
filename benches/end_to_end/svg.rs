//! SVG, written by hand: bars and lines are a few elements, and a library for them would be the
//! largest dependency of all.

const FONT: &str = "font-family=\"sans-serif\" font-size=\"12\"";
const WIDTH: f64 = 960.0;
/// Where bars begin: left of it stand their names.
const LEFT: f64 = 300.0;
const RIGHT: f64 = 130.0;
const ROW: f64 = 18.0;
/// Told apart with all kinds of colour vision (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999"];

/// A bar of parts, and its runs as dots.
pub struct Bar {
    pub name: String,
    /// Name of the legend's entry and size.
    pub parts: Vec<(String, f64)>,
    pub dots: Vec<f64>,
    pub label: String,
}

pub struct Bars {
    pub title: String,
    pub groups: Vec<(String, Vec<Bar>)>,
}

/// A line through points.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

fn colour(index: usize) -> &'static str {
    COLOURS.get(index % COLOURS.len()).copied().unwrap_or("black")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(x: f64, y: f64, anchor: &str, words: &str) -> String {
    let words = escaped(words);
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {FONT}>{words}</text>\n")
}

fn page(height: f64, title: &str, about: &str, body: &str) -> String {
    let (title, about) = (escaped(title), escaped(about));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"26\" font-family=\"sans-serif\" font-size=\"17\">{title}</text>\n\
         <text x=\"20\" y=\"44\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#555\">{about}</text>\n{body}</svg>\n"
    )
}

/// A line of the legend for each name.
fn legend(names: &[String], x: f64, y: f64) -> String {
    let mut body = String::new();
    let mut at = x;
    for (index, name) in names.iter().enumerate() {
        let fill = colour(index);
        body += &format!(
            "<rect x=\"{at:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{fill}\"/>\n",
            y - 9.0
        );
        body += &text(at + 14.0, y, "start", name);
        at += 30.0 + 6.6 * name.len() as f64;
    }
    body
}

impl Bars {
    pub fn svg(&self, about: &str) -> String {
        let bars = || self.groups.iter().flat_map(|(_, bars)| bars);
        let mut names: Vec<String> = Vec::new();
        for (name, _) in bars().flat_map(|bar| &bar.parts) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let length = |bar: &Bar| bar.parts.iter().map(|(_, size)| size).sum::<f64>();
        let ends = bars().flat_map(|bar| bar.dots.iter().copied().chain([length(bar)]));
        let scale = (WIDTH - LEFT - RIGHT) / ends.fold(f64::MIN_POSITIVE, f64::max);
        let has_legend = names.len() > 1;
        let mut y = if has_legend { 90.0 } else { 70.0 };
        let mut body = if has_legend { legend(&names, 20.0, 66.0) } else { String::new() };
        for (name, bars) in &self.groups {
            body += &format!(
                "<text x=\"20\" y=\"{y:.1}\" font-weight=\"bold\" {FONT}>{}</text>\n",
                escaped(name)
            );
            y += 6.0;
            for bar in bars {
                body += &bar.svg(&names, scale, y);
                y += ROW;
            }
            y += ROW + 4.0;
        }
        page(y, &self.title, about, &body)
    }
}

impl Bar {
    fn svg(&self, names: &[String], scale: f64, y: f64) -> String {
        let mut body = text(LEFT - 8.0, y + 12.0, "end", &self.name);
        let mut x = LEFT;
        for (name, size) in &self.parts {
            let fill = colour(names.iter().position(|known| known == name).unwrap_or(0));
            let width = size * scale;
            body += &format!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"14\" fill=\"{fill}\"/>\n"
            );
            x += width;
        }
        let mut end = x;
        for dot in &self.dots {
            let at = LEFT + dot * scale;
            end = end.max(at);
            body += &format!(
                "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"none\" stroke=\"black\"/>\n",
                y + 7.0
            );
        }
        body + &text(end + 8.0, y + 12.0, "start", &self.label)
    }
}

const PLOT: (f64, f64, f64, f64) = (70.0, 90.0, 860.0, 380.0);

/// Shares of events against milliseconds, both so stretched that tails can be seen.
pub fn curves(title: &str, about: &str, lines: &[Line]) -> String {
    let (left, top, width, height) = PLOT;
    let points = || lines.iter().flat_map(|line| &line.points);
    let least = points().map(|(_, ms)| *ms).fold(f64::INFINITY, f64::min).max(0.01);
    let most = points().map(|(_, ms)| *ms).fold(least * 10.0, f64::max);
    let (low, high) = (least.log10().floor(), most.log10().ceil());
    let across = |share: f64| left + width * nines(share) / nines(1.0);
    let up = |ms: f64| top + height * (1.0 - (ms.max(1e-3).log10().max(low) - low) / (high - low));
    let mut body = String::new();
    for (share, name) in
        [(0.1, "p10"), (0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")]
    {
        let x = across(share);
        body += &rule(x, top, x, top + height);
        body += &text(x, top + height + 18.0, "middle", name);
    }
    let mut decade = low;
    while decade <= high {
        let ms = 10_f64.powf(decade);
        let y = up(ms);
        body += &rule(left, y, left + width, y);
        body += &text(left - 6.0, y + 4.0, "end", &format!("{ms} ms"));
        decade += 1.0;
    }
    for (index, line) in lines.iter().enumerate() {
        let points =
            line.points.iter().map(|(share, ms)| format!("{:.1},{:.1}", across(*share), up(*ms)));
        let points: Vec<String> = points.collect();
        let stroke = colour(index);
        body += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\"/>\n",
            points.join(" ")
        );
    }
    let names: Vec<String> = lines.iter().map(|line| line.name.clone()).collect();
    body += &legend(&names, 20.0, 66.0);
    page(top + height + 40.0, title, about, &body)
}

/// How many nines a share has; the maximum stands a bit beyond the last.
fn nines(share: f64) -> f64 {
    -(1.0 - share).max(2e-4).log10()
}

fn rule(x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>\n")
}
