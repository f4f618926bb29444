//! The System Overview as text: what `lbctl status` prints (R78, R79).

use std::io::{self, Write};

use super::text::{
    Columns, address, cell, method_and_mode, painted, plain, plural, protocols, rip_look, span, utc, vip_look,
};
use crate::model::{
    health::Verdict,
    status::{Colour, FlowsStatus, LinkStatus, RipState, RipStatus, Status, VipStatus},
};

/// Prints the whole overview: a line on the node, one on its links and flow tables, VIPs with their servers, and
/// below them what is wrong, with its cure.
pub fn overview_into(out: &mut impl Write, status: &Status, colour: bool) -> io::Result<()> {
    writeln!(
        out,
        "{}   {}   lbd {}   up {}   {}",
        utc(status.at_epoch_secs),
        plain(&status.node),
        plain(&status.version),
        span(status.uptime_secs),
        tally(&status.vips),
    )?;
    writeln!(out, "links {}   flows {}", links(&status.links), flows(&status.flows))?;
    if status.vips.is_empty() {
        writeln!(out, "No Virtual Services configured.")?;
    } else {
        let mut columns = vip_columns(&[], colour);
        for vip in &status.vips {
            columns.push(vip_cells(vip));
            for rip in &vip.rips {
                columns.push(rip_cells(rip));
            }
        }
        columns.write_into(out)?;
    }
    problems_into(out, status)
}

/// Columns of VIPs, with `more` behind the last.
pub(super) fn vip_columns(more: &[&str], colour: bool) -> Columns {
    let header =
        [&["", "VIRTUAL SERVICE", "IP", "PORTS", "CONNS", "PROTO", "METHOD", "MODE", "HEALTH"], more]
            .concat();
    // CONNS, and the numbers of a wide list.
    Columns::new(&header, &[4, 10, 11, 12], colour)
}

/// Cells of one VIP for [`vip_columns`].
pub(super) fn vip_cells(vip: &VipStatus) -> Vec<comfy_table::Cell> {
    let look = vip_look(vip);
    let (method, mode) = method_and_mode(vip.mode);
    vec![
        painted(look.symbol, look),
        painted(&vip.name, look),
        cell(vip.ip.to_string()),
        cell(vip_ports(vip)),
        cell(vip.connections.to_string()),
        cell(protocols(vip.protocol)),
        cell(method),
        cell(mode),
        cell(vip_health(vip)),
    ]
}

/// Ports of a VIP, with the one where TLS ends: `80 (tls 443)`, or `443 (tls)` where the others are closed.
pub(super) fn vip_ports(vip: &VipStatus) -> String {
    match vip.tls_port {
        None => vip.ports.clone(),
        Some(tls) if vip.ports.is_empty() => format!("{tls} (tls)"),
        Some(tls) => format!("{} (tls {tls})", vip.ports),
    }
}

/// How many of a VIP's servers take new flows, and why the others don't.
pub(super) fn vip_health(vip: &VipStatus) -> String {
    if !vip.enabled {
        return "disabled".to_owned();
    }
    if vip.problem.is_some() {
        return "NOT SERVED".to_owned();
    }
    if vip.rips.is_empty() {
        return "no real servers".to_owned();
    }
    let count = |state| vip.rips.iter().filter(|rip| rip.state == state).count();
    let mut health = format!("{}/{} up", count(RipState::Active), vip.rips.len());
    let others =
        [(RipState::Checking, "checking"), (RipState::Drain, "draining"), (RipState::Halt, "halted")];
    for (state, word) in others {
        match count(state) {
            0 => {}
            servers => health.push_str(&format!(", {servers} {word}")),
        }
    }
    health
}

