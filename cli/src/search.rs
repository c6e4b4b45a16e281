//! `nearfield search`: one search, over the HTTP version of one's choice.

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, Version};
use serde_json::{Map, Value};

use crate::client::{Client, Problem, Target};
use crate::http3;

#[derive(clap::Args)]
pub struct Options {
    /// The body of the search in JSON, as for POST /api/v1/search; `-` for standard input
    #[arg(required_unless_present = "id")]
    file: Option<PathBuf>,
    /// Searches near this stored point
    #[arg(long)]
    id: Option<String>,
    /// The collection, instead of the body's
    #[arg(long)]
    collection: Option<String>,
    /// How many hits, instead of the body's
    #[arg(long)]
    k: Option<u32>,
    /// A filter in JSON, instead of the body's
    #[arg(long, value_parser = json)]
    filter: Option<Value>,
    /// Over HTTP/3 (QUIC)
    #[arg(long)]
    http3: bool,
    /// Shows the answer's status and headers, too
    #[arg(long, short)]
    include: bool,
    #[command(flatten)]
    target: Target,
}

fn json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

pub async fn run(options: Options) -> Result<()> {
    let body = Bytes::from(serde_json::to_vec(&body(&options)?)?);
    let answer = if options.http3 {
        let ca = options.target.ca().context("--http3 needs --ca")?;
        let url = Client::base(&options.target)?.join("search")?;
        let mut headers = options.target.credentials()?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        http3::post(&url, &headers, body, &ca).await?
    } else {
        Client::new(&options.target)?.post_once("search", body).await?
    };
    if options.include {
        println!("{}", head(&answer));
    }
    match serde_json::from_slice::<Value>(answer.body()) {
        Ok(json) => println!("{}", serde_json::to_string_pretty(&json)?),
        Err(_) => println!("{}", String::from_utf8_lossy(answer.body())),
    }
    if !answer.status().is_success() {
        bail!(Problem::from_body(answer.status(), answer.body()));
    }
    Ok(())
}

/// What the file says, with what the command line says over it.
fn body(options: &Options) -> Result<Map<String, Value>> {
    let mut body = match &options.file {
        None => Map::new(),
        Some(file) => {
            let mut text = Vec::new();
            if file.as_os_str() == "-" {
                std::io::stdin().lock().read_to_end(&mut text)?;
            } else {
                text = fs_err::read(file)?;
            }
            serde_json::from_slice(&text).with_context(|| format!("{} holds no JSON object", file.display()))?
        }
    };
    let over = [
        ("query_vector_id", options.id.clone().map(Value::from)),
        ("collection", options.collection.clone().map(Value::from)),
        ("k", options.k.map(Value::from)),
        ("filter", options.filter.clone()),
    ];
    body.extend(over.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Ok(body)
}

fn head(answer: &Response<Vec<u8>>) -> String {
    let version = match answer.version() {
        Version::HTTP_3 => "HTTP/3",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    };
    let mut head = format!("{version} {}\n", answer.status().as_u16());
    for (name, value) in answer.headers() {
        head += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    head
}
