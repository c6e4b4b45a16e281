//! `/debug` on the admin port: what the process is doing, for a person in a hurry, and the same as JSON.
//!
//! Owners add views, named values that are made when they are asked for. Behind them stand all metrics: counters and
//! gauges as they are, histograms as their count, mean and quantiles. What is shown is bounded.

use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::{Map, Value, json};

/// What is shown besides metrics. Clones are the same.
#[derive(Clone, Default)]
pub struct Views(Arc<RwLock<Vec<(&'static str, View)>>>);

type View = Arc<dyn Fn() -> Value + Send + Sync>;

impl Views {
    /// Adds a view, or replaces the one of that name. Lists of objects become tables.
    pub fn add(&self, name: &'static str, view: impl Fn() -> Value + Send + Sync + 'static) {
        let mut views = self.0.write();
        views.retain(|(known, _)| *known != name);
        views.push((name, Arc::new(view)));
    }

    /// All views with what is in `metrics`, which is OpenMetrics text.
    pub(crate) fn show(&self, metrics: &str) -> Value {
        let views = self.0.read().clone();
        let mut shown: Map<String, Value> =
            views.iter().map(|(name, view)| ((*name).to_owned(), bounded(view()))).collect();
        shown.insert("metrics".to_owned(), bounded(Value::Array(samples(metrics))));
        Value::Object(shown)
    }
}

/// Cuts lists that are too long for a page, and says so.
fn bounded(value: Value) -> Value {
    match value {
        Value::Array(mut rows) => {
            let more = rows.len().saturating_sub(ROWS_MAX);
            rows.truncate(ROWS_MAX);
            rows = rows.into_iter().map(bounded).collect();
            if more > 0 {
                rows.push(json!({ "more": more }));
            }
            Value::Array(rows)
        }
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, bounded(value))).collect(),
        other => other,
    }
}

/// One row for each sample; histograms are one row for all their buckets.
fn samples(text: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    let mut sum = f64::NAN;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.split_once("} ").or_else(|| line.split_once(' ')) else { continue };
        // What stands behind the value is an exemplar.
        let Ok(value) = value.split(' ').next().unwrap_or_default().parse::<f64>() else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        if name.ends_with("_sum") {
            sum = value;
        } else if name.ends_with("_count") {
            buckets.clear();
        } else if let Some(name) = name.strip_suffix("_bucket") {
            let (bound, labels) = bound_and_rest(labels);
            buckets.push((bound, value));
            if bound.is_infinite() {
                rows.push(histogram(name, &labels, &buckets, sum));
                buckets.clear();
            }
        } else {
            rows.push(json!({ "name": name, "labels": labels, "value": value }));
        }
    }
    rows
}

/// The value of the label `le`, and the other labels.
fn bound_and_rest(labels: &str) -> (f64, String) {
    let (before, rest) = labels.split_once("le=\"").unwrap_or((labels, ""));
    let (bound, behind) = rest.split_once('"').unwrap_or((rest, ""));
    let others = [before.trim_end_matches(','), behind.trim_start_matches(',')];
    let others: Vec<&str> = others.into_iter().filter(|labels| !labels.is_empty()).collect();
    (bound.parse().unwrap_or(f64::INFINITY), others.join(","))
}

fn histogram(name: &str, labels: &str, buckets: &[(f64, f64)], sum: f64) -> Value {
    let count = buckets.last().map_or(0.0, |(_, count)| *count);
    let mut row = json!({ "name": name, "labels": labels, "value": count });
    if count > 0.0 {
        row["mean"] = json!(sum / count);
        for (key, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
            row[key] = json!(quantile(buckets, count * share));
        }
    }
    row
}

/// Between the bounds of the bucket that holds the rank, evenly; of the last bucket only the lower bound is known.
fn quantile(buckets: &[(f64, f64)], rank: f64) -> f64 {
    let at = buckets.iter().position(|(_, count)| *count >= rank).unwrap_or(0);
    let (lower, below) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    let (upper, count) = buckets[at];
    if upper.is_infinite() { lower } else { lower + (upper - lower) * (rank - below) / (count - below).max(1.0) }
}

/// A page of tables.
pub(crate) fn page(shown: &Value) -> String {
    let mut html = String::from(HEAD);
    for (name, value) in shown.as_object().into_iter().flatten() {
        let _ = write!(html, "<h2 id=\"{0}\">{0}</h2>", escaped(name));
        render(&mut html, value);
    }
    html.push_str("</main>\n");
    html
}

