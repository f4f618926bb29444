//! Lists of VIPs, real servers and flows, and all that is known of one VIP.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use serde::Serialize;

use super::{
    args::ListForm,
    overview::{rip_health, vip_cells, vip_columns, vip_health, vip_ports},
    text::{
        Columns, NONE, address, bytes, cell, method_and_mode, painted, plain, plural, protocol, protocols,
        rip_look, span, vip_look,
    },
};
use crate::model::{
    health::Step,
    status::{CountBy, FlowCount, FlowList, FlowStatus, RipStatus, SourcePorts, VipStatus},
};

/// Prints what the API gave, for programs.
pub fn json_into(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// `lbctl vip list`.
pub fn vips_into(out: &mut impl Write, vips: &[VipStatus], form: ListForm, colour: bool) -> io::Result<()> {
    let wide = match form {
        ListForm::Json => return json_into(out, &vips),
        ListForm::Name => {
            return vips.iter().try_for_each(|vip| writeln!(out, "{}", plain(&vip.name)));
        }
        ListForm::Table => false,
        ListForm::Wide => true,
    };
    if vips.is_empty() {
        return writeln!(out, "No Virtual Services configured.");
    }
    let more: &[&str] = if wide { &["SCHEDULER", "FLOWS", "PACKETS", "BYTES"] } else { &[] };
    let mut columns = vip_columns(more, colour);
    for vip in vips {
        let mut cells = vip_cells(vip);
        if wide {
            cells.extend([
                cell(vip.scheduler.name()),
                cell(vip.flows_total.to_string()),
                cell(vip.packets_total.to_string()),
                cell(bytes(vip.bytes_total)),
            ]);
        }
        columns.push(cells);
    }
    columns.write_into(out)
}

/// `lbctl vip show`.
pub fn vip_into(out: &mut impl Write, vip: &VipStatus, colour: bool) -> io::Result<()> {
    let look = vip_look(vip);
    let (method, mode) = method_and_mode(vip.mode);
    let facts = [
        ("Address", vip.ip.to_string()),
        ("Ports", format!("{} {}", protocols(vip.protocol), vip_ports(vip))),
        ("Mode", format!("{method} {mode}")),
        ("Scheduler", vip.scheduler.name().to_owned()),
        ("Connections", connections(vip.connections, vip.closing)),
        ("In all", in_all(vip)),
        ("Problem", vip.problem.clone().unwrap_or_else(|| "none".to_owned())),
    ];
    let mut columns = Columns::bare(&[], colour);
    columns.push(vec![
        cell("VIP"),
        painted(format!("{} {} ({})", look.symbol, vip.name, vip_health(vip)), look),
    ]);
    for (name, value) in facts {
        columns.push(vec![cell(name), cell(value)]);
    }
    if let Some(SourcePorts { in_use, capacity }) = vip.source_ports {
        columns.push(vec![cell("Source ports"), cell(format!("{in_use} of {capacity} in use"))]);
    }
    columns.write_into(out)?;

    writeln!(out)?;
    if vip.rips.is_empty() {
        return writeln!(out, "No real servers.");
    }
    let header =
        ["", "REAL SERVER", "IP", "MAC", "WEIGHT", "CONNS", "PACKETS", "BYTES", "LAST CHECK", "HEALTH"];
    let mut columns = Columns::new(&header, &[4, 5, 6, 7], colour);
    for rip in &vip.rips {
        let look = rip_look(rip);
        columns.push(vec![
            painted(look.symbol, look),
            painted(&rip.name, look),
            cell(address(rip.ip, rip.port)),
            cell(rip.mac.as_deref().unwrap_or(NONE)),
            cell(rip.weight.to_string()),
            cell(connections(rip.connections, rip.closing)),
            cell(rip.packets_total.to_string()),
            cell(bytes(rip.bytes_total)),
            cell(steps(&rip.steps)),
            cell(rip_health(rip)),
        ]);
    }
    columns.write_into(out)
}

/// A real server with the name of its VIP: a line of `lbctl rip list`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ListedRip<'a> {
    /// VIP's name.
    pub vip: &'a str,
    /// The server.
    #[serde(flatten)]
    pub rip: &'a RipStatus,
}

