//! Ways to frame a request that have fooled servers, multiplied.

use std::fmt;

/// Requests that every server reads whole: the control group.
pub(super) const PLAIN: usize = 5;

pub(super) struct Framing {
    name: String,
    pub(super) bytes: Vec<u8>,
}

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.bytes.escape_ascii().to_string();
        write!(f, "{} [{}]", self.name, text.chars().take(400).collect::<String>())
    }
}

/// Answered by 200, and by nothing else that is sent here.
const HIDDEN: &str = "GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
/// Answered by 401.
const POST: &str = "POST /api/v1/search HTTP/1.1\r\n";

fn framing(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Framing {
    Framing { name: name.into(), bytes: bytes.into() }
}

/// A request with these header lines and this body, and the hidden one behind.
fn post(name: impl Into<String>, head: &str, body: &str) -> Framing {
    framing(name, format!("{POST}Host: x\r\n{head}\r\n{body}{HIDDEN}"))
}

const LENGTHS: [&str; 34] = [
    "5",
    "05",
    "+5",
    "-5",
    "5 ",
    " 5",
    "\t5",
    "5\t",
    "0x5",
    "5,5",
    "5, 5",
    "5,6",
    "5;",
    "5.0",
    "5e0",
    "1e1",
    "",
    " ",
    "five",
    "5 5",
    "\u{665}",
    "00000000000000000000000000005",
    "18446744073709551616",
    "99999999999999999999999",
    "9223372036854775808",
    "5\u{b}",
    "5\0",
    "\"5\"",
    "5_0",
    "'5'",
    "5\r",
    "0",
    "-0",
    "+0",
];

const CODINGS: [&str; 40] = [
    "chunked",
    "Chunked",
    "CHUNKED",
    "chunked ",
    " chunked",
    "\tchunked",
    "chunked\t",
    "\u{b}chunked",
    "chunked\u{b}",
    "\u{c}chunked",
    "xchunked",
    "chunkedx",
    "chunk",
    "\"chunked\"",
    "'chunked'",
    "chunked;q=1",
    "chunked;",
    ";chunked",
    "chunked,",
    ",chunked",
    "chunked, chunked",
    "identity",
    "identity, chunked",
    "chunked, identity",
    "gzip, chunked",
    "chunked, gzip",
    "gzip",
    "deflate",
    "cow",
    "",
    " ",
    "chunked\0",
    "\0chunked",
    "chunked\r",
    "chu nked",
    "chunked identity",
    "chunked\u{a0}",
    "\u{feff}chunked",
    "chunke\u{212a}",
    "trailers",
];

/// Lines that are, or are nearly, `Transfer-Encoding: chunked`.
const CODING_LINES: [&str; 26] = [
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding\t: chunked\r\n",
    " Transfer-Encoding: chunked\r\n",
    "\tTransfer-Encoding: chunked\r\n",
    "Transfer_Encoding: chunked\r\n",
    "Transfer Encoding: chunked\r\n",
    "Transfer-Encoding:chunked\r\n",
    "Transfer-Encoding:\r\n chunked\r\n",
    "Transfer-Encoding:\r\n\tchunked\r\n",
    "Transfer-Encoding: chun\r\n ked\r\n",
    "Transfer-Encoding: chunked\n",
    "Transfer-Encoding\n: chunked\r\n",
    "Transfer-Encoding\r\n: chunked\r\n",
    "X: y\nTransfer-Encoding: chunked\r\n",
    "X: y\rTransfer-Encoding: chunked\r\n",
    "X: y\r\n\r\nTransfer-Encoding: chunked\r\n",
    "X: y\0\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding\0: chunked\r\n",
    "\0Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n",
    "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "transfer-encoding: chunked\r\nTRANSFER-ENCODING: \r\n",
    "Transfer\u{2d}Encoding\u{200b}: chunked\r\n",
    "TE: chunked\r\nTrailer: Content-Length\r\n",
];

/// Bodies in chunks, whole and broken.
const CHUNKS: [&str; 50] = [
    "0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "05\r\nhello\r\n0\r\n\r\n",
    "0000000000000005\r\nhello\r\n0\r\n\r\n",
    "00000000000000000000000005\r\nhello\r\n0\r\n\r\n",
    "5;a=b\r\nhello\r\n0\r\n\r\n",
    "5 ;a=b\r\nhello\r\n0\r\n\r\n",
    "5;a=\"b\"\r\nhello\r\n0\r\n\r\n",
    "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
    "5;a\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r\n0\n\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\rhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5\r\nhel\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\t\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "5h\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    "G\r\nhello\r\n0\r\n\r\n",
    "5\0\r\nhello\r\n0\r\n\r\n",
    "FFFFFFFFFFFFFFFF\r\nhello",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "100000005\r\nhello",
    "-1\r\nhello",
    "5_0\r\nhello\r\n0\r\n\r\n",
    "5\r\n\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n\r\n0\r\n\r\n",
    "5\r\nhello\r\n00\r\n\r\n",
    "5\r\nhello\r\n0 \r\n\r\n",
    "5\r\nhello\r\n0;x\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "0\r\nContent-Length: 50\r\n\r\n",
    "0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "0\r\nHost: y\r\n\r\n",
    "0\r\nX : y\r\n\r\n",
    "0\r\n X: y\r\n\r\n",
    "0\r\nX: y\n\r\n",
    "0\r\nno colon\r\n\r\n",
    "0\r\n: nameless\r\n\r\n",
    "0\r\nX: \0\r\n\r\n",
    "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    "A\r\n0\r\n\r\nhello\r\n0\r\n\r\n",
];

/// Heads whose lines do not end, or begin, as they should.
const HEADS: [&str; 40] = [
    "GET /health/ready HTTP/1.1\nHost: x\n\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\r\n\n",
    "GET /health/ready HTTP/1.1\rHost: x\r\r",
    "\r\nGET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    "\nGET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    " GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET  /health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /health/ready  HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET\t/health/ready\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /health/ready HTTP/1.1 \r\nHost: x\r\n\r\n",
    "GET /health/ready HTTP/1.1 x\r\nHost: x\r\n\r\n",
    "GET /health/ready\r\nHost: x\r\n\r\n",
    "GET /health/ready HTTP/1.2\r\nHost: x\r\n\r\n",
    "GET /health/ready HTTP/2.0\r\nHost: x\r\n\r\n",
    "GET /health/ready HTTP/0.9\r\nHost: x\r\n\r\n",
    "GET /health/ready http/1.1\r\nHost: x\r\n\r\n",
    "GET /health/ready HTTP/11\r\nHost: x\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x y\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\n Host: x\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost : x\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\r\nX\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\r\nX: \u{1}\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\r\nX: a\rY: b\r\n\r\n",
    "GET /health/ready HTTP/1.1\r\nHost: x\r\nX\0: a\r\n\r\n",
    "G\0T /health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /health/\0ready HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /health/ready#x HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET http://y/health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    "G(T /health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET /health/ready HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
];

pub(super) fn all() -> Vec<Framing> {
    let mut all = plain();
    for length in LENGTHS {
        all.push(post("a length", &format!("Content-Length: {length}\r\n"), "hello"));
        all.push(post(
            "a length and chunks",
            &format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
            "0\r\n\r\n",
        ));
    }
    for coding in CODINGS {
        all.push(post("a coding", &format!("Transfer-Encoding: {coding}\r\n"), "5\r\nhello\r\n0\r\n\r\n"));
        all.push(post(
            "a coding and a length",
            &format!("Content-Length: 5\r\nTransfer-Encoding: {coding}\r\n"),
            "0\r\n\r\n",
        ));
    }
    for line in CODING_LINES {
        all.push(post("a line", line, "0\r\n\r\n"));
        all.push(post("a line behind a length", &format!("Content-Length: 5\r\n{line}"), "0\r\n\r\n"));
        all.push(post("a line before a length", &format!("{line}Content-Length: 5\r\n"), "0\r\n\r\n"));
    }
    all.extend(CHUNKS.map(|chunks| post("chunks", "Transfer-Encoding: chunked\r\n", chunks)));
    for lengths in [
        "5\r\nContent-Length: 5",
        "5\r\nContent-Length: 6",
        "0\r\nContent-Length: 5",
        "5\r\ncontent-length: 05",
        "5\r\nContent-Length : 6",
        "5\r\nContent-Length: ",
    ] {
        all.push(post("two lengths", &format!("Content-Length: {lengths}\r\n"), "hello"));
    }
    all.extend(HEADS.map(|head| framing("a head", format!("{head}{HIDDEN}"))));
    for method in ["GET", "PATCH", "DELETE", "OPTIONS", "TRACE", "PUT"] {
        // A body where none is expected: its bytes are not a request.
        let length = HIDDEN.len();
        all.push(framing(
            "a body",
            format!("{method} /api/v1/embed/a HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{HIDDEN}{HIDDEN}"),
        ));
        let chunked = format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
        all.push(framing(
            "a body",
            format!(
                "{method} /api/v1/embed/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}{HIDDEN}"
            ),
        ));
    }
    for line in [
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Connection: Content-Length\r\n",
        "Connection: Transfer-Encoding, close\r\n",
        "Expect: 200-ok\r\n",
        "Expect: 100-continue\r\n",
    ] {
        all.push(post("a hop's field", &format!("{line}Content-Length: 5\r\n"), "hello"));
        all.push(post("a hop's field", &format!("{line}Transfer-Encoding: chunked\r\n"), "0\r\n\r\n"));
    }
    all
}

/// What nobody may refuse.
fn plain() -> Vec<Framing> {
    let first = "GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n";
    let all = vec![
        framing("plain", format!("{first}{HIDDEN}")),
        framing("plain", format!("{first}{first}{first}{HIDDEN}")),
        post("plain", "Content-Length: 5\r\n", "hello"),
        post("plain", "content-length: 0\r\n", ""),
        post("plain", &format!("Content-Length: {}\r\n", HIDDEN.len()), HIDDEN),
    ];
    assert_eq!(all.len(), PLAIN);
    all
}
