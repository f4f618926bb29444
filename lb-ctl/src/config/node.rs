//! `[node]`: what is particular to this machine.

use lb_common::limits::FLOWS_RANGE;

use super::{
    diag::Report,
    file::{At, Entry},
    read,
    sections::entries,
};
use crate::model::config::Node;

const KEYS: [&str; 5] = ["name", "interfaces", "flows_v4", "flows_v6", "half_open"];

/// Reads the section. What is reported keeps its default, for the configuration is refused anyway.
pub(super) fn read_node(section: Option<&Entry>, report: &mut Report<'_>) -> Node {
    let mut node = Node::default();
    let Some(section) = section else { return node };
    let table = entries(section);
    read::check_keys(table, "`[node]`", &KEYS, &[], report);
    if let Some(name) = table.get("name")
        && let Some(text) = read::string(name, "\"lb1\"", report)
    {
        let at = At { value: text.to_owned(), span: name.node.span };
        node.name = read::check_name(&at, "node", report).then_some(at.value);
    }
    if let Some(interfaces) = table.get("interfaces") {
        node.interfaces = read::interfaces(interfaces, report);
    }
    for (key, flows) in [
        ("flows_v4", &mut node.flows_v4),
        ("flows_v6", &mut node.flows_v6),
        ("half_open", &mut node.half_open),
    ] {
        if let Some(entry) = table.get(key) {
            *flows = read::number(entry, FLOWS_RANGE, report).unwrap_or(*flows);
        }
    }
    node
}
