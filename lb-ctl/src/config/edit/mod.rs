//! Edits of the TOML texts that keep comments, order and layout.
//!
//! An edit goes where the thing stands: a server of a pool is edited in the pool, for all VIPs that use it; a key that
//! a VIP has from its profile is written into the VIP, over the profile. A new VIP goes to the end of the main file,
//! or of `conf.d/lbctl.toml` when there is a `conf.d`. A string that needs a second key becomes a table. The new text
//! is loaded and checked before anything is written.

mod cut;
mod pki;
mod put;
mod typed;

use toml_edit::{DocumentMut, InlineTable, Item, Key, Value};

pub use self::pki::FileChange;
use self::{
    cut::remove,
    put::{Put, find, put},
    typed::{parse_assignment, server_value, spec_keys, with_port_of},
};
use super::{
    Loaded, Rewrite, Text, Texts,
    diag::{ConfigErrors, Report, nearest},
    diff::diff,
    file, load_texts,
    sections::{Sections, entries, find as find_entry},
};
use crate::model::{
    command::{Assignment, Edit, VipSpec},
    config::{Rip, Vip},
    health::RipId,
};

/// An edit that was checked but not written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edited {
    /// The configuration after it.
    pub loaded: Loaded,
    /// Files to replace; none when the edit changes no text.
    pub rewrites: Vec<Rewrite>,
    /// What it changes, a line each.
    pub changes: Vec<String>,
    /// What is worth knowing: other VIPs that share what was edited.
    pub notes: Vec<String>,
    /// Files of certificates to put in place before, or to remove after.
    pub files: Vec<FileChange>,
}

/// Why an edit was not made.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The text would no longer be a valid configuration.
    #[error("the change would make the configuration invalid:\n\n{0}")]
    Invalid(#[from] ConfigErrors),
    /// The edit does not fit what there is. One line with the cure.
    #[error("{0}")]
    Refused(String),
}

/// Makes an edit on the texts of a configuration and checks the outcome. Writes nothing.
///
/// # Errors
///
/// When what is edited does not exist (or exists already, for additions), or the outcome is not valid.
pub fn plan_edit(loaded: &Loaded, edit: &Edit) -> Result<Edited, EditError> {
    let mut plan = Plan { loaded, texts: loaded.texts.clone(), notes: Vec::new(), files: Vec::new() };
    match edit {
        Edit::RipAdd { vip, rip, ip, port, weight, max_connections, min_connections } => {
            let numbers = [
                ("weight", *weight),
                ("max_connections", *max_connections),
                ("min_connections", *min_connections),
            ];
            plan.rip_add(vip, rip, server_value(*ip, *port, &numbers))?;
        }
        Edit::RipDelete(id) => plan.rip_delete(id)?,
        Edit::RipSet { id, assignments } => plan.rip_set(id, assignments)?,
        Edit::VipAdd(spec) => plan.vip_add(spec)?,
        Edit::VipDelete { vip } => plan.vip_delete(vip)?,
        Edit::VipSet { vip, assignments } => plan.vip_set(vip, assignments)?,
        Edit::Pki(edit) => plan.pki(edit)?,
    }
    plan.finish()
}

/// The texts while they are edited.
struct Plan<'l> {
    loaded: &'l Loaded,
    texts: Texts,
    notes: Vec<String>,
    files: Vec<FileChange>,
}

/// Where something stands: a file, and the keys that lead to it.
struct Spot {
    file: usize,
    path: Vec<String>,
}