/// `lbctl rip list`.
pub fn rips_into(
    out: &mut impl Write,
    rips: &[ListedRip<'_>],
    form: ListForm,
    colour: bool,
) -> io::Result<()> {
    let (header, right): (&[&str], &'static [usize]) = match form {
        ListForm::Json => return json_into(out, &rips),
        ListForm::Name => {
            return rips
                .iter()
                .try_for_each(|line| writeln!(out, "{}/{}", plain(line.vip), plain(&line.rip.name)));
        }
        ListForm::Table => {
            (&["", "VIRTUAL SERVICE", "REAL SERVER", "IP", "WEIGHT", "CONNS", "HEALTH"], &[4, 5])
        }
        ListForm::Wide => (
            &[
                "",
                "VIRTUAL SERVICE",
                "REAL SERVER",
                "IP",
                "WEIGHT",
                "CONNS",
                "MAC",
                "PACKETS",
                "BYTES",
                "HEALTH",
            ],
            &[4, 5, 7, 8],
        ),
    };
    if rips.is_empty() {
        return writeln!(out, "No real servers.");
    }
    let mut columns = Columns::new(header, right, colour);
    for ListedRip { vip, rip } in rips {
        let look = rip_look(rip);
        let mut cells = vec![
            painted(look.symbol, look),
            cell(vip),
            painted(&rip.name, look),
            cell(address(rip.ip, rip.port)),
            cell(rip.weight.to_string()),
            cell(rip.connections.to_string()),
        ];
        if form == ListForm::Wide {
            cells.extend([
                cell(rip.mac.as_deref().unwrap_or(NONE)),
                cell(rip.packets_total.to_string()),
                cell(bytes(rip.bytes_total)),
            ]);
        }
        cells.push(cell(rip_health(rip)));
        columns.push(cells);
    }
    columns.write_into(out)
}

/// `lbctl flows list`. Says so when there are more than were listed.
pub fn flows_into(out: &mut impl Write, list: &FlowList, colour: bool) -> io::Result<()> {
    if list.flows.is_empty() {
        return writeln!(out, "No flows.");
    }
    // Columns that only translated flows fill.
    let server = list.flows.iter().any(|flow| flow.server.is_some());
    let source = list.flows.iter().any(|flow| given_source(flow).is_some());
    let more = [server.then_some("SERVER"), source.then_some("SOURCE")];
    let mut header = vec!["PROTO", "CLIENT", "VIRTUAL", "VIRTUAL SERVICE", "REAL SERVER"];
    header.extend(more.iter().flatten());
    header.extend(["STATE", "IDLE"]);
    let mut columns = Columns::new(&header, &[], colour);
    for flow in &list.flows {
        let end = |end: Option<SocketAddr>| cell(end.map_or_else(|| NONE.to_owned(), |end| end.to_string()));
        let mut cells = vec![
            cell(protocol(flow.protocol)),
            cell(SocketAddr::new(flow.client, flow.client_port).to_string()),
            cell(SocketAddr::new(flow.vip_ip, flow.vip_port).to_string()),
            cell(flow.vip.as_deref().unwrap_or(NONE)),
            cell(flow.rip.as_deref().unwrap_or(NONE)),
        ];
        cells.extend(server.then(|| end(flow.server)));
        cells.extend(source.then(|| end(given_source(flow))));
        cells.extend([cell(&flow.state), cell(span(flow.idle_secs))]);
        columns.push(cells);
    }
    columns.write_into(out)?;
    let listed = list.flows.len() as u64;
    if listed < list.total {
        writeln!(out, "{listed} of {} flows; see more with --limit", list.total)?;
    }
    Ok(())
}

/// Whom the server sees, if not the client.
fn given_source(flow: &FlowStatus) -> Option<SocketAddr> {
    flow.source.filter(|source| *source != SocketAddr::new(flow.client, flow.client_port))
}

/// `lbctl flows count`.
pub fn flow_counts_into(
    out: &mut impl Write,
    counts: &[FlowCount],
    by: CountBy,
    colour: bool,
) -> io::Result<()> {
    if counts.is_empty() {
        return writeln!(out, "No flows.");
    }
    let by = match by {
        CountBy::Client => "CLIENT",
        CountBy::Rip => "REAL SERVER",
        CountBy::State => "STATE",
        CountBy::Vip => "VIRTUAL SERVICE",
    };
    let mut columns = Columns::new(&["FLOWS", by], &[0], colour);
    for count in counts {
        columns.push(vec![cell(count.flows.to_string()), cell(&count.key)]);
    }
    columns.write_into(out)
}

/// `12`, or `12 (3 closing)`.
fn connections(active: u64, closing: u64) -> String {
    if closing == 0 { active.to_string() } else { format!("{active} ({closing} closing)") }
}

/// Since the counters began: `345 flows, 12 packets, 1.5 KiB`.
fn in_all(vip: &VipStatus) -> String {
    let (flows, packets) = (plural(vip.flows_total, "flow"), plural(vip.packets_total, "packet"));
    format!("{flows}, {packets}, {}", bytes(vip.bytes_total))
}

/// `connect 412 us, associate 2.1 ms`.
fn steps(steps: &[Step]) -> String {
    if steps.is_empty() {
        return NONE.to_owned();
    }
    let steps: Vec<String> = steps
        .iter()
        .map(|step| match step.took_micros {
            micros @ ..1000 => format!("{} {micros} us", step.name),
            micros => format!("{} {}.{} ms", step.name, micros / 1000, micros / 100 % 10),
        })
        .collect();
    steps.join(", ")
}