fn render(html: &mut String, value: &Value) {
    match value {
        Value::Array(rows) if rows.iter().any(Value::is_object) => table(html, rows),
        Value::Array(items) if items.is_empty() => html.push_str("<p>none</p>"),
        Value::Object(fields) => {
            html.push_str("<table>");
            for (name, value) in fields {
                let _ = write!(html, "<tr><th scope=\"row\">{}</th><td>", escaped(name));
                render(html, value);
                html.push_str("</td></tr>");
            }
            html.push_str("</table>");
        }
        other => html.push_str(&escaped(&word(other))),
    }
}

/// Every key that some row has is a column, in the order of their appearance.
fn table(html: &mut String, rows: &[Value]) {
    let mut columns: Vec<&String> = Vec::new();
    for name in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    html.push_str("<table><thead><tr>");
    for column in &columns {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escaped(column));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for column in &columns {
            let number = if row[column.as_str()].is_number() { " class=\"n\"" } else { "" };
            let _ = write!(html, "<td{number}>");
            render(html, &row[column.as_str()]);
            html.push_str("</td>");
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table>");
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() != 0.0 => format!("{float:.6}").trim_end_matches('0').to_owned(),
            Some(float) => format!("{float}"),
            None => number.to_string(),
        },
        Value::Array(items) => items.iter().map(word).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Rows of one list.
const ROWS_MAX: usize = 500;

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>debug</title>\
<meta name=\"viewport\" content=\"width=device-width\"><style>\
body{font:14px/1.4 system-ui,sans-serif;margin:1.5rem;color:#1b1b1b;background:#fff}h2{margin:1.6rem 0 .4rem;font-size:1.1rem}\
table{border-collapse:collapse}td,th{padding:.2rem .7rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #e4e4e4}\
thead th{font-weight:600;border-bottom:2px solid #999}th[scope=row]{font-weight:500;color:#444}\
.n{text-align:right;font-variant-numeric:tabular-nums}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}td,th{border-color:#333}th[scope=row]{color:#aaa}}\
</style><main><h1>debug</h1><p><a href=\"/debug.json\">the same as JSON</a> · <a href=\"/metrics\">metrics</a></p>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_become_rows_and_histograms_one_each() {
        let buckets = |labels: [&str; 3]| {
            let counts = labels.iter().zip([2, 4, 4]).map(|(labels, count)| format!("x_bucket{{{labels}}} {count}\n"));
            format!("# TYPE x histogram\nx_sum{{a=\"1\"}} 3.0\nx_count{{a=\"1\"}} 4\n{}", counts.collect::<String>())
        };
        // Encoders write `le` first, or last.
        let first = buckets(["le=\"0.5\",a=\"1\"", "le=\"1.5\",a=\"1\"", "le=\"+Inf\",a=\"1\""]);
        let last = buckets(["a=\"1\",le=\"0.5\"", "a=\"1\",le=\"1.5\"", "a=\"1\",le=\"+Inf\""]);
        for text in [first, last] {
            let rows = samples(&format!("{text}y_total{{b=\"c\"}} 7\nz 1.5\n# EOF\n"));
            assert_eq!(rows.len(), 3, "{rows:?}");
            let expected = json!({
                "name": "x", "labels": "a=\"1\"", "value": 4.0, "mean": 0.75, "p50": 0.5, "p95": 1.4, "p99": 1.48
            });
            assert_eq!(rows[0], expected);
            assert_eq!((&rows[1]["value"], &rows[1]["labels"]), (&json!(7.0), &json!("b=\"c\"")));
            assert_eq!((&rows[2]["name"], &rows[2]["value"]), (&json!("z"), &json!(1.5)));
        }
    }

    #[test]
    fn long_lists_are_cut_and_say_so() {
        let views = Views::default();
        views.add("many", || (0..ROWS_MAX + 7).map(|i| json!({ "i": i })).collect());
        let shown = views.show("");
        let rows = shown["many"].as_array().unwrap();
        assert_eq!((rows.len(), &rows[ROWS_MAX]["more"]), (ROWS_MAX + 1, &json!(7)));
    }

    #[test]
    fn nothing_that_is_shown_becomes_markup() {
        let views = Views::default();
        views.add("rows", || json!([{ "a": "<script>\"&" }, { "b": [1, 2.5] }]));
        let html = page(&views.show(""));
        assert!(html.contains("&lt;script&gt;&quot;&amp;") && !html.contains("<script>"), "{html}");
        assert!(html.contains("1, 2.5"), "{html}");
    }
}
