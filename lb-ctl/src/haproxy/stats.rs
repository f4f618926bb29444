//! What the proxy counts: the answer of a worker to `show stat`, and of all of them together.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::render::section_name;
use crate::model::{
    health::RipId,
    proxied::{DesiredProxy, ProxiedServer, ProxiedVip},
};

/// A line of the answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Row {
    /// Section.
    pub(super) section: String,
    /// Server, or what else the line is about.
    pub(super) of: Of,
    /// Connections now.
    pub(super) connections: u64,
    /// Connections ever.
    pub(super) total: u64,
    /// Bytes in both directions.
    pub(super) bytes: u64,
    /// It takes new connections.
    pub(super) in_service: bool,
}

/// What a line is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Of {
    /// The clients' side.
    Clients,
    /// All servers of a section.
    Servers,
    /// A server.
    Server(String),
}

/// Lines that are about nothing that we know are left out; so is what is no number.
pub(super) fn parse(text: &str) -> Vec<Row> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("# "));
    let Some(header) = lines.next() else { return Vec::new() };
    let names: Vec<&str> = header.trim_start_matches("# ").split(',').collect();
    let place = |name: &str| names.iter().position(|n| *n == name);
    let places: Option<[usize; 8]> = (|| {
        Some([
            place("pxname")?,
            place("svname")?,
            place("scur")?,
            place("stot")?,
            place("bin")?,
            place("bout")?,
            place("status")?,
            place("weight")?,
        ])
    })();
    let Some([section, server, current, total, bytes_in, bytes_out, status, weight]) = places else {
        return Vec::new();
    };
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let text = |at: usize| cells.get(at).copied();
        let count = |at: usize| text(at).and_then(|cell| cell.parse::<u64>().ok()).unwrap_or(0);
        let of = match text(server)? {
            "FRONTEND" => Of::Clients,
            "BACKEND" => Of::Servers,
            name => Of::Server(name.to_owned()),
        };
        let up = text(status).is_some_and(|status| status == "no check" || status.starts_with("UP"));
        Some(Row {
            section: text(section)?.to_owned(),
            of,
            connections: count(current),
            total: count(total),
            bytes: count(bytes_in) + count(bytes_out),
            in_service: up && count(weight) > 0,
        })
    };
    lines.filter_map(row).collect()
}

/// Servers that take new connections. A section without clients of its own is a pool of the VIP that its name begins with.
pub(super) fn in_service(rows: &[Row]) -> BTreeSet<RipId> {
    let vips: BTreeSet<&str> =
        rows.iter().filter(|row| row.of == Of::Clients).map(|row| row.section.as_str()).collect();
    let vip_of = |section: &str| {
        if vips.contains(section) {
            return Some(section.to_owned());
        }
        let with_pool = |vip: &&&str| section.strip_prefix(**vip).is_some_and(|rest| rest.starts_with('.'));
        vips.iter().filter(with_pool).max_by_key(|vip| vip.len()).map(|vip| (*vip).to_owned())
    };
    let mut found = BTreeSet::new();
    for row in rows.iter().filter(|row| row.in_service) {
        if let (Of::Server(rip), Some(vip)) = (&row.of, vip_of(&row.section)) {
            found.insert(RipId { vip, rip: rip.clone() });
        }
    }
    found
}

/// What is shown of VIPs. Connections are those of all workers; the rest is the present worker's.
pub(super) fn fold(vips: &[DesiredProxy], present: &[Row], old: &[Vec<Row>]) -> BTreeMap<String, ProxiedVip> {
    let by_name = |rows: &[Row]| -> BTreeMap<(String, Option<String>), Row> {
        let named = rows.iter().filter_map(|row| match &row.of {
            Of::Clients => Some(((row.section.clone(), None), row.clone())),
            Of::Server(server) => Some(((row.section.clone(), Some(server.clone())), row.clone())),
            Of::Servers => None,
        });
        named.collect()
    };
    let present = by_name(present);
    let old: Vec<_> = old.iter().map(|rows| by_name(rows)).collect();
    let elsewhere = |key: &(String, Option<String>)| -> u64 {
        old.iter().filter_map(|rows| rows.get(key)).map(|row| row.connections).sum()
    };
    let mut shown = BTreeMap::new();
    for desired in vips {
        let vip = &desired.vip;
        let clients = (vip.name.clone(), None);
        let Some(row) = present.get(&clients) else { continue };
        let mut servers = BTreeMap::new();
        for rip in &vip.rips {
            let key = (section_name(&vip.name, rip.pool.as_deref()), Some(rip.name.clone()));
            let here = present.get(&key);
            servers.insert(
                rip.name.clone(),
                ProxiedServer {
                    connections: here.map_or(0, |row| row.connections) + elsewhere(&key),
                    bytes_total: here.map_or(0, |row| row.bytes),
                    in_service: here.is_some_and(|row| row.in_service),
                },
            );
        }
        shown.insert(
            vip.name.clone(),
            ProxiedVip {
                connections: row.connections + elsewhere(&clients),
                connections_total: row.total,
                bytes_total: row.bytes,
                servers,
            },
        );
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        config::{Mode, Ports, Rip, Vip},
        proxied::DesiredProxy,
    };

    const SAID: &str = "# pxname,svname,scur,stot,bin,bout,status,weight,\n\
        V,FRONTEND,3,9,10,20,OPEN,,\n\
        V,A,2,5,7,8,no check,100,\n\
        V,B,1,4,3,12,MAINT,100,\n\
        V,BACKEND,3,9,10,20,UP,100,\n\
        V.us,C,0,0,0,0,no check,1,\n\
        V.us,D,0,0,0,0,DRAIN,0,\n\
        V.us,BACKEND,0,0,0,0,UP,1,\n\n";

    #[test]
    fn servers_in_service_are_named_with_their_vip() {
        let id = |rip: &str| RipId { vip: "V".to_owned(), rip: rip.to_owned() };
        assert_eq!(in_service(&parse(SAID)), [id("A"), id("C")].into());
        assert!(parse("no table").is_empty());
    }

    #[test]
    fn connections_are_those_of_all_processes() {
        let ip = "10.0.0.1".parse().unwrap();
        let mut vip = Vip::new("V", Mode::L7Tcp, ip, Ports::Ranges(vec![104..=104]));
        vip.rips = ["A", "B", "C"].iter().map(|name| Rip::new(*name, ip)).collect();
        vip.rips[2].pool = Some("us".to_owned());
        let desired = DesiredProxy { vip, servers: BTreeMap::new() };
        let shown = fold(&[desired], &parse(SAID), &[parse(SAID), Vec::new()]);
        let vip = &shown["V"];
        assert_eq!((vip.connections, vip.connections_total, vip.bytes_total), (6, 9, 30));
        let server =
            |connections, bytes_total, in_service| ProxiedServer { connections, bytes_total, in_service };
        assert_eq!(vip.servers["A"], server(4, 15, true));
        assert_eq!(vip.servers["B"], server(2, 15, false));
        assert_eq!(vip.servers["C"], server(0, 0, true));
    }
}
