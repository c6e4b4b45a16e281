//! RFC 8725, rule by rule, with tokens made here: by other code than that under test, or broken on purpose.

use std::time::Duration;

use base64::Engine;
use jsonwebtoken::{EncodingKey, Header, jwk::Jwk};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::jwks::Keys;
use crate::{Scope, issuer};

const NOW: u64 = 1_800_000_000;

/// An issuer with one key of each kind, and the private halves.
struct Fixture {
    issuer: Issuer,
    keys: KeySet,
    jwks: Vec<u8>,
    ec: EncodingKey,
    ed: EncodingKey,
    rsa: EncodingKey,
}

fn key(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
    rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem().into_bytes()
}

fn jwk(key: &EncodingKey, algorithm: jsonwebtoken::Algorithm, id: &str) -> Jwk {
    let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
    jwk.common.key_id = Some(id.to_owned());
    jwk
}

/// Ed25519 in PKCS #8 version 1, the form in which jsonwebtoken takes it: the generator writes version 2.
fn ed25519() -> EncodingKey {
    let seed: [u8; 32] = rand::random();
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend_from_slice(&seed);
    EncodingKey::from_ed_der(&der)
}

fn fixture() -> Fixture {
    let ec = EncodingKey::from_ec_pem(&key(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
    let ed = ed25519();
    let rsa = EncodingKey::from_rsa_pem(&key(&rcgen::PKCS_RSA_SHA256)).unwrap();
    let keys = [
        jwk(&ec, jsonwebtoken::Algorithm::ES256, "ec"),
        jwk(&ed, jsonwebtoken::Algorithm::EdDSA, "ed"),
        jwk(&rsa, jsonwebtoken::Algorithm::RS256, "rsa"),
    ];
    let jwks = serde_json::to_vec(&json!({ "keys": keys })).unwrap();
    let issuer = Issuer {
        name: "https://issuer.example".to_owned(),
        audience: "nearfield".to_owned(),
        algorithms: Algorithm::PUBLIC.to_vec(),
        leeway: issuer::LEEWAY,
        grants: Vec::new(),
        keys: Keys::fixed(KeySet::parse(&jwks).unwrap()),
    };
    Fixture { issuer, keys: KeySet::parse(&jwks).unwrap(), jwks, ec, ed, rsa }
}

fn claims() -> Value {
    json!({
        "iss": "https://issuer.example", "aud": "nearfield", "sub": "alice", "exp": NOW + 60,
        "scope": "vectors:read openid vectors:write", "tenant": "acme", "plan": "premium",
    })
}

fn with(change: Value) -> Value {
    let mut claims = claims();
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

impl Fixture {
    fn verify(&self, token: &str) -> Result<Verified, Rejection> {
        Unverified::parse(token)?.verify(&self.issuer, &self.keys, NOW)
    }

    /// Signed by the EC key, with any header.
    fn es256(&self, header: &Value, claims: &Value) -> String {
        signed(header, claims, &self.ec, jsonwebtoken::Algorithm::ES256)
    }

    fn check(&self, claims: &Value, expected: Result<(), Rejection>) {
        let token = self.es256(&json!({"alg": "ES256", "kid": "ec"}), claims);
        assert_eq!(self.verify(&token).map(|_| ()), expected, "{claims}");
    }

    fn check_header(&self, header: &Value, expected: Result<(), Rejection>) {
        assert_eq!(self.verify(&self.es256(header, &claims())).map(|_| ()), expected, "{header}");
    }
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn signed(header: &Value, claims: &Value, key: &EncodingKey, algorithm: jsonwebtoken::Algorithm) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

#[test]
fn a_good_token_of_each_algorithm_is_taken() {
    let f = fixture();
    for (id, key, algorithm) in [
        ("ec", &f.ec, jsonwebtoken::Algorithm::ES256),
        ("ed", &f.ed, jsonwebtoken::Algorithm::EdDSA),
        ("rsa", &f.rsa, jsonwebtoken::Algorithm::RS256),
    ] {
        let header = Header { kid: Some(id.to_owned()), ..Header::new(algorithm) };
        let token = jsonwebtoken::encode(&header, &claims(), key).unwrap();
        let verified = f.verify(&token).unwrap();
        assert_eq!(verified.expires, NOW + 60 + issuer::LEEWAY.as_secs());
        let principal = verified.principal;
        assert_eq!(principal.subject, "alice");
        assert_eq!((principal.tenant.as_deref(), principal.plan.as_deref()), (Some("acme"), Some("premium")));
        assert_eq!(principal.scopes, Scopes::default().with(Scope::VectorsRead).with(Scope::VectorsWrite));
    }
}

#[test]
fn scopes_come_as_scope_or_scp() {
    let f = fixture();
    let read = Scopes::default().with(Scope::VectorsRead);
    for claims in [with(json!({"scope": "vectors:read"})), with(json!({"scope": "", "scp": ["vectors:read", "x"]}))] {
        assert_eq!(f.verify(&f.es256(&json!({"alg": "ES256", "kid": "ec"}), &claims)).unwrap().principal.scopes, read);
    }
    let none = f.verify(&f.es256(&json!({"alg": "ES256", "kid": "ec"}), &without("scope"))).unwrap();
    assert_eq!(none.principal.scopes, Scopes::default());
}

#[test]
fn an_unsigned_token_is_refused_however_none_is_spelt() {
    let f = fixture();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let unsigned = format!("{}.{}.", encoded(&json!({"alg": alg})), encoded(&claims()));
        assert_eq!(f.verify(&unsigned), Err(Rejection::Algorithm), "{alg}");
    }
    let stripped = f.es256(&json!({"alg": "ES256", "kid": "ec"}), &claims());
    let (message, _) = stripped.rsplit_once('.').unwrap();
    assert_eq!(f.verify(&format!("{message}.")), Err(Rejection::Signature));
}

#[test]
fn a_public_key_is_no_hmac_secret() {
    let f = fixture();
    let published: Value = serde_json::from_slice(&f.jwks).unwrap();
    let n = published["keys"][2]["n"].as_str().unwrap();
    let raw = URL_SAFE_NO_PAD.decode(n).unwrap();
    for secret in [n.as_bytes(), &raw, &f.jwks] {
        for kid in ["rsa", "ec"] {
            let header = json!({"alg": "HS256", "kid": kid});
            let token = signed(&header, &claims(), &EncodingKey::from_secret(secret), jsonwebtoken::Algorithm::HS256);
            assert_eq!(f.verify(&token), Err(Rejection::Algorithm));
        }
    }
}

#[test]
fn a_secret_verifies_hs256_and_nothing_else() {
    let f = fixture();
    let secret = [7u8; 32];
    let keys = KeySet::of_secret(jsonwebtoken::DecodingKey::from_secret(&secret));
    let issuer = Issuer {
        algorithms: vec![Algorithm::HS256],
        keys: Keys::fixed(KeySet::of_secret(jsonwebtoken::DecodingKey::from_secret(&secret))),
        ..f.issuer
    };
    let verify = |token: &str| Unverified::parse(token).unwrap().verify(&issuer, &keys, NOW).map(|_| ());
    let hs256 = |secret: &[u8]| {
        let header = json!({"alg": "HS256", "kid": "whatever"});
        signed(&header, &claims(), &EncodingKey::from_secret(secret), jsonwebtoken::Algorithm::HS256)
    };
    assert_eq!(verify(&hs256(&secret)), Ok(()));
    assert_eq!(verify(&hs256(&[8; 32])), Err(Rejection::Signature));
    let rs256 = signed(&json!({"alg": "RS256"}), &claims(), &f.rsa, jsonwebtoken::Algorithm::RS256);
    assert_eq!(verify(&rs256), Err(Rejection::Algorithm));
}

#[test]
fn an_algorithm_outside_the_issuers_list_is_refused() {
    let f = fixture();
    let issuer = Issuer { algorithms: vec![Algorithm::EdDSA], ..f.issuer };
    let token = signed(&json!({"alg": "ES256", "kid": "ec"}), &claims(), &f.ec, jsonwebtoken::Algorithm::ES256);
    assert_eq!(Unverified::parse(&token).unwrap().verify(&issuer, &f.keys, NOW), Err(Rejection::Algorithm));
}

#[test]
fn the_key_named_is_the_key_used() {
    let f = fixture();
    f.check_header(&json!({"alg": "ES256", "kid": "ec"}), Ok(()));
    f.check_header(&json!({"alg": "ES256"}), Ok(()));
    f.check_header(&json!({"alg": "ES256", "kid": "ed"}), Err(Rejection::SigningKeyMismatch));
    f.check_header(&json!({"alg": "RS256", "kid": "ec"}), Err(Rejection::SigningKeyMismatch));
    f.check_header(&json!({"alg": "ES256", "kid": "gone"}), Err(Rejection::SigningKeyUnknown));
    f.check_header(&json!({"alg": "RS256", "kid": "rsa"}), Err(Rejection::Signature));
    f.check_header(&json!({"alg": "ES384", "kid": "ec"}), Err(Rejection::Algorithm));
}

#[test]
fn a_key_on_another_curve_verifies_nothing() {
    let f = fixture();
    let p384 = EncodingKey::from_ec_pem(&key(&rcgen::PKCS_ECDSA_P384_SHA384)).unwrap();
    let mut wrong = serde_json::to_value(jwk(&p384, jsonwebtoken::Algorithm::ES384, "ec")).unwrap();
    let token = signed(&json!({"alg": "ES256", "kid": "ec"}), &claims(), &f.ec, jsonwebtoken::Algorithm::ES256);
    // Said to be what it is, it is no key for us; said to be P-256, its point is not on that curve.
    wrong.as_object_mut().unwrap().remove("alg");
    assert!(KeySet::parse(&serde_json::to_vec(&json!({"keys": [wrong]})).unwrap()).is_err());
    wrong["crv"] = json!("P-256");
    let keys = KeySet::parse(&serde_json::to_vec(&json!({"keys": [wrong]})).unwrap()).unwrap();
    assert_eq!(Unverified::parse(&token).unwrap().verify(&f.issuer, &keys, NOW), Err(Rejection::Signature));
}

#[test]
fn keys_that_a_token_brings_are_not_looked_at() {
    let f = fixture();
    let mallory = EncodingKey::from_ec_pem(&key(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
    let own = jwk(&mallory, jsonwebtoken::Algorithm::ES256, "ec");
    let header =
        json!({"alg": "ES256", "kid": "ec", "jwk": own, "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"});
    let token = signed(&header, &claims(), &mallory, jsonwebtoken::Algorithm::ES256);
    assert_eq!(f.verify(&token), Err(Rejection::Signature));
}

#[test]
fn critical_parameters_are_refused_and_so_are_other_types() {
    let f = fixture();
    for crit in [json!(["exp"]), json!([]), json!(null), json!("b64")] {
        f.check_header(&json!({"alg": "ES256", "kid": "ec", "crit": crit}), Err(Rejection::Critical));
    }
    for typ in ["JWT", "jwt", "at+jwt", "application/at+JWT"] {
        f.check_header(&json!({"alg": "ES256", "kid": "ec", "typ": typ}), Ok(()));
    }
    for typ in ["dpop+jwt", "logout+jwt", "secevent+jwt", ""] {
        f.check_header(&json!({"alg": "ES256", "kid": "ec", "typ": typ}), Err(Rejection::Type));
    }
}

#[test]
fn the_claims_are_checked() {
    let f = fixture();
    let leeway = issuer::LEEWAY.as_secs();
    f.check(&claims(), Ok(()));
    f.check(&with(json!({"aud": ["other", "nearfield"]})), Ok(()));
    f.check(&with(json!({"aud": "other"})), Err(Rejection::Audience));
    f.check(&with(json!({"aud": []})), Err(Rejection::Audience));
    f.check(&with(json!({"aud": "Nearfield"})), Err(Rejection::Audience));
    f.check(&without("aud"), Err(Rejection::Claim("aud")));
    f.check(&with(json!({"iss": "https://issuer.example/"})), Err(Rejection::Issuer));
    f.check(&with(json!({"iss": ["https://issuer.example"]})), Err(Rejection::Claim("set")));
    f.check(&without("iss"), Err(Rejection::Claim("iss")));
    f.check(&without("sub"), Err(Rejection::Claim("sub")));
    f.check(&with(json!({"sub": ""})), Err(Rejection::Claim("sub")));
    f.check(&with(json!({"sub": "a\nb"})), Err(Rejection::Claim("sub")));
    f.check(&without("exp"), Err(Rejection::Claim("exp")));
    f.check(&with(json!({"exp": "tomorrow"})), Err(Rejection::Claim("set")));
    f.check(&with(json!({"exp": -1})), Err(Rejection::Claim("exp")));
    f.check(&with(json!({"exp": 1e300})), Err(Rejection::Claim("exp")));
    f.check(&with(json!({"exp": NOW - leeway})), Err(Rejection::Expired));
    f.check(&with(json!({"exp": NOW - leeway + 1})), Ok(()));
    f.check(&with(json!({"exp": (NOW + 60) as f64 + 0.5})), Ok(()));
    f.check(&with(json!({"nbf": NOW + leeway})), Ok(()));
    f.check(&with(json!({"nbf": NOW + leeway + 1})), Err(Rejection::NotYetValid));
    f.check(&with(json!({"nbf": null})), Err(Rejection::Claim("set")));
}

#[test]
fn a_tenant_that_is_not_a_name_never_passes_for_none() {
    let f = fixture();
    let free = f.es256(&json!({"alg": "ES256", "kid": "ec"}), &without("tenant"));
    assert_eq!(f.verify(&free).unwrap().principal.tenant, None);
    f.check(&with(json!({"tenant": null})), Err(Rejection::Claim("set")));
    f.check(&with(json!({"tenant": 7})), Err(Rejection::Claim("set")));
    for tenant in ["", "a b", "a\r\nb", "ü", &"x".repeat(MAX_NAME_BYTES + 1)] {
        f.check(&with(json!({"tenant": tenant})), Err(Rejection::Claim("tenant")));
    }
}

#[test]
fn a_claim_given_twice_is_refused() {
    let f = fixture();
    let json = claims().to_string().replacen('{', r#"{"tenant":"other","#, 1);
    let message = format!("{}.{}", encoded(&json!({"alg": "ES256", "kid": "ec"})), URL_SAFE_NO_PAD.encode(json));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &f.ec, jsonwebtoken::Algorithm::ES256).unwrap();
    assert_eq!(f.verify(&format!("{message}.{signature}")), Err(Rejection::Claim("set")));
}

#[test]
fn what_is_no_token_is_refused() {
    let f = fixture();
    let good = f.es256(&json!({"alg": "ES256", "kid": "ec"}), &claims());
    assert_eq!(f.verify(&"x".repeat(MAX_BYTES + 1)), Err(Rejection::TooLong(MAX_BYTES)));
    for bad in
        ["", ".", "..", "a.b", "a.b.c", "a.b.c.d.e", &format!("{good}.x"), &format!(" {good}"), &format!("{good}=")]
    {
        assert!(matches!(f.verify(bad), Err(Rejection::Shape | Rejection::Signature)), "{bad}");
    }
    let long = f.es256(&json!({"alg": "ES256", "kid": "ec"}), &with(json!({"pad": "x".repeat(MAX_BYTES)})));
    assert_eq!(f.verify(&long), Err(Rejection::TooLong(MAX_BYTES)));
}

#[test]
fn any_changed_character_is_refused() {
    let f = fixture();
    let good = f.es256(&json!({"alg": "ES256", "kid": "ec"}), &claims());
    assert!(f.verify(&good).is_ok());
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert!(f.verify(std::str::from_utf8(&bytes).unwrap()).is_err(), "at {at}");
    }
}

#[test]
fn a_longer_leeway_is_the_issuers_choice() {
    let f = fixture();
    let token = f.es256(&json!({"alg": "ES256", "kid": "ec"}), &with(json!({"exp": NOW - 100})));
    let patient = Issuer { leeway: Duration::from_secs(101), ..f.issuer };
    assert!(Unverified::parse(&token).unwrap().verify(&patient, &f.keys, NOW).is_ok());
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = Unverified::parse(&text);
    }

    #[test]
    fn no_json_in_the_parts_makes_the_parser_panic(header in ".{0,64}", claims in ".{0,64}", signature in ".{0,16}") {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let _ = Unverified::parse(&format!("{}.{}.{}", part(&header), part(&claims), part(&signature)));
    }
}
