//! Against databases that these tests write themselves, by the MaxMind DB file format, version 2.0.

use std::net::Ipv4Addr;

use super::*;

/// A value of the format's data section.
enum Value<'a> {
    Double(f64),
    /// An empty list.
    List,
    Long(u64),
    Map(&'a [(&'a str, Self)]),
    Number(u32),
    Short(u16),
    Text(&'a str),
}

impl Value<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Double(number) => {
                out.push(3 << 5 | 8);
                out.extend(number.to_be_bytes());
            }
            Self::Map(entries) => {
                out.push(7 << 5 | entries.len() as u8);
                for (key, value) in *entries {
                    Self::Text(key).write(out);
                    value.write(out);
                }
            }
            // A type past 7 stands in a byte of its own, less 7.
            Self::List => out.extend([0, 11 - 7]),
            Self::Long(number) => {
                out.extend([8, 9 - 7]);
                out.extend(number.to_be_bytes());
            }
            Self::Short(number) => {
                out.push(5 << 5 | 2);
                out.extend(number.to_be_bytes());
            }
            Self::Number(number) => {
                out.push(6 << 5 | 4);
                out.extend(number.to_be_bytes());
            }
            Self::Text(text) => {
                assert!(text.len() < 29);
                out.push(2 << 5 | text.len() as u8);
                out.extend(text.as_bytes());
            }
        }
    }
}

/// An IPv4 tree of 24-bit records in which each address of `entries` alone has its record.
fn write(path: &Path, entries: &[(Ipv4Addr, &[u8])]) {
    const EMPTY: u32 = u32::MAX;
    let (mut nodes, mut data, mut leaves) = (vec![[EMPTY; 2]], Vec::new(), Vec::new());
    for (addr, record) in entries {
        let mut node = 0;
        for bit in (0..32).rev().map(|i| (addr.to_bits() >> i & 1) as usize).enumerate() {
            let (depth, side) = bit;
            if depth == 31 {
                leaves.push((node, side, data.len() as u32));
            } else if nodes[node][side] == EMPTY {
                nodes[node][side] = nodes.len() as u32;
                nodes.push([EMPTY; 2]);
            }
            node = nodes[node][side] as usize;
        }
        data.extend_from_slice(record);
    }
    let count = nodes.len() as u32;
    // A pointer to data counts from the end of the tree, past 16 zero bytes.
    leaves.iter().for_each(|(node, side, at)| nodes[*node][*side] = count + 16 + at);
    let mut file = Vec::new();
    for record in nodes.iter().flatten() {
        let record = if *record == EMPTY { count } else { *record };
        file.extend_from_slice(&record.to_be_bytes()[1..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    let metadata = [
        ("node_count", Value::Number(count)),
        ("record_size", Value::Short(24)),
        ("ip_version", Value::Short(4)),
        ("database_type", Value::Text("Test-City")),
        ("binary_format_major_version", Value::Short(2)),
        ("binary_format_minor_version", Value::Short(0)),
        ("build_epoch", Value::Long(1)),
        ("languages", Value::List),
        ("description", Value::Map(&[])),
    ];
    Value::Map(&metadata).write(&mut file);
    // In one step, as whoever updates such files does it.
    fs_err::write(path.with_extension("new"), file).unwrap();
    fs_err::rename(path.with_extension("new"), path).unwrap();
}

/// The record of a place.
fn city(latitude: f64, longitude: f64) -> Vec<u8> {
    record(&[(
        "location",
        Value::Map(&[("latitude", Value::Double(latitude)), ("longitude", Value::Double(longitude))]),
    )])
}

fn record(entries: &[(&str, Value<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    Value::Map(entries).write(&mut out);
    out
}

const CITY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const COUNTRY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ODD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

fn found(database: &Database, addr: Ipv4Addr) -> Option<Found> {
    database.find(addr.into())
}

#[tokio::test]
async fn an_address_is_found_where_the_database_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("city.mmdb");
    let france = record(&[("country", Value::Map(&[("iso_code", Value::Text("FR"))]))]);
    let odd = record(&[("location", Value::Text("somewhere"))]);
    write(&path, &[(CITY, &city(35.68, 139.69)), (COUNTRY, &france), (ODD, &odd)]);
    let database = Database::start(&path, Duration::from_secs(60)).unwrap();
    assert_eq!(found(&database, CITY), Some(Found::Point(Coordinates { latitude: 35.68, longitude: 139.69 })));
    assert_eq!(found(&database, COUNTRY), country::middle("FR").map(Found::Country));
    assert_eq!(found(&database, ODD), None);
    assert_eq!(found(&database, Ipv4Addr::LOCALHOST), None);
    // An IPv6 address in a database of IPv4 ones.
    assert_eq!(database.find("2001:db8::1".parse().unwrap()), None);
}

#[tokio::test]
async fn a_changed_file_is_taken_and_a_bad_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("city.mmdb");
    assert!(Database::start(&path, Duration::from_millis(10)).is_err());
    write(&path, &[(CITY, &city(1.0, 1.0))]);
    let database = Database::start(&path, Duration::from_millis(10)).unwrap();
    let becomes = async |latitude: f64| {
        let expected = Some(Found::Point(Coordinates { latitude, longitude: 1.0 }));
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while found(&database, CITY) != expected {
                tokio::task::yield_now().await;
            }
        });
        waited.await.unwrap();
    };
    becomes(1.0).await;
    fs_err::write(&path, "no database").unwrap();
    assert!(Database::check(&path).is_err());
    becomes(1.0).await;
    write(&path, &[(CITY, &city(2.0, 1.0)), (COUNTRY, &city(3.0, 1.0))]);
    becomes(2.0).await;
}
