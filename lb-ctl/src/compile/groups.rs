//! Persistence that several VIPs share.

use std::collections::BTreeMap;

use lb_common::service::flags;

use super::Compiled;
use crate::model::{
    config::{Config, Persist},
    desired::group_id,
};

/// Marks the services of groups. The kernel knows a group by a number; a group whose number another one has already
/// is not shared, and that is said.
pub(super) fn mark(config: &Config, out: &mut Compiled) {
    let mut names: BTreeMap<u32, &str> = BTreeMap::new();
    for vip in config.vips.iter().filter(|vip| vip.enabled) {
        let Persist::SourceIp { group: Some(group), .. } = &vip.persist else {
            continue;
        };
        let holder = *names.entry(group_id(group)).or_insert(group);
        if holder != group {
            out.notes.problems.push(format!(
                "VIP {}: its persistence group `{group}` cannot be told from `{holder}`, so clients of this VIP are \
                 remembered apart from the group's: rename one of the groups",
                vip.name
            ));
            continue;
        }
        if let Some(service) = out.desired.services.get_mut(&vip.name) {
            service.group = Some(group.clone());
            service.record.flags |= flags::SHARED;
        }
    }
}
