//! Structured logs on stderr, and the spans that an exporter gets. Called once by each main.

use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

use crate::otlp::{self, Identity};

/// `[log]`: what is logged and how it looks.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives by module: `info,nearfield_gateway::region=debug`.
    pub level: String,
    pub format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Json }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line, with the fields of the event and of the spans around it.
    #[default]
    Json,
    /// For people.
    Pretty,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a process has one logger, and it is set already")]
    AlreadySet(#[source] tracing_subscriber::util::TryInitError),
    #[error("parsing `log.level` {level:?}")]
    Level { level: String, source: tracing_subscriber::filter::ParseError },
    #[error(transparent)]
    Otlp(#[from] otlp::Error),
}

/// What is logged, without starting anything: for `--check`.
pub fn check(config: &Config) -> Result<(), Error> {
    filter(config).map(drop)
}

/// Starts logging and, where configured, exporting. Must be called on a tokio runtime. Keep the guard to the end and
/// call [`Guard::finish`], or the last spans are lost.
pub fn start(config: &Config, otlp: &otlp::Config, identity: &Identity) -> Result<Guard, Error> {
    let provider = otlp::provider(otlp, identity)?;
    let export = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(otlp::tracer(provider))
            .with_location(false)
            .with_threads(false)
            // The exporter's own gRPC calls must not become spans that it exports.
            .with_filter(EnvFilter::new("info,h2=off,hyper=off,hyper_util=off,tonic=off,tower=off,opentelemetry=off"))
    });
    let (filter, level) = reload::Layer::new(filter(config)?);
    let writer = writer(config).with_filter(filter);
    tracing_subscriber::registry().with(export).with(writer).try_init().map_err(Error::AlreadySet)?;
    let level: SetLevel = Box::new(move |filter| {
        if level.reload(filter).is_err() {
            tracing::warn!("the level of the log could not be set");
        }
    });
    Ok(Guard { provider, level })
}

type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

fn writer<S>(config: &Config) -> BoxedLayer<S>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match config.format {
        Format::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        Format::Pretty => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            layer.with_ansi(terminal).with_target(false).compact().boxed()
        }
    }
}

fn filter(config: &Config) -> Result<EnvFilter, Error> {
    // Spans for exporters alone have this target: written down with every line they would only cost.
    let exported_only = "span=off".parse().expect("a directive");
    let filter = EnvFilter::try_new(&config.level);
    let filter = filter.map_err(|source| Error::Level { level: config.level.clone(), source })?;
    Ok(filter.add_directive(exported_only))
}

/// Holds the exporter.
#[must_use = "dropping it loses the spans that are not exported yet"]
pub struct Guard {
    provider: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
    level: SetLevel,
}

type SetLevel = Box<dyn Fn(EnvFilter) + Send + Sync>;

impl Guard {
    /// Logs by another `log.level` from now on.
    ///
    /// # Errors
    /// A level that is none; the old one stays.
    pub fn set_level(&self, config: &Config) -> Result<(), Error> {
        (self.level)(filter(config)?);
        Ok(())
    }

    /// Exports what is left. At most some seconds, when the collector does not answer.
    pub async fn finish(self) {
        let Some(provider) = self.provider else { return };
        // The flush blocks its thread while the export runs on this runtime.
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_an_error_that_shows_it() {
        let config = Config { level: "info,x=loud".to_owned(), ..Config::default() };
        let error = check(&config).expect_err("`loud` is no level");
        assert!(error.to_string().contains("loud"), "{error}");
        check(&Config::default()).expect("the default");
    }
}