impl Plan<'_> {
    fn finish(self) -> Result<Edited, EditError> {
        let before = |path| self.loaded.texts.files.iter().find(|file| file.path == path);
        let mut rewrites = Vec::new();
        for Text { path, text } in &self.texts.files {
            let old = before(path.clone()).map(|file| file.text.clone());
            if old.as_ref() != Some(text) {
                rewrites.push(Rewrite { path: path.clone(), before: old, after: text.clone() });
            }
        }
        let mut loaded = load_texts(self.texts)?;
        pki::forget_warnings(&mut loaded.warnings, &self.files);
        let changes = diff(&self.loaded.config, &loaded.config);
        Ok(Edited { loaded, rewrites, changes, notes: self.notes, files: self.files })
    }

    fn vip_add(&mut self, spec: &VipSpec) -> Result<(), EditError> {
        if self.loaded.config.vips.iter().any(|vip| vip.name == spec.name) {
            let name = &spec.name;
            return Err(refused(format!(
                "vip `{name}` exists: change it with `lbctl vip set {name} KEY=VALUE`"
            )));
        }
        self.append(&["vip"], &spec.name, spec_keys(spec))
    }

    /// Puts a new section after all others, where additions go.
    fn append(&mut self, parents: &[&str], name: &str, keys: InlineTable) -> Result<(), EditError> {
        let path = self.texts.additions.clone();
        let file = match self.texts.files.iter().position(|file| file.path == path) {
            Some(file) => file,
            None => {
                // The main file comes first, then the others by name, as they will be read next time.
                let others = self.texts.files.iter().skip(1);
                let at = 1 + others.take_while(|file| file.path < path).count();
                let at = at.min(self.texts.files.len());
                self.texts.files.insert(at, Text { path, text: String::new() });
                at
            }
        };
        let text = &mut self.texts.files[file].text;
        let document = parse(text)?;
        // A header may follow only headers: the first parent that is written otherwise takes the section in.
        let inside = (1..=parents.len()).find(|&depth| {
            let parent = find(document.as_item(), &parents[..depth]);
            parent.is_some_and(|parent| !parent.is_table() || is_dotted(parent))
        });
        let Some(depth) = inside else {
            if !text.is_empty() {
                text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
            }
            let header: Vec<String> =
                parents.iter().chain([&name]).map(|key| Key::new(*key).to_string()).collect();
            text.push_str(&format!("[{}]\n", header.join(".")));
            for (key, value) in keys.iter() {
                text.push_str(&format!("{key} = {}\n", value.to_string().trim()));
            }
            return Ok(());
        };
        let (table, rest) = parents.split_at(depth);
        let path: Vec<&str> = rest.iter().copied().chain([name]).collect();
        self.put(file, table, &path, keys.into())
    }

    fn vip_set(&mut self, name: &str, assignments: &[Assignment]) -> Result<(), EditError> {
        self.vip(name)?;
        let spot = self.vip_spot(name)?;
        for assignment in assignments {
            let (keys, value) = parse_assignment(assignment)?;
            self.put(spot.file, &spot.keys(), &borrowed(&keys), value)?;
        }
        Ok(())
    }

    fn vip_delete(&mut self, name: &str) -> Result<(), EditError> {
        self.vip(name)?;
        let spot = self.vip_spot(name)?;
        self.cut(spot.file, &spot.keys())
    }

    fn rip_add(&mut self, vip: &str, rip: &str, value: Value) -> Result<(), EditError> {
        if self.vip(vip)?.rips.iter().any(|other| other.name == rip) {
            return Err(refused(format!(
                "vip `{vip}` has a real server `{rip}`: change it with `lbctl rip set {vip}/{rip} KEY=VALUE`"
            )));
        }
        let spot = self.servers_spot(vip)?;
        self.put(spot.file, &spot.keys(), &[rip], value)
    }

    fn rip_set(&mut self, id: &RipId, assignments: &[Assignment]) -> Result<(), EditError> {
        let spot = self.rip_spot(id)?;
        for assignment in assignments {
            let (keys, value) = parse_assignment(assignment)?;
            let mut path = vec![id.rip.as_str()];
            let document = parse(&self.texts.files[spot.file].text)?;
            let text = find(document.as_item(), &spot.keys()).and_then(|servers| servers.get(&id.rip));
            // A server that is a string is its address, with or without its port.
            let value = match text.and_then(Item::as_str) {
                Some(address) if keys == ["ip"] => with_port_of(address, value),
                _ => {
                    path.extend(borrowed(&keys));
                    value
                }
            };
            self.put(spot.file, &spot.keys(), &path, value)?;
        }
        Ok(())
    }

    fn rip_delete(&mut self, id: &RipId) -> Result<(), EditError> {
        let spot = self.rip_spot(id)?;
        for vip in self.users(&spot)?.iter().filter(|vip| vip.enabled) {
            let Some(rip) = vip.rips.iter().find(|rip| rip.name == id.rip) else { continue };
            if vip.rips.iter().filter(|other| other.pool == rip.pool).count() == 1 {
                return Err(last_of(vip, rip));
            }
        }
        let mut path = spot.keys();
        path.push(&id.rip);
        self.cut(spot.file, &path)?;
        // `servers.NAME = ..` was its own table.
        let document = parse(&self.texts.files[spot.file].text)?;
        if find(document.as_item(), &spot.keys()).is_none() {
            let keys = spot.keys();
            let (last, parent) = keys.split_last().ok_or_else(|| misplaced(&id.vip))?;
            self.put(spot.file, parent, &[last], InlineTable::new().into())?;
        }
        Ok(())
    }

    fn put(&mut self, file: usize, table: &[&str], keys: &[&str], value: Value) -> Result<(), EditError> {
        let Text { path, text } = &mut self.texts.files[file];
        // A table that gives way to a value is cut out as text, so that comments around it stay.
        let mut whole = table.to_vec();
        whole.extend(keys);
        if let Some(Item::Table(_)) = find(parse(text)?.as_item(), &whole) {
            *text = remove(text, &whole).ok_or_else(|| layout(path, keys))?;
        }
        let mut document = parse(text)?;
        match put(document.as_item_mut(), table, keys, value) {
            Put::Done => {
                *text = document.to_string();
                Ok(())
            }
            Put::NoTable(key) => {
                Err(refused(format!("`{key}` has no keys of its own: set `{key}` as a whole")))
            }
        }
    }

    fn cut(&mut self, file: usize, path: &[&str]) -> Result<(), EditError> {
        let text = &mut self.texts.files[file];
        text.text = remove(&text.text, path).ok_or_else(|| layout(&text.path, path))?;
        Ok(())
    }

    fn vip(&self, name: &str) -> Result<&Vip, EditError> {
        let vips = &self.loaded.config.vips;
        vips.iter().find(|vip| vip.name == name).ok_or_else(|| {
            let hint = hint(name, vips.iter().map(|vip| vip.name.as_str()), "see `lbctl vip list`");
            refused(format!("there is no vip `{name}`: {hint}"))
        })
    }

    fn rip(&self, id: &RipId) -> Result<&Rip, EditError> {
        let RipId { vip, rip } = id;
        let rips = &self.vip(vip)?.rips;
        if let Some(found) = rips.iter().find(|other| other.name == *rip) {
            return Ok(found);
        }
        let names = rips.iter().map(|rip| rip.name.as_str());
        let hint = hint(rip, names, &format!("see `lbctl vip show {vip}`"));
        Err(refused(format!("vip `{vip}` has no real server `{rip}`: {hint}")))
    }

    fn vip_spot(&self, name: &str) -> Result<Spot, EditError> {
        let path = vec!["vip".to_owned(), name.to_owned()];
        for (file, text) in self.texts.files.iter().enumerate() {
            if find(parse(&text.text)?.as_item(), &["vip", name]).is_some() {
                return Ok(Spot { file, path });
            }
        }
        Err(misplaced(name))
    }

    /// The list that a VIP has its servers from; notes who shares it.
    fn servers_spot(&mut self, vip: &str) -> Result<Spot, EditError> {
        let spot = self.spot_of(&self.sections(), vip).ok_or_else(|| misplaced(vip))?;
        self.note_users(&spot)?;
        Ok(spot)
    }

    /// The list that a server stands in: its VIP's, or that of a pool which the VIP's rules lead to.
    fn rip_spot(&mut self, id: &RipId) -> Result<Spot, EditError> {
        let rip = self.rip(id)?;
        let sections = self.sections();
        let in_pool = rip.pool.as_ref().and_then(|pool| {
            let entry = find_entry(&sections.pools, pool)?;
            comes_by_rule(&sections, &id.vip, &id.rip).then(|| Spot::of_pool(entry))
        });
        let spot = match in_pool {
            Some(spot) => spot,
            None => self.spot_of(&sections, &id.vip).ok_or_else(|| misplaced(&id.vip))?,
        };
        self.note_users(&spot)?;
        Ok(spot)
    }

    fn note_users(&mut self, spot: &Spot) -> Result<(), EditError> {
        let users = self.users(spot)?;
        let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
        if names.len() > 1 {
            self.notes.push(format!(
                "pool `{}` is shared: vips {} change alike",
                spot.path[1],
                names.join(", ")
            ));
        }
        Ok(())
    }

    /// The VIPs that have servers from there.
    fn users(&self, spot: &Spot) -> Result<Vec<&Vip>, EditError> {
        let sections = self.sections();
        let by_rule = |vip: &Vip| match spot.path.as_slice() {
            [section, pool, _] if section == "pool" => vip
                .rips
                .iter()
                .any(|rip| rip.pool.as_ref() == Some(pool) && comes_by_rule(&sections, &vip.name, &rip.name)),
            _ => false,
        };
        let uses = |vip: &&Vip| {
            by_rule(vip) || self.spot_of(&sections, &vip.name).is_some_and(|other| other.path == spot.path)
        };
        Ok(self.loaded.config.vips.iter().filter(uses).collect())
    }

    fn spot_of(&self, sections: &Sections, vip: &str) -> Option<Spot> {
        let entry = find_entry(&sections.vips, vip)?;
        let table = sections.resolve_vip(entry, &mut Report::new(&self.loaded.texts.files));
        let owned = |path: [&str; 3]| path.map(str::to_owned).to_vec();
        if let Some(servers) = table.get("servers") {
            return Some(Spot { file: servers.key.span.file, path: owned(["vip", vip, "servers"]) });
        }
        let file::Value::String(name) = &table.get("pool")?.node.value else {
            return None;
        };
        find_entry(&sections.pools, name).map(Spot::of_pool)
    }

    fn sections(&self) -> Sections {
        // The texts are those of a loaded configuration: there is nothing to report.
        let mut report = Report::new(&self.loaded.texts.files);
        let files = self.loaded.texts.files.iter().enumerate();
        let files = files.map(|(number, text)| file::parse(number, &text.text, &mut report)).collect();
        Sections::collect(files, &mut report)
    }
}

