//! Where the client is: by what a proven hop says, else by an address database, else nobody knows.
//!
//! Google's load balancer writes what it knows into headers that its backend service is told to add: the settings' page
//! says how. Without the proof the same headers are a client's wish to be somewhere, and are not looked at.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Deserialize;

use crate::body::{Request, Response};
use crate::region::geo::database::{self, Database, Found};
use crate::region::geo::{ClientLocation, Coordinates, country};
use crate::request::{ClientAddr, Proven};

/// Google's `{client_city_lat_long}`: `37.386051,-122.083851`, empty when it does not know.
const LAT_LONG: &str = "x-client-geo-lat-long";
/// Google's `{client_region}`: an ISO 3166-1 code of two letters (CLDR's, the same for countries).
const REGION: &str = "x-client-geo-region";

/// `[client.geo]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A file in the MaxMind DB format.
    pub database: Option<PathBuf>,
    /// How often the file is looked at.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { database: None, reload_interval: Duration::from_secs(60) }
    }
}

#[derive(Clone)]
pub(crate) struct Layer {
    database: Option<Database>,
    metrics: Metrics,
}

impl Layer {
    /// Needs a tokio runtime around it.
    pub(crate) fn start(config: &Config, registry: &mut Registry) -> Result<Self, database::Error> {
        Self::with(config, Metrics::register(registry))
    }

    /// The same by other settings.
    pub(crate) fn renewed(&self, config: &Config) -> Result<Self, database::Error> {
        Self::with(config, self.metrics.clone())
    }

    fn with(config: &Config, metrics: Metrics) -> Result<Self, database::Error> {
        let start = |path: &PathBuf| Database::start(path, config.reload_interval);
        Ok(Self { database: config.database.as_ref().map(start).transpose()?, metrics })
    }

    /// The best that is known, and how.
    fn locate(&self, request: &Request) -> Option<(Coordinates, Source)> {
        let proven = request.extensions().get::<Proven>().is_some();
        if proven && let Some(place) = lat_long(request.headers()) {
            return Some((place, Source::Header));
        }
        let addr = request.extensions().get::<ClientAddr>().map(|ClientAddr(addr)| addr.ip());
        let found = self.database.as_ref().zip(addr).and_then(|(database, addr)| database.find(addr));
        if let Some(Found::Point(place)) = found {
            return Some((place, Source::Database));
        }
        if proven && let Some(place) = header(request.headers(), REGION).and_then(country::middle) {
            return Some((place, Source::HeaderCountry));
        }
        match found {
            Some(Found::Country(place)) => Some((place, Source::DatabaseCountry)),
            _ => None,
        }
    }
}

/// The header's one value; of two, one may be the client's.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (Some(one), None) => one.to_str().ok().map(str::trim),
        _ => None,
    }
}

fn lat_long(headers: &HeaderMap) -> Option<Coordinates> {
    let (latitude, longitude) = header(headers, LAT_LONG)?.split_once(',')?;
    Coordinates { latitude: latitude.trim().parse().ok()?, longitude: longitude.trim().parse().ok()? }.valid()
}

impl<S> tower::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, inner: S) -> Service<S> {
        Service { inner, layer: self.clone() }
    }
}

pub(crate) struct Service<S> {
    inner: S,
    layer: Layer,
}

impl<S: hyper::service::Service<Request, Response = Response>> hyper::service::Service<Request> for Service<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request) -> S::Future {
        let located = self.layer.locate(&request);
        self.layer.metrics.located(located.map_or(Source::Unknown, |(_, source)| source));
        if let Some((place, _)) = located {
            request.extensions_mut().insert(ClientLocation(place));
        }
        self.inner.call(request)
    }
}

/// How a client's place became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Database,
    DatabaseCountry,
    Header,
    HeaderCountry,
    Unknown,
}

impl Source {
    fn label(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::DatabaseCountry => "database_country",
            Self::Header => "header",
            Self::HeaderCountry => "header_country",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Default)]
struct Metrics {
    located: Family<SourceLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register("client_located", "requests by how their client's place is known", metrics.located.clone());
        metrics
    }

    fn located(&self, source: Source) {
        self.located.get_or_create(&SourceLabel { source: source.label() }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    const PARIS: &str = "48.856614,2.352222";

    fn locate(proven: bool, headers: &[(&'static str, &str)]) -> Option<(Coordinates, Source)> {
        let layer = Layer { database: None, metrics: Metrics::default() };
        let mut request = Request::new(body::empty());
        if proven {
            request.extensions_mut().insert(Proven);
        }
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        layer.locate(&request)
    }

    #[test]
    fn a_proven_hop_says_where_the_client_is() {
        let (place, source) = locate(true, &[(LAT_LONG, PARIS), (REGION, "DE")]).unwrap();
        assert_eq!((place.latitude, place.longitude, source), (48.856_614, 2.352_222, Source::Header));
        // Where no city is known, the country is.
        let (place, source) = locate(true, &[(LAT_LONG, ""), (REGION, "jp")]).unwrap();
        assert_eq!(source, Source::HeaderCountry);
        assert!(place.distance_km(Coordinates { latitude: 35.7, longitude: 139.7 }) < 600.0);
    }

    #[test]
    fn nobody_else_does() {
        assert_eq!(locate(false, &[(LAT_LONG, PARIS), (REGION, "DE")]), None);
    }

    #[test]
    fn what_is_no_place_is_not_believed() {
        for bad in ["91,0", "0,181", "NaN,0", "inf,0", "1", "1,2,3", "a,b", "1;2"] {
            assert_eq!(locate(true, &[(LAT_LONG, bad), (REGION, "ZZ")]), None, "{bad}");
        }
        // The client's header beside the hop's.
        assert_eq!(locate(true, &[(LAT_LONG, PARIS), (LAT_LONG, "0,0")]), None);
    }
}
