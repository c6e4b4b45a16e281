//! HTTP/1.1 as RFC 9112 tells a server to read it, from the contract alone: which answers a stream of requests may have.
//!
//! Where the RFC lets a reader be lenient (bare line feeds, empty lines before a request, equal lengths in a list) this
//! one is, so that its requests are the most that a server may take out of the bytes.

/// What may be said to a stream of bytes.
pub(super) struct Answers {
    /// The statuses that may come, in their order.
    pub(super) statuses: Vec<u16>,
    /// Nothing may be read behind the last of them.
    pub(super) must_close: bool,
}

pub(super) fn answers(mut bytes: &[u8]) -> Answers {
    let mut answers = Answers { statuses: Vec::new(), must_close: false };
    while !bytes.is_empty() {
        let Some(request) = Request::read(&mut bytes) else {
            answers.must_close = true;
            return answers;
        };
        // The head is enough for an answer, whatever its body is.
        answers.statuses.push(request.status);
        match request.end {
            End::Open => {}
            End::Close => {
                answers.must_close = true;
                return answers;
            }
            End::Waiting => return answers,
        }
    }
    answers
}

struct Request {
    status: u16,
    end: End,
}

/// What is behind a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The connection's end: so the client wished, or the body is broken, or might be read in two ways.
    Close,
    Open,
    /// More of its body.
    Waiting,
}

/// How a body is framed.
#[derive(Clone, Copy)]
enum Body {
    Chunks,
    Length(usize),
}

impl Request {
    /// None when the rest is no request's head.
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        // Section 2.2: at least one empty line is to be ignored.
        while bytes.first().is_some_and(|b| matches!(b, b'\r' | b'\n')) {
            line(bytes)?;
        }
        let request_line = line(bytes)?;
        let words: Vec<&[u8]> = request_line.split(|b| *b == b' ').filter(|word| !word.is_empty()).collect();
        let [method, target, version] = words[..] else { return None };
        let is_old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            // A later minor version is read as the latest one that is known (section 2.3).
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => false,
            _ => return None,
        };
        if !method.iter().all(|b| is_token(*b)) {
            return None;
        }
        let mut fields = Vec::new();
        loop {
            let line = line(bytes)?;
            if line.is_empty() {
                break;
            }
            fields.push(field(line)?);
        }
        let hosts = values(&fields, b"host").count();
        // Refused, though its end is known (section 3.2).
        let is_refused = hosts > 1 || hosts == 0 && !is_old;
        let status = if is_refused { 400 } else { status(method, path(target)?) };
        let mut end = match body(&fields, is_old)? {
            Body::Length(length) => advance(bytes, length),
            Body::Chunks => chunks(bytes),
        };
        // Both framings at once: the connection ends behind the answer (section 6.1).
        let is_doubtful = values(&fields, b"content-length").next().is_some()
            && values(&fields, b"transfer-encoding").next().is_some();
        if is_old || is_doubtful || values(&fields, b"connection").any(|v| has_word(v, b"close")) {
            end = End::Close;
        }
        Some(Self { status, end })
    }
}

fn advance(bytes: &mut &[u8], length: usize) -> End {
    match bytes.get(length..) {
        Some(rest) => {
            *bytes = rest;
            End::Open
        }
        None => End::Waiting,
    }
}

/// Of the requests that are sent here.
fn status(method: &[u8], path: &[u8]) -> u16 {
    match (method, path) {
        (b"GET", b"/health/ready") => 200,
        (b"POST", b"/api/v1/search") | (b"GET", b"/api/v1/embed/a") => 401,
        (b"OPTIONS", b"/health/ready" | b"/api/v1/embed/a") => 204,
        (_, b"/health/ready" | b"/api/v1/embed/a") => 405,
        _ => 404,
    }
}

fn path(target: &[u8]) -> Option<&[u8]> {
    let target = target.strip_prefix(b"http://y").unwrap_or(target);
    let is_visible = |b: &u8| (0x21..=0x7e).contains(b);
    // An asterisk is for OPTIONS, which nobody sends here.
    ((target.first() == Some(&b'/') || target == b"*") && target.iter().all(is_visible))
        .then(|| target.split(|b| matches!(b, b'?' | b'#')).next())?
}

/// Up to a line feed; the carriage return before it belongs to the end, any other one is an error.
fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let line = &bytes[..end];
    *bytes = &bytes[end + 1..];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (!line.contains(&b'\r')).then_some(line)
}

type Field<'a> = (Vec<u8>, &'a [u8]);

