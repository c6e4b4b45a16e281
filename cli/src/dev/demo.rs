//! The demo collection: 5,000 pictures of clothes, loaded through the public API as any client would.

use anyhow::Result;

use crate::client::Client;
use crate::{format, import};

const NAME: &str = "fashion-mnist";
const IMAGES: &[u8] = include_bytes!("../../../demo/fashion-mnist.npy");
const LABELS: &[u8] = include_bytes!("../../../demo/fashion-mnist.jsonl");

/// Loads what is not there yet.
pub(super) async fn load(client: &Client) -> Result<()> {
    let source = format::embedded(IMAGES, LABELS)?;
    let into = import::Into::new(NAME, "euclidean");
    let stored = import::prepare(client, &into, &*source).await?;
    // Some are missing: which ones, only inserting them all again can mend.
    if stored < source.total() {
        let summary = import::load(client, &into, source, 0, &mut |_| Ok(())).await?;
        eprintln!("{NAME}: {summary}");
    }
    Ok(())
}
