//! What the figures were measured on.

use crate::table::Table;

pub(crate) fn print() {
    let read = |path: &str| fs_err::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':')).map_or_else(|| "?".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cpu = read("/proc/cpuinfo");
    let mut table = Table::new(&["machine", ""]);
    table.row(["processor".to_owned(), field(&cpu, "model name")]);
    table.row(["cores".to_owned(), std::thread::available_parallelism().map_or(0, usize::from).to_string()]);
    table.row(["memory".to_owned(), field(&read("/proc/meminfo"), "MemTotal")]);
    table.row(["kernel".to_owned(), read("/proc/sys/kernel/osrelease").trim().to_owned()]);
    table.row(["load before".to_owned(), read("/proc/loadavg").trim().to_owned()]);
    table.print();
}
