//! What growing is worth: the rows of a data set come into one graph, some at a time, beside a graph that
//! is built of all at once.

use anyhow::{Context, Result};
use nearfield_searchd::index::Index;
use nearfield_searchd::index::engines::{Crew, Engines};

use crate::data::Data;
use crate::{cpu, segments};

/// Parts that rows come in after the first, and of how many the first has all but these.
const PARTS: usize = 7;
const OF: usize = 8;

pub(crate) fn measure(data: &Data) -> Result<()> {
    println!("at once:");
    let directory = tempfile::tempdir()?;
    let (index, crew) = (segments::index(data, segments::DEFAULT)?, Crew::default());
    let start = cpu(libc::CLOCK_PROCESS_CPUTIME_ID);
    come(&index, data, 0, OF, directory.path(), &Engines::new(2).by(crew))?;
    println!("  {:.1} s of CPU", (cpu(libc::CLOCK_PROCESS_CPUTIME_ID) - start).as_secs_f64());
    segments::report(&index, data)?;
    println!("{} of {OF} parts at once, the others one after the other:", OF - PARTS);
    let directory = tempfile::tempdir()?;
    let (index, crew) = (segments::index(data, segments::DEFAULT)?, Crew::default());
    let work = crew.work.clone();
    let builder = Engines::new(2).by(crew);
    come(&index, data, 0, OF - PARTS, directory.path(), &builder)?;
    for part in OF - PARTS..OF {
        let start = cpu(libc::CLOCK_PROCESS_CPUTIME_ID);
        come(&index, data, part, part + 1, directory.path(), &builder)?;
        println!("  {:.1} s of CPU, {work:?}", (cpu(libc::CLOCK_PROCESS_CPUTIME_ID) - start).as_secs_f64());
    }
    segments::report(&index, data)
}

/// Puts in the rows of some parts and brings all into one segment.
fn come(
    index: &Index,
    data: &Data,
    first: usize,
    end: usize,
    directory: &std::path::Path,
    builder: &Engines,
) -> Result<()> {
    let rows = data.base.len() / data.dimension;
    for slot in rows * first / OF..rows * end / OF {
        index.put(slot as u32, &data.base[slot * data.dimension..][..data.dimension]);
    }
    segments::rest(index, directory, builder)?;
    (index.segments().len() == 1).then_some(()).context("one segment")
}
