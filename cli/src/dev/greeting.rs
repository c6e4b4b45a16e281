//! What `nearfield dev` says when it is there: everything that a person needs for a first request.

use std::fmt;
use std::path::PathBuf;

use serde_json::json;

pub(super) struct Greeting {
    pub(super) https: String,
    pub(super) admin: String,
    pub(super) grpc: String,
    pub(super) ca: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) token: String,
    pub(super) demo: bool,
}

impl Greeting {
    /// For programs; alone on its line.
    pub(super) fn ready_line(&self) -> String {
        format!("ready {}", json!({ "https": self.https, "admin": self.admin, "grpc": self.grpc }))
    }

    /// A line for a shell.
    fn curl(&self) -> String {
        let path =
            if self.demo { "search?collection=fashion-mnist&query_vector_id=train-00000&k=3" } else { "collections" };
        let ca = quoted(&self.ca.to_string_lossy());
        format!("curl --cacert {ca} -H 'Authorization: Bearer {}' '{}/api/v1/{path}'", self.token, self.https)
    }
}

/// In single quotes, which a POSIX shell takes literally up to the next one.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Nearfield runs; its data is in {}", self.data_dir.display())?;
        writeln!(f)?;
        writeln!(f, "  {}  HTTP/1.1, HTTP/2, gRPC, WebSocket; HTTP/3 on the same number over UDP", self.https)?;
        writeln!(f, "  {}  health and metrics", self.admin)?;
        writeln!(f, "  {}  searchd itself, gRPC", self.grpc)?;
        writeln!(f)?;
        writeln!(f, "A token with every scope, good for 12 hours:")?;
        writeln!(f)?;
        writeln!(f, "{}", self.token)?;
        writeln!(f)?;
        writeln!(f, "A first request:")?;
        writeln!(f)?;
        writeln!(f, "{}", self.curl())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_blanks_and_quotes_stays_one_word() {
        assert_eq!(quoted("/home/o'neil/my data"), r"'/home/o'\''neil/my data'");
    }
}
