//! Names of collections and points, and the words that a request may choose among.

use super::json::Place;

/// The collection that is meant when none is named.
pub const DEFAULT_COLLECTION: &str = "default";

/// Bytes of a point's id.
pub const ID_BYTES_MAX: usize = 256;

pub const METRICS: [&str; 3] = ["cosine", "dot", "euclidean"];
pub const QUANTIZATIONS: [&str; 6] = ["none", "f16", "bf16", "int8", "binary", "pq"];
pub const INCLUDES: [&str; 2] = ["metadata", "values"];

/// Is it `[a-z0-9][a-z0-9_-]{0,62}`?
pub fn is_collection(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match name.as_bytes() {
        [first, rest @ ..] => plain(*first) && rest.len() <= 62 && rest.iter().all(|&b| plain(b) || b"_-".contains(&b)),
        [] => false,
    }
}

/// A collection's name, or a violation.
pub fn collection(name: &str, place: Place<'_>) -> Option<String> {
    if is_collection(name) {
        return Some(name.to_owned());
    }
    place.refuse("is no collection name: [a-z0-9][a-z0-9_-]{0,62}");
    None
}

/// A point's id, or a violation.
pub fn id(id: &str, place: Place<'_>) -> Option<String> {
    if (1..=ID_BYTES_MAX).contains(&id.len()) {
        return Some(id.to_owned());
    }
    place.refuse(format!("has {} bytes; an id has 1 to {ID_BYTES_MAX}", id.len()));
    None
}

/// One of a few words, or a violation that lists them.
pub fn word(word: &str, words: &[&str], place: Place<'_>) -> Option<String> {
    if words.contains(&word) {
        return Some(word.to_owned());
    }
    place.refuse(format!("is not one of {}", words.join(", ")));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collection_names() {
        for good in ["a", "0", "default", "a-b_c", &"x".repeat(63)] {
            assert!(is_collection(good), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a b", "ä", "a/b", &"x".repeat(64)] {
            assert!(!is_collection(bad), "{bad}");
        }
    }
}
