//! What it costs to know a caller: CPU nanoseconds per request for a token that was seen before, for a new one signed by
//! ES256 and by RS256, and for an API key. `cargo run --release -p nearfield-auth --example authenticate`

use std::hint::black_box;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nearfield_auth::api_key::{ApiKeys, NewKey};
use nearfield_auth::{Authenticator, Config, Credentials, Scope, Scopes, issuer};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// Tokens that are verified once each.
const NEW: usize = 2_000;
/// Requests with credentials that are known.
const KNOWN: usize = 200_000;

/// Signs tokens as the issuer `name`.
struct Signer {
    name: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn tokens(&self, count: usize) -> Result<Vec<String>, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = Header { kid: Some(self.name.to_owned()), ..Header::new(self.algorithm) };
        let token = |n| {
            let claims = json!({"iss": self.name, "aud": "nearfield", "sub": format!("user-{n}"), "exp": now + 3600,
                "scope": "vectors:read vectors:write"});
            Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
        };
        (0..count).map(token).collect()
    }
}

/// A signer and its published key.
fn signer(name: &'static str, algorithm: Algorithm) -> Result<(Signer, Value), Failure> {
    let (pair, kind) = match algorithm {
        Algorithm::RS256 => (rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?, "RS256"),
        _ => (rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?, "ES256"),
    };
    let pem = pair.serialize_pem();
    let key = match algorithm {
        Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes())?,
        _ => EncodingKey::from_ec_pem(pem.as_bytes())?,
    };
    let mut public = serde_json::to_value(jsonwebtoken::jwk::Jwk::from_encoding_key(&key, algorithm)?)?;
    public["kid"] = json!(name);
    public["alg"] = json!(kind);
    Ok((Signer { name, algorithm, key }, public))
}

/// CPU time of the calling thread.
fn cpu() -> Duration {
    // /proc's numbers are in ticks of 10 ms; the scheduler's own are in nanoseconds.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default())
}

async fn measure(
    authenticator: &Authenticator,
    what: &str,
    credentials: &[Credentials<'_>],
    count: usize,
) -> Result<(), Failure> {
    let before = cpu();
    for credentials in credentials.iter().cycle().take(count) {
        black_box(authenticator.authenticate(*credentials).await?);
    }
    let spent = cpu() - before;
    println!("{what:<24} {:>9.0} ns", spent.as_nanos() as f64 / count as f64);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let folder = std::env::temp_dir().join(format!("nearfield-authenticate-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (mut signers, mut issuers) = (Vec::new(), Vec::new());
    for (name, algorithm) in [("es256", Algorithm::ES256), ("rs256", Algorithm::RS256)] {
        let (signer, public) = signer(name, algorithm)?;
        let jwks = folder.join(format!("{name}.json"));
        std::fs::write(&jwks, serde_json::to_vec(&json!({ "keys": [public] }))?)?;
        signers.push(signer);
        issuers.push(serde_json::from_value::<issuer::Config>(
            json!({"issuer": name, "audience": "nearfield", "jwks_file": jwks}),
        )?);
    }
    let location = folder.join("keys.db");
    let authenticator = Authenticator::start(&Config { api_keys: Some(location.clone().into()), issuers }).await?;
    for signer in &signers {
        let tokens = signer.tokens(NEW)?;
        let bearers: Vec<Credentials<'_>> = tokens.iter().map(|token| Credentials::Bearer(token)).collect();
        measure(&authenticator, &format!("new token, {}", signer.name), &bearers, NEW).await?;
        measure(&authenticator, &format!("known token, {}", signer.name), &bearers, KNOWN).await?;
    }
    let new = NewKey {
        subject: "bench".to_owned(),
        scopes: Scopes::default().with(Scope::VectorsRead),
        tenant: None,
        plan: None,
        ttl: None,
    };
    let (key, _) = ApiKeys::open(location).await?.create(new).await?;
    measure(&authenticator, "known API key", &[Credentials::ApiKey(&key)], KNOWN).await?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
