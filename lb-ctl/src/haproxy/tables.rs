//! The proxy's stick tables: whom a VIP remembers, and forgetting.
#![forbid(unsafe_code)]

use std::io;

use super::{Remembered, render, runtime::Master};
use crate::model::config::{Persist, Vip};

/// How the one entry of a VIP that keeps to one server is shown.
const ALL_CLIENTS: &str = "all clients";

/// An entry of a table.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Entry {
    /// As the proxy writes it.
    key: String,
    server: Option<String>,
    left_secs: u64,
}

/// Whom a VIP remembers.
pub(super) async fn entries(master: &Master, worker: i32, vip: &Vip) -> io::Result<Vec<Remembered>> {
    let mut remembered = Vec::new();
    for table in render::tables(vip) {
        let text = master.ask(worker, &[format!("show table {table}")]).await?;
        remembered.extend(parse(&text).into_iter().map(|entry| Remembered {
            key: shown(vip, entry.key),
            rip: entry.server,
            left_secs: entry.left_secs,
        }));
    }
    Ok(remembered)
}

/// Forgets entries of a VIP, those that all of it holds for, and says how many.
pub(super) async fn forget(
    master: &Master,
    worker: i32,
    vip: &Vip,
    rip: Option<&str>,
    key: Option<&str>,
) -> io::Result<u64> {
    let mut count = 0;
    for table in render::tables(vip) {
        let text = master.ask(worker, &[format!("show table {table}")]).await?;
        let found: Vec<Entry> = parse(&text)
            .into_iter()
            .filter(|entry| rip.is_none_or(|rip| entry.server.as_deref() == Some(rip)))
            .filter(|entry| key.is_none_or(|key| entry.key == key || shown(vip, entry.key.clone()) == key))
            .collect();
        let commands: Vec<String> =
            found.iter().map(|entry| format!("clear table {table} key {}", escaped(&entry.key))).collect();
        master.order(worker, &commands).await?;
        count += found.len() as u64;
    }
    Ok(count)
}

fn shown(vip: &Vip, key: String) -> String {
    match vip.persist {
        Persist::LastSuccessful { .. } => ALL_CLIENTS.to_owned(),
        Persist::Cookie { .. } | Persist::None | Persist::SourceIp { .. } | Persist::UrlParam { .. } => key,
    }
}

/// As the proxy's command line takes it. The proxy has escaped blanks and backslashes when it wrote the key.
fn escaped(key: &str) -> String {
    key.replace(';', "\\;")
}

/// Lines as `0x55..: key=10.0.0.1 use=0 exp=3599000 server_id=1 server_key=a`.
fn parse(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let (key, rest) = line.split_once(": key=")?.1.split_once(" use=")?;
        let value = |name: &str| {
            let mut words = rest.split_whitespace();
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        Some(Entry {
            key: key.to_owned(),
            server: value("server_key").filter(|name| *name != "-").map(ToOwned::to_owned),
            left_secs: value("exp")?.parse::<u64>().ok()? / 1000,
        })
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let text = "# table: V, type: ip, size:10240, used:2\n\
                    0x558a33b174c0: key=1.2.3.4 use=0 exp=3600000 server_id=1 server_key=s1\n\
                    0x558a33b174c1: key=a\\ b use=1 exp=999 server_id=0 server_key=-\n\n";
        let first = Entry { key: "1.2.3.4".to_owned(), server: Some("s1".to_owned()), left_secs: 3600 };
        let second = Entry { key: "a\\ b".to_owned(), server: None, left_secs: 0 };
        assert_eq!(parse(text), [first, second]);
    }
}