fn field(line: &[u8]) -> Option<Field<'_>> {
    let colon = line.iter().position(|b| *b == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // No space before the colon (section 5.1); a line that begins with one would be folded (section 5.2).
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return None;
    }
    let is_forbidden = |b: &u8| *b == 0x7f || *b < 0x20 && *b != b'\t';
    (!value.iter().any(is_forbidden)).then(|| (name.to_ascii_lowercase(), trimmed(value)))
}

fn trimmed(value: &[u8]) -> &[u8] {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_space(b)).map_or(start, |last| last + 1);
    &value[start..end]
}

fn values<'f>(fields: &'f [Field<'f>], name: &'f [u8]) -> impl Iterator<Item = &'f [u8]> {
    fields.iter().filter(move |(other, _)| other == name).map(|(_, value)| *value)
}

fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(trimmed)
}

fn has_word(value: &[u8], word: &[u8]) -> bool {
    words(value).any(|other| other.eq_ignore_ascii_case(word))
}

/// Section 6.3. None for what must be refused.
fn body(fields: &[Field<'_>], is_old: bool) -> Option<Body> {
    let lengths: Vec<&[u8]> = values(fields, b"content-length").flat_map(words).collect();
    if values(fields, b"transfer-encoding").next().is_some() {
        // A coding that is unknown, or chunked twice, is refused; an old client has none (section 6.1).
        let codings: Vec<&[u8]> =
            values(fields, b"transfer-encoding").flat_map(words).filter(|w| !w.is_empty()).collect();
        let is_chunked = matches!(codings[..], [only] if only.eq_ignore_ascii_case(b"chunked"));
        return (is_chunked && !is_old).then_some(Body::Chunks);
    }
    let Some(first) = lengths.first() else { return Some(Body::Length(0)) };
    let is_number = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    if !lengths.iter().all(|other| is_number(other)) {
        return None;
    }
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<usize>().ok();
    let length = number(first)?;
    lengths.iter().all(|other| number(other) == Some(length)).then_some(Body::Length(length))
}

/// Section 7.1.
fn chunks(bytes: &mut &[u8]) -> End {
    match whole_chunks(bytes) {
        Ok(()) => End::Open,
        Err(end) => end,
    }
}

fn whole_chunks(bytes: &mut &[u8]) -> Result<(), End> {
    loop {
        let head = line(bytes).ok_or(End::Close)?;
        // "Bad whitespace" before an extension may be read.
        let size = head.split(|b| *b == b';').next().map(trimmed_end).unwrap_or_default();
        if size.is_empty() || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err(End::Close);
        }
        let digits = std::str::from_utf8(size).unwrap_or_default().trim_start_matches('0');
        if digits.is_empty() {
            break;
        }
        let size = usize::from_str_radix(digits, 16).map_err(|_overflow| End::Close)?;
        *bytes = bytes.get(size..).ok_or(End::Waiting)?;
        if !line(bytes).ok_or(End::Close)?.is_empty() {
            return Err(End::Close);
        }
    }
    // The trailer section.
    loop {
        let line = line(bytes).ok_or(End::Close)?;
        if line.is_empty() {
            return Ok(());
        }
        field(line).ok_or(End::Close)?;
    }
}

fn trimmed_end(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |last| last + 1);
    &value[..end]
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[test]
fn the_reference_reads_what_is_plain_and_refuses_what_is_not() {
    let check = |text: &str, expected: &[u16]| assert_eq!(answers(text.as_bytes()).statuses, expected, "{text:?}");
    let get = "GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n";
    check(&format!("{get}{get}"), &[200, 200]);
    let post = "POST /api/v1/search HTTP/1.1\r\nHost: x\r\n";
    check(&format!("{post}Content-Length: 5\r\n\r\nhello{get}"), &[401, 200]);
    check(&format!("{post}Content-Length: {}\r\n\r\n{get}", get.len()), &[401]);
    check(&format!("{post}Transfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\nA: b\r\n\r\n{get}"), &[401, 200]);
    check(&format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{get}"), &[401]);
    check(&format!("{post}Transfer-Encoding: chunked\r\n\r\nx\r\n0\r\n\r\n{get}"), &[401]);
    check(&format!("{post}Transfer-Encoding: cow\r\n\r\n0\r\n\r\n{get}"), &[]);
    check(&format!("{post}Content-Length: 5, 6\r\n\r\nhello{get}"), &[]);
    check(&format!("GET /health/ready HTTP/1.1\r\n\r\n{get}"), &[400, 200]);
}
