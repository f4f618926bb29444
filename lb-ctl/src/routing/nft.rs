//! The nftables table of this daemon, by the program `nft`: written whole in one transaction, read back, and put
//! back when somebody flushed it. No other table is read or touched.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, fmt::Write as _, io, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use super::{replies::MARK, wanted::Rules};

/// Name of the table, in the family `inet`, which is IPv4 and IPv6.
const NAME: &str = "lbd";
/// Longest wait for one call of `nft`.
const DEADLINE: Duration = Duration::from_secs(10);

/// The table as it was last left.
#[derive(Debug, Default)]
pub struct Table {
    left: Option<Left>,
}

#[derive(Debug)]
struct Left {
    rules: Rules,
    /// How the kernel told it, handles included; `None` = there was none.
    told: Option<String>,
}

/// Why the table is not as wanted.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("nft is not installed: apt-get install nftables")]
    Missing,
    #[error("nft cannot be run: {0}")]
    Start(#[source] io::Error),
    #[error("nft {what}: {said}")]
    Refused { what: &'static str, said: String },
    #[error("nft {0} did not end within {secs} s", secs = DEADLINE.as_secs())]
    Late(&'static str),
}

impl Table {
    /// Makes the table hold `rules`; with none it goes. Does nothing when it holds them.
    ///
    /// # Errors
    ///
    /// A line that says what does not work, why, and the cure.
    pub async fn reach(&mut self, rules: &Rules) -> Result<(), String> {
        if self.left.as_ref().is_some_and(|left| left.rules == *rules) && rules.is_empty() {
            return Ok(());
        }
        if let Some(name) = rules.masquerade.iter().chain(&rules.no_redirects).find(|name| !is_plain(name)) {
            return Err(format!(
                "interface name \"{name}\" cannot stand in an nftables rule: rename the interface with letters, digits and . - _ @"
            ));
        }
        self.try_reach(rules).await.map_err(|error| {
            let mut what = Vec::new();
            if !rules.masquerade.is_empty() {
                what.push(format!("traffic of servers is not masqueraded on {}", listed(&rules.masquerade)));
            }
            if !rules.no_redirects.is_empty() {
                what.push(format!("IPv6 redirects are not kept in on {}", listed(&rules.no_redirects)));
            }
            if rules.transparent {
                what.push("servers' replies do not reach transparent VIPs".to_owned());
            }
            if rules.is_empty() {
                what.push(format!("the nftables table inet {NAME} could not be removed"));
            }
            format!("{}: {error}", what.join(", "))
        })
    }

    async fn try_reach(&mut self, rules: &Rules) -> Result<(), Error> {
        let told = match told().await {
            Err(Error::Missing) if rules.is_empty() => None,
            other => other?,
        };
        let left = self.left.take().filter(|left| left.rules == *rules);
        // A table that was flushed before it could be read back was told as none.
        if left.as_ref().is_some_and(|left| told.is_some() && left.told == told) {
            self.left = left;
            return Ok(());
        }
        if rules.is_empty() {
            if told.is_some() {
                run("delete table", &["delete", "table", "inet", NAME], "").await?;
                tracing::info!("removed the nftables table inet {NAME}");
            }
            self.left = Some(Left { rules: rules.clone(), told: None });
            return Ok(());
        }
        run("-f -", &["-f", "-"], &script(rules)).await?;
        let again = if left.is_some() { ", which something had changed" } else { "" };
        tracing::info!("wrote the nftables table inet {NAME}{again}");
        self.left = Some(Left { rules: rules.clone(), told: self::told().await? });
        Ok(())
    }
}

/// Removes the table; true when there was one.
///
/// # Errors
///
/// Why it stays.
pub async fn remove() -> Result<bool, String> {
    let why = |error: Error| format!("the nftables table inet {NAME} could not be removed: {error}");
    match told().await {
        Ok(None) | Err(Error::Missing) => Ok(false),
        Ok(Some(_)) => {
            run("delete table", &["delete", "table", "inet", NAME], "").await.map_err(why)?;
            Ok(true)
        }
        Err(error) => Err(why(error)),
    }
}

/// The transaction. The first line makes the second one succeed whether the table is there or not.
fn script(rules: &Rules) -> String {
    let mut text = format!("table inet {NAME}\ndelete table inet {NAME}\ntable inet {NAME} {{\n");
    let mut set = |name: &str, links: &BTreeSet<String>| {
        let links: Vec<String> = links.iter().map(|link| format!("\"{link}\"")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "set {name} {{ type ifname; elements = {{ {} }}; }}", links.join(", "));
    };
    if !rules.masquerade.is_empty() {
        set("uplinks", &rules.masquerade);
    }
    if !rules.no_redirects.is_empty() {
        set("links", &rules.no_redirects);
    }
    if !rules.masquerade.is_empty() {
        // What has one of this machine's addresses as its source is its own, and stays as it is.
        text.push_str(
            "chain postrouting {\ntype nat hook postrouting priority srcnat; policy accept;\n\
             oifname @uplinks fib saddr type != local masquerade\n}\n",
        );
    }
    if !rules.no_redirects.is_empty() {
        text.push_str(
            "chain output {\ntype filter hook output priority filter; policy accept;\n\
             oifname @links icmpv6 type nd-redirect drop\n}\n",
        );
    }
    if rules.transparent {
        // Before the routing table is asked: what belongs to a socket that has a client's address goes to that socket.
        let _ = writeln!(
            text,
            "chain replies {{\ntype filter hook prerouting priority mangle; policy accept;\n\
             meta l4proto tcp socket transparent 1 meta mark set {MARK:#x}\n}}"
        );
    }
    text.push_str("}\n");
    text
}

/// The table as the kernel tells it, if there is one.
async fn told() -> Result<Option<String>, Error> {
    let tables = run("list tables", &["-j", "list", "tables", "inet"], "").await?;
    if !names_table(&tables) {
        return Ok(None);
    }
    run("list table", &["-j", "list", "table", "inet", NAME], "").await.map(Some)
}

/// Whether a list of tables in nft's JSON (libnftables-json(5)) has ours.
fn names_table(list: &str) -> bool {
    let list: Value = serde_json::from_str(list).unwrap_or_default();
    let objects = list.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let mut tables = objects.filter_map(|object| object.get("table"));
    tables.any(|table| {
        let is = |key: &str, value: &str| table.get(key).and_then(Value::as_str) == Some(value);
        is("family", "inet") && is("name", NAME)
    })
}

/// Whether a name stands for itself alone between quotes: no pattern, no quote, no escape.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_@:".contains(c))
}

fn listed(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

async fn run(what: &'static str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let mut command = Command::new("nft");
    command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound { Error::Missing } else { Error::Start(error) }
    })?;
    let stdin = child.stdin.take();
    let whole = async {
        if let Some(mut stdin) = stdin {
            // A program that ends without reading says why on its standard error.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(DEADLINE, whole).await.map_err(|_| Error::Late(what))?.map_err(Error::Start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it gave no reason").trim().to_owned();
    Err(Error::Refused { what, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_table_is_replaced_in_one_transaction() {
        let rules = Rules {
            masquerade: links(&["eth1", "eth0.104"]),
            no_redirects: links(&["eth0"]),
            transparent: true,
        };
        let expected = "table inet lbd\ndelete table inet lbd\ntable inet lbd {\n\
            set uplinks { type ifname; elements = { \"eth0.104\", \"eth1\" }; }\n\
            set links { type ifname; elements = { \"eth0\" }; }\n\
            chain postrouting {\ntype nat hook postrouting priority srcnat; policy accept;\n\
            oifname @uplinks fib saddr type != local masquerade\n}\n\
            chain output {\ntype filter hook output priority filter; policy accept;\n\
            oifname @links icmpv6 type nd-redirect drop\n}\n\
            chain replies {\ntype filter hook prerouting priority mangle; policy accept;\n\
            meta l4proto tcp socket transparent 1 meta mark set 0x6c6264\n}\n}\n";
        assert_eq!(script(&rules), expected);
    }

    #[test]
    fn our_table_is_known_by_name_and_family() {
        let list = |family: &str, name: &str| {
            format!(
                r#"{{"nftables": [{{"metainfo": {{}}}}, {{"table": {{"family": "{family}", "name": "{name}"}}}}]}}"#
            )
        };
        assert!(names_table(&list("inet", "lbd")));
        assert!(!names_table(&list("ip", "lbd")));
        assert!(!names_table(&list("inet", "lbd2")));
        assert!(!names_table(""));
    }

    #[tokio::test]
    async fn a_name_that_nft_would_read_as_a_pattern_is_refused() {
        for name in ["eth*", "a\"b", "a b", "a\\b"] {
            let rules = Rules { masquerade: links(&[name]), ..Rules::default() };
            let error = Table::default().reach(&rules).await.unwrap_err();
            assert!(error.contains(name) && error.contains("rename"), "{error}");
        }
    }
}
