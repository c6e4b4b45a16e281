//! A gateway behind a load balancer: what comes through it, what passes it by, and where clients are said to be.

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Dev, DevOptions, Protocol};

use crate::space::API;

const SECRET: &str = "a-secret-of-the-perimeter";

#[tokio::test]
async fn what_comes_through_the_perimeter_is_served_near_its_client_and_nothing_else_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let secret = folder.path().join("secret");
    fs_err::write(&secret, SECRET)?;
    let settings = [
        ("NEARFIELD_CLIENT__MODE", "fronted"),
        ("NEARFIELD_CLIENT__TRUSTED", "[\"127.0.0.0/8\"]"),
        ("NEARFIELD_CLIENT__ENTRIES_AFTER_CLIENT", "1"),
        ("NEARFIELD_CLIENT__PROOF__SECRET_FILE", secret.to_str().context("UTF-8")?),
    ];
    let environment = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let dev = Dev::start(&DevOptions { environment, ..DevOptions::default() })?;
    for protocol in Protocol::ALL {
        let client = dev.client_as(protocol, &Claims::all())?;
        let distance = async |secret: &str, place: &str| -> Result<(u16, Option<f64>)> {
            let request = client.get(&format!("{API}/regions")).header("x-forwarded-for", "203.0.113.7, 34.1.1.1");
            let request = request.header("x-client-geo-lat-long", place).header("x-perimeter-secret", secret);
            let answer = request.send().await?;
            let regions = answer.json()?["regions"].as_array().cloned().unwrap_or_default();
            let belgium = regions.iter().find(|region| region["region"] == "europe-west1");
            Ok((answer.status.as_u16(), belgium.and_then(|region| region["distance_km"].as_f64())))
        };
        let (status, near) = distance(SECRET, "48.856614,2.352222").await?;
        assert!(status == 200 && near.is_some_and(|km| km < 400.0), "Paris: {status} {near:?}");
        let (status, far) = distance(SECRET, "-33.868820,151.209290").await?;
        assert!(status == 200 && far.is_some_and(|km| km > 15_000.0), "Sydney: {status} {far:?}");
        assert_eq!(distance(SECRET, "").await?, (200, None));
        assert_eq!(distance("another-secret-as-long", "48.856614,2.352222").await?, (403, None));
        let problem = client.get(&format!("{API}/regions")).send().await?.problem(403)?;
        assert_eq!(problem["title"], "outside-perimeter");
        dev.client(protocol)?.get("/health/ready").send().await?.expect(200)?;
    }
    Ok(())
}
