//! Who is believed, and for what.

use hyper::service::Service as _;
use proptest::prelude::*;
use tower::Layer as _;

use super::*;
use crate::body;

const LB: &str = "35.191.0.9:443";
const GOOGLE: &[&str] = &["35.191.0.0/16", "130.211.0.0/22"];
const SECRET: &str = "0123456789abcdef";

fn config(trusted: &[&str], entries_after_client: usize) -> Config {
    Config { trusted: trusted.iter().map(|r| r.parse().unwrap()).collect(), entries_after_client, ..Config::default() }
}

/// The client's address and whether the hop was believed.
async fn ask(config: &Config, peer: &str, names: Option<&[&str]>, headers: &[(&str, &[u8])]) -> (String, bool) {
    let inner = hyper::service::service_fn(|request: Request| async move {
        assert!(!request.headers().contains_key("x-perimeter-secret"), "the secret stops here");
        let ClientAddr(client) = request.extensions().get().unwrap();
        let text = format!("{} {}", client.ip(), request.extensions().get::<Proven>().is_some());
        Ok::<_, crate::error::Error>(Response::new(body::full(text)))
    });
    let layer = Layer::new(config.clone(), Secrets::start(&config.proof).unwrap());
    let mut request = Request::new(body::empty());
    request.extensions_mut().insert(ClientAddr(peer.parse().unwrap()));
    if let Some(names) = names {
        let (uris, dns_names) = names.iter().map(|name| (*name).to_owned()).partition::<Vec<_>, _>(|n| n.contains(':'));
        request.extensions_mut().insert(PeerIdentity { uris: uris.into(), dns_names: dns_names.into() });
    }
    for (name, value) in headers {
        let name = http::HeaderName::try_from(*name).unwrap();
        request.headers_mut().append(name, http::HeaderValue::from_bytes(value).unwrap());
    }
    let response = layer.layer(inner).call(request).await.unwrap();
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let (client, proven) = std::str::from_utf8(&bytes).unwrap().split_once(' ').unwrap();
    (client.to_owned(), proven == "true")
}

async fn check(config: &Config, peer: &str, forwarded: &[&str], expected: &str) {
    let headers: Vec<_> = forwarded.iter().map(|value| ("x-forwarded-for", value.as_bytes())).collect();
    let (client, _) = ask(config, peer, None, &headers).await;
    assert_eq!(client, expected, "{peer} {forwarded:?}");
}

#[tokio::test]
async fn only_a_trusted_hop_is_believed_and_only_for_what_it_wrote() {
    let google = config(GOOGLE, 1);
    check(&google, "198.51.100.7:5", &["203.0.113.1, 34.1.1.1"], "198.51.100.7").await;
    check(&google, LB, &["203.0.113.1, 34.1.1.1"], "203.0.113.1").await;
    check(&google, "[::ffff:35.191.0.9]:443", &["203.0.113.1, 34.1.1.1"], "203.0.113.1").await;
    // The client wrote an address of its own first.
    check(&google, LB, &["9.9.9.9, 203.0.113.1, 34.1.1.1"], "203.0.113.1").await;
    check(&google, LB, &["9.9.9.9", "203.0.113.1, 34.1.1.1"], "203.0.113.1").await;
    check(&google, LB, &["\"9.9.9.9", "203.0.113.1:4711, 34.1.1.1"], "203.0.113.1").await;
    let none_after = config(GOOGLE, 0);
    check(&none_after, LB, &["203.0.113.1, 35.191.3.3"], "203.0.113.1").await;
    check(&none_after, LB, &["203.0.113.1, nonsense"], "35.191.0.9").await;
    check(&none_after, LB, &[], "35.191.0.9").await;
    check(&config(&["::1/128"], 0), "[::1]:5", &["[2001:db8::7]:99"], "2001:db8::7").await;
    // Nothing is trusted: nothing is believed.
    check(&config(&[], 0), LB, &["203.0.113.1"], "35.191.0.9").await;
}

#[tokio::test]
async fn a_chain_of_hops_is_followed_as_far_as_the_limit() {
    let hops = Config { max_hops: 3, ..config(GOOGLE, 0) };
    check(&hops, LB, &["203.0.113.1, 35.191.0.1, 35.191.0.2"], "203.0.113.1").await;
    check(&hops, LB, &["203.0.113.1, 35.191.0.1, 35.191.0.2, 35.191.0.3"], "35.191.0.9").await;
}

#[tokio::test]
async fn only_the_header_of_the_settings_is_read() {
    let headers: &[(&str, &[u8])] = &[("forwarded", b"for=203.0.113.1"), ("x-forwarded-for", b"203.0.113.2")];
    let standard = Config { header: Header::Forwarded, ..config(GOOGLE, 0) };
    assert_eq!(ask(&standard, LB, None, headers).await, ("203.0.113.1".to_owned(), true));
    assert_eq!(ask(&config(GOOGLE, 0), LB, None, headers).await, ("203.0.113.2".to_owned(), true));
}

#[tokio::test]
async fn every_proof_that_is_asked_for_has_to_be_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secrets");
    fs_err::write(&path, SECRET).unwrap();
    let proof = proof::Config {
        secret_file: Some(path),
        peers: vec!["spiffe://perimeter/lb".to_owned()],
        ..proof::Config::default()
    };
    let all = Config { proof, ..config(GOOGLE, 0) };
    let (good, other) = (Some(&["lb.example", "spiffe://perimeter/lb"][..]), Some(&["lb.example"][..]));
    let check = async |peer: &str, names: Option<&[&str]>, secrets: &[&str], proven: bool| {
        let mut headers: Vec<(&str, &[u8])> = vec![("x-forwarded-for", b"203.0.113.1")];
        headers.extend(secrets.iter().map(|secret| ("x-perimeter-secret", secret.as_bytes())));
        let expected = if proven { "203.0.113.1" } else { peer.rsplit_once(':').unwrap().0 };
        assert_eq!(ask(&all, peer, names, &headers).await, (expected.to_owned(), proven), "{names:?} {secrets:?}");
    };
    check(LB, good, &[SECRET], true).await;
    check("198.51.100.7:5", good, &[SECRET], false).await;
    check(LB, other, &[SECRET], false).await;
    check(LB, None, &[SECRET], false).await;
    check(LB, good, &[], false).await;
    check(LB, good, &["0123456789abcdeF"], false).await;
    check(LB, good, &[SECRET, SECRET], false).await;
    check(LB, good, &["0123456789abcdef0"], false).await;
}

proptest! {
    #[test]
    fn no_client_behind_the_hop_chooses_its_own_address(
        written in proptest::collection::vec("[ -~]{0,40}", 0..4),
        client in any::<std::net::Ipv4Addr>(),
    ) {
        let google = config(GOOGLE, 1);
        prop_assume!(!google.trusts(client.into()));
        let mut headers = HeaderMap::new();
        for line in written {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        headers.append("x-forwarded-for", format!("{client}, 34.1.1.1").parse().unwrap());
        prop_assert_eq!(google.client(LB.parse().unwrap(), &headers).ip(), IpAddr::V4(client));
    }
}
