//! The opening handshake: RFC 6455 section 4.2 over HTTP/1.1, extended CONNECT over HTTP/2 (RFC 8441) and HTTP/3 (RFC 9220).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::body::Request;
use crate::error::Error;

/// The subprotocol that this server speaks.
pub(crate) const SUBPROTOCOL: &str = "nearfield.v1";

/// Before a token that a browser offers as a subprotocol, for want of headers.
const BEARER: &str = "bearer.";

/// A handshake that is in order.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub by_connect: bool,
    /// What the answer says.
    pub headers: HeaderMap,
}

/// The token offered as the subprotocol `bearer.<token>`, for the layer that authenticates.
pub fn offered_bearer(headers: &HeaderMap) -> Option<&str> {
    offered(headers).find_map(|word| word.strip_prefix(BEARER))
}

fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    words(headers, &header::SEC_WEBSOCKET_PROTOCOL)
}

/// The comma-separated words of a header, however many times it is given.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn has_word(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    words(headers, name).any(|word| word.eq_ignore_ascii_case(wanted))
}

/// Checks an opening handshake.
///
/// # Errors
/// [`Error::UpgradeRequired`] for a plain GET or another WebSocket version, [`Error::Malformed`] for the rest.
pub(crate) fn check(request: &Request) -> Result<Accepted, Error> {
    let mut accepted = HeaderMap::new();
    let headers = request.headers();
    let by_connect = request.method() == Method::CONNECT;
    if by_connect {
        let protocol = request.extensions().get::<hyper::ext::Protocol>().map(hyper::ext::Protocol::as_str);
        if !protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket")) {
            return Err(Error::NoSuchProtocol);
        }
        check_version(headers)?;
    } else {
        check_upgrade(request)?;
        check_version(headers)?;
        accepted.insert(header::SEC_WEBSOCKET_ACCEPT, accept_key(headers)?);
        accepted.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        accepted.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    if offered(headers).any(|word| word == SUBPROTOCOL) {
        accepted.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(Accepted { by_connect, headers: accepted })
}

fn check_upgrade(request: &Request) -> Result<(), Error> {
    if request.version() != Version::HTTP_11 {
        return Err(Error::malformed(
            "a WebSocket is opened over HTTP/1.1, or over HTTP/2 and HTTP/3 by extended CONNECT",
        ));
    }
    let headers = request.headers();
    if !has_word(headers, &header::UPGRADE, "websocket") || !has_word(headers, &header::CONNECTION, "upgrade") {
        return Err(Error::UpgradeRequired("this path takes WebSocket upgrades".to_owned()));
    }
    Ok(())
}

fn check_version(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) {
        Some(b"13") => Ok(()),
        Some(_) => Err(Error::UpgradeRequired("only WebSocket version 13 is spoken".to_owned())),
        None => Err(Error::invalid("Sec-WebSocket-Version", "is missing")),
    }
}

fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, Error> {
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).into_iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(Error::invalid("Sec-WebSocket-Key", "must be given once"));
    };
    let sixteen_bytes = STANDARD.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16);
    if !sixteen_bytes {
        return Err(Error::invalid("Sec-WebSocket-Key", "is not sixteen bytes in base64"));
    }
    Ok(HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is a header's value"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(change: impl FnOnce(&mut HeaderMap)) -> Request {
        let mut request = Request::new(body::empty());
        let headers = request.headers_mut();
        headers.insert("connection", HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("WebSocket"));
        headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
        headers.insert("sec-websocket-key", HeaderValue::from_static(KEY));
        change(headers);
        request
    }

    #[test]
    fn the_rfcs_own_handshake() {
        let accepted = check(&request(|_| {})).unwrap();
        assert_eq!(accepted.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!accepted.headers.contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn a_handshake_that_is_none_is_refused() {
        let check = |name: &'static str, value: Option<&'static str>| {
            check(&request(|headers| {
                headers.remove(name);
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }))
            .unwrap_err()
        };
        assert!(matches!(check("upgrade", None), Error::UpgradeRequired(_)));
        assert!(matches!(check("connection", Some("keep-alive")), Error::UpgradeRequired(_)));
        assert!(matches!(check("sec-websocket-version", Some("8")), Error::UpgradeRequired(_)));
        assert!(matches!(check("sec-websocket-version", None), Error::Malformed { .. }));
        assert!(matches!(check("sec-websocket-key", Some("c2hvcnQ=")), Error::Malformed { .. }));
        assert!(matches!(check("sec-websocket-key", None), Error::Malformed { .. }));
    }

    #[test]
    fn a_browser_offers_its_token() {
        let request = request(|headers| {
            headers.insert("sec-websocket-protocol", HeaderValue::from_static("nearfield.v1, bearer.a.b.c"));
        });
        assert_eq!(offered_bearer(request.headers()), Some("a.b.c"));
        assert_eq!(check(&request).unwrap().headers["sec-websocket-protocol"], "nearfield.v1");
    }

    #[test]
    fn extended_connect_needs_no_key() {
        let mut request = request(|headers| {
            headers.remove("sec-websocket-key");
            headers.remove("upgrade");
        });
        *request.method_mut() = Method::CONNECT;
        assert!(check(&request).is_err());
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        assert!(check(&request).unwrap().by_connect);
    }
}