impl Spot {
    fn of_pool(pool: &file::Entry) -> Self {
        let path = ["pool", &pool.key.value, "servers"].map(str::to_owned).to_vec();
        Self { file: pool.key.span.file, path }
    }

    fn keys(&self) -> Vec<&str> {
        borrowed(&self.path)
    }
}

/// Whether a server of a VIP that is of some pool comes from `[pool.NAME]`, and is not one of the VIP's own.
fn comes_by_rule(sections: &Sections, vip: &str, rip: &str) -> bool {
    let servers = find_entry(&sections.vips, vip).and_then(|entry| entries(entry).get("servers"));
    servers.is_none_or(|servers| !entries(servers).has(rip))
}

fn last_of(vip: &Vip, rip: &Rip) -> EditError {
    let (name, rip, pool) = (&vip.name, &rip.name, &rip.pool);
    refused(match pool {
        Some(pool) => format!(
            "`{rip}` is the last real server of pool `{pool}`, which a rule of vip `{name}` leads to: take the rule out of \
             `switch` first, or the VIP out of service with `lbctl vip set {name} enabled=false`"
        ),
        None => format!(
            "`{rip}` is the last real server of vip `{name}`: delete the VIP with `lbctl vip delete {name}`, or take it \
             out of service first with `lbctl vip set {name} enabled=false`"
        ),
    })
}

fn parse(text: &str) -> Result<DocumentMut, EditError> {
    text.parse().map_err(|error| refused(format!("the file cannot be edited as it stands: {error}")))
}

fn is_dotted(item: &Item) -> bool {
    item.as_table().is_some_and(toml_edit::Table::is_dotted)
}

fn borrowed(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

fn hint<'n>(typed: &str, names: impl Iterator<Item = &'n str>, otherwise: &str) -> String {
    nearest(typed, names).map_or_else(|| otherwise.to_owned(), |near| format!("did you mean `{near}`?"))
}

const fn refused(text: String) -> EditError {
    EditError::Refused(text)
}

fn misplaced(vip: &str) -> EditError {
    refused(format!("vip `{vip}` is not in the files any more: run `lbctl apply`, then repeat the command"))
}

fn layout(path: &std::path::Path, keys: &[&str]) -> EditError {
    let (path, keys) = (path.display(), keys.join("."));
    refused(format!(
        "`{keys}` in {path} is written in a way that cannot be edited safely: edit the file by hand"
    ))
}