/// What a server is, and why: `c-echo 3 ms`, `DOWN 2m: connect refused`, `draining; DOWN 5s: no answer`.
pub(super) fn rip_health(rip: &RipStatus) -> String {
    let checked = match (rip.state, rip.verdict) {
        // What overrules the check stands in the detail, with what the check says.
        _ if rip.operator.forced.is_some() => match rip.state {
            RipState::Down => joined("DOWN", ": ", &rip.detail),
            RipState::Active | RipState::Checking | RipState::Drain | RipState::Halt => rip.detail.clone(),
        },
        (_, Verdict::Down) => joined(&format!("DOWN {}", span(rip.verdict_for_secs)), ": ", &rip.detail),
        // Healthy, yet out of service: the detail says what else is missing.
        (RipState::Down, Verdict::Unknown | Verdict::Up) => joined("DOWN", ": ", &rip.detail),
        (RipState::Checking, Verdict::Unknown | Verdict::Up) => joined("checking", ": ", &rip.detail),
        (RipState::Active | RipState::Drain | RipState::Halt, Verdict::Unknown | Verdict::Up) => {
            rip.detail.clone()
        }
    };
    match rip.state {
        RipState::Drain => joined("draining", "; ", &checked),
        RipState::Halt => joined("halted", "; ", &checked),
        RipState::Active | RipState::Checking | RipState::Down => checked,
    }
}

/// What is wrong: of the node first, then of each VIP, a line each.
fn problems_into(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let of_node = status.problems.iter().map(|problem| plain(problem));
    let of_vips = status.vips.iter().filter_map(|vip| {
        let problem = vip.problem.as_ref()?;
        Some(format!("{}: {}", plain(&vip.name), plain(problem)))
    });
    let mut problems = of_node.chain(of_vips).peekable();
    if problems.peek().is_some() {
        writeln!(out, "\nProblems:")?;
    }
    problems.try_for_each(|problem| writeln!(out, "!  {problem}"))
}

/// Cells of one real server below its VIP: IP holds the port if it is not the VIP's, PORTS the weight.
fn rip_cells(rip: &RipStatus) -> Vec<comfy_table::Cell> {
    let look = rip_look(rip);
    vec![
        painted(look.symbol, look),
        painted(format!("  {}", rip.name), look),
        cell(address(rip.ip, rip.port)),
        cell(format!("w{}", rip.weight)),
        cell(rip.connections.to_string()),
        cell(""),
        cell(""),
        cell(""),
        cell(rip_health(rip)),
    ]
}

fn joined(head: &str, separator: &str, tail: &str) -> String {
    if tail.is_empty() { head.to_owned() } else { format!("{head}{separator}{tail}") }
}

/// `3 VIPs: 1 green, 1 red, 1 disabled`.
fn tally(vips: &[VipStatus]) -> String {
    let coloured = |colour| vips.iter().filter(|vip| vip.enabled && vip.colour == colour).count();
    let counts = [
        (coloured(Colour::Green), "green"),
        (coloured(Colour::Yellow), "yellow"),
        (coloured(Colour::Red), "red"),
        (vips.iter().filter(|vip| !vip.enabled).count(), "disabled"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    joined(&plural(vips.len() as u64, "VIP"), ": ", &counts.join(", "))
}

/// `eth0 native, eth1 generic (down)`.
fn links(links: &[LinkStatus]) -> String {
    if links.is_empty() {
        return "none attached".to_owned();
    }
    let links: Vec<String> = links
        .iter()
        .map(|link| {
            let down = if link.up { "" } else { " (down)" };
            format!("{} {}{down}", plain(&link.name), plain(&link.xdp))
        })
        .collect();
    links.join(", ")
}

/// `12 of 1048576 IPv4, 0 of 262144 IPv6, 3 half-open`: places taken, of which a NAT or SNAT flow has two.
fn flows(flows: &FlowsStatus) -> String {
    let taken_v4 = flows.established_v4 + flows.replies_v4;
    let taken_v6 = flows.established_v6 + flows.replies_v6;
    format!(
        "{taken_v4} of {} IPv4, {taken_v6} of {} IPv6, {} half-open",
        flows.capacity_v4, flows.capacity_v6, flows.half_open
    )
}
