//! What was typed on the command line, as TOML values.

use toml_edit::{InlineTable, Key, Value};

use super::{EditError, refused};
use crate::model::command::{Assignment, VipSpec};

/// The keys that `lbctl vip add` was given; the others keep their defaults.
pub(super) fn spec_keys(spec: &VipSpec) -> InlineTable {
    let mut keys = InlineTable::new();
    keys.insert("mode", spec.mode.as_str().into());
    keys.insert("ip", spec.ip.as_str().into());
    keys.insert("ports", Value::from_iter(spec.ports.iter().map(|port| i64::from(*port))));
    for (key, value) in [("protocol", &spec.protocol), ("scheduler", &spec.scheduler)] {
        if let Some(value) = value {
            keys.insert(key, value.as_str().into());
        }
    }
    let titles = [("calling_aet", &spec.calling_aet), ("called_aet", &spec.called_aet)];
    if titles.iter().any(|(_, title)| title.is_some()) {
        let kind = [("type", &spec.check)];
        let given =
            kind.iter().chain(&titles).filter_map(|(key, value)| Some((*key, value.as_ref()?.as_str())));
        keys.insert("check", Value::InlineTable(given.collect()));
    } else if let Some(check) = &spec.check {
        keys.insert("check", check.as_str().into());
    }
    let servers: InlineTable = spec.rips.iter().map(|(name, ip)| (name.as_str(), ip.as_str())).collect();
    keys.insert("servers", servers.into());
    keys
}

/// Keys and value of `key=value`: TOML, or a bare word taken as a string.
pub(super) fn parse_assignment(assignment: &Assignment) -> Result<(Vec<String>, Value), EditError> {
    let Assignment { key, value } = assignment;
    let keys = Key::parse(key)
        .map_err(|_| refused(format!("`{key}` is not a key: write `check.called_aet=PACS`, for example")))?;
    let mut parsed = value.parse::<Value>().unwrap_or_else(|_| Value::from(value.as_str()));
    parsed.decor_mut().clear();
    Ok((keys.iter().map(|key| key.get().to_owned()).collect(), parsed))
}
