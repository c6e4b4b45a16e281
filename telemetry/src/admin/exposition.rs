//! Metrics as text: OpenMetrics, or the older format of Prometheus for those who read no other.

use std::collections::HashSet;

use http::{HeaderMap, HeaderValue, header};

pub(super) const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
pub(super) const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Whether the request asks for plain text and nothing better: `Accept` names it, and neither OpenMetrics nor anything at all.
pub(super) fn asks_for_plain(headers: &HeaderMap) -> bool {
    let accepted = || {
        let lists = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        lists.flat_map(|list| list.split(',')).map(|range| range.split(';').next().unwrap_or_default().trim())
    };
    accepted().any(|range| range == "text/plain")
        && !accepted().any(|range| matches!(range, "application/openmetrics-text" | "*/*" | "application/*"))
}

/// OpenMetrics `text` without what the older format lacks: exemplars, the end's mark, and counters that are named without
/// their `_total`.
pub(super) fn plain(text: &str) -> String {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let counters: HashSet<&str> = kinds.filter(|(_, kind)| *kind == "counter").map(|(name, _)| name).collect();
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        if let Some(told) = line.strip_prefix("# ") {
            let mut words = told.splitn(3, ' ');
            let (Some(keyword @ ("HELP" | "TYPE")), Some(name)) = (words.next(), words.next()) else { continue };
            let suffix = if counters.contains(name) { "_total" } else { "" };
            plain.push_str(&format!("# {keyword} {name}{suffix} {}\n", words.next().unwrap_or_default()));
        } else {
            // In a label's value anything may stand.
            let value = end_of_labels(line);
            let sample = line[value..].find(" # ").map_or(line, |exemplar| &line[..value + exemplar]);
            plain.push_str(sample);
            plain.push('\n');
        }
    }
    plain
}

fn end_of_labels(line: &str) -> usize {
    let Some(open) = line.find(['{', ' ']).filter(|&at| line[at..].starts_with('{')) else { return 0 };
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate().skip(open) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return at,
            _ => {}
        }
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_has_no_exemplars_and_whole_names() {
        let text = "# HELP a Things.\n# TYPE a counter\na_total{x=\"1\"} 3\n# UNIT b seconds\n# HELP b Times.\n# TYPE b histogram\n\
                    b_bucket{le=\"1.0\",y=\"} # {\"} 2 # {trace_id=\"4bf9\"} 0.5 1.6\nb_count 2\n# EOF\n";
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1\"} 3\n# HELP b Times.\n# TYPE b histogram\n\
                        b_bucket{le=\"1.0\",y=\"} # {\"} 2\nb_count 2\n";
        assert_eq!(plain(text), expected);
    }

    #[test]
    fn plain_text_is_for_those_who_ask_for_it_alone() {
        let check = |accept: &[&str], expected| {
            let headers = accept.iter().map(|value| (header::ACCEPT, value.parse().unwrap())).collect();
            assert_eq!(asks_for_plain(&headers), expected, "{accept:?}");
        };
        check(&[], false);
        check(&["*/*"], false);
        check(&["text/plain; version=0.0.4"], true);
        check(&["application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"], false);
        check(&["text/plain", "application/openmetrics-text"], false);
    }
}
