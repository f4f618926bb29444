//! Verbs about the kernel's tables: ending connections, what persistence remembers, what becomes of a packet.

use std::io::{self, IsTerminal as _, Write};

use super::{
    Done, RunError, Terminal,
    args::{ClearArgs, ExplainArgs, Form, KillArgs, QualifiedRip, RipTarget, ShowArgs, TableVerb, Which},
    lists::json_into,
    text::{Columns, NONE, cell, plain, plural, span},
};
use crate::{
    api::client::Client,
    model::{
        config::Protocol,
        explain::{ExplainQuery, Explanation, Treatment},
        tables::{Clear, EntryList, EntryQuery, Kill, Removed, TableKind, TableStatus},
    },
};

/// `lbctl flows kill`.
pub(super) async fn kill(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    args: &KillArgs,
) -> Result<Done, RunError> {
    let mut kill = kill_of(&args.which)?;
    if !args.yes {
        let found = client.kill(&Kill { dry_run: true, ..kill.clone() }).await?;
        let what = plural(found.count, "connection");
        if found.count == 0 {
            writeln!(terminal.out, "nothing to end: no connection is like that")?;
            return Ok(Done::Well);
        }
        if !io::stdin().is_terminal() {
            return Err(RunError::Local(format!("this would end {what}: say so with --yes")));
        }
        if !confirm(terminal, &format!("End {what}?"))? {
            writeln!(terminal.out, "nothing was ended")?;
            return Ok(Done::Well);
        }
    }
    kill.dry_run = false;
    removed_into(&mut terminal.out, &client.kill(&kill).await?)?;
    Ok(Done::Well)
}

/// `lbctl table`.
pub(super) async fn table(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &TableVerb,
) -> Result<Done, RunError> {
    match verb {
        TableVerb::List { output } => {
            let tables = client.tables().await?;
            match output {
                Form::Json => json_into(&mut terminal.out, &tables)?,
                Form::Table => tables_into(&mut terminal.out, &tables, terminal.colour)?,
            }
        }
        TableVerb::Show(ShowArgs { vip, client: from, key, rip, limit, output }) => {
            let query = EntryQuery {
                vip: vip.clone(),
                client: *from,
                key: key.clone(),
                rip: rip.clone(),
                limit: Some(*limit),
            };
            let entries = client.table_entries(&query).await?;
            match output {
                Form::Json => json_into(&mut terminal.out, &entries)?,
                Form::Table => entries_into(&mut terminal.out, &entries, terminal.colour)?,
            }
        }
        TableVerb::Clear(ClearArgs { vip, client: from, key, rip }) => {
            let clear = Clear { vip: vip.clone(), client: *from, key: key.clone(), rip: rip.clone() };
            removed_into(&mut terminal.out, &client.clear(&clear).await?)?;
        }
    }
    Ok(Done::Well)
}

/// `lbctl explain`.
pub(super) async fn explain(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    args: &ExplainArgs,
) -> Result<Done, RunError> {
    let query = ExplainQuery {
        client: args.client.ip,
        port: args.client.port,
        vip: args.vip.vip.clone(),
        vip_port: args.vip.port,
        protocol: if args.udp { Protocol::Udp } else { Protocol::Tcp },
    };
    let explanation = client.explain(&query).await?;
    match args.output {
        Form::Json => json_into(&mut terminal.out, &explanation)?,
        Form::Table => explanation_into(&mut terminal.out, &explanation)?,
    }
    Ok(if explanation.treatment == Treatment::Forwarded { Done::Well } else { Done::Degraded })
}

/// What was typed, as the API has it.
fn kill_of(which: &Which) -> Result<Kill, RunError> {
    let (vip, rip) = match (&which.vip, &which.rip) {
        (vip, None) => (vip.clone(), None),
        (vip, Some(RipTarget::Everywhere(rip))) => (vip.clone(), Some(rip.clone())),
        (Some(vip), Some(RipTarget::In(of))) if *vip != of.vip => {
            return Err(RunError::Local(format!(
                "--vip {vip} and --rip {}/{} name two VIPs: leave one out",
                of.vip, of.rip
            )));
        }
        (_, Some(RipTarget::In(QualifiedRip { vip, rip }))) => (Some(vip.clone()), Some(rip.clone())),
    };
    Ok(Kill {
        vip,
        rip,
        client: which.client.map(|client| client.ip),
        client_port: which.client.and_then(|client| client.port),
        dry_run: true,
    })
}

/// Asks a question that `y` answers with yes, and anything else with no.
fn confirm(terminal: &mut Terminal<impl Write, impl Write>, question: &str) -> io::Result<bool> {
    // What was printed before goes before the question.
    terminal.out.flush()?;
    write!(terminal.err, "{question} [y/N] ")?;
    terminal.err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn removed_into(out: &mut impl Write, removed: &Removed) -> io::Result<()> {
    removed.lines.iter().try_for_each(|line| writeln!(out, "{}", plain(line)))
}

/// `lbctl table list`.
pub fn tables_into(out: &mut impl Write, tables: &[TableStatus], colour: bool) -> io::Result<()> {
    if tables.is_empty() {
        return writeln!(out, "No VIP has persistence.");
    }
    let header = ["VIRTUAL SERVICE", "PERSISTENCE", "CLIENTS", "TIMEOUT", "GROUP", "SERVER IN USE"];
    let mut columns = Columns::new(&header, &[2], colour);
    for table in tables {
        let mut cells = vec![cell(&table.vip)];
        match &table.kind {
            TableKind::LastSuccessful { server } => cells.extend([
                cell("last-successful"),
                cell(NONE),
                cell(NONE),
                cell(NONE),
                cell(server.as_deref().unwrap_or("none")),
            ]),
            TableKind::SourceIp { prefix, timeout_secs, group, entries } => cells.extend([
                cell(format!("source-ip/{prefix}")),
                cell(entries.to_string()),
                cell(span(*timeout_secs)),
                cell(group.as_deref().unwrap_or(NONE)),
                cell(NONE),
            ]),
            TableKind::UrlParam { name, timeout_secs, entries } => cells.extend([
                cell(format!("url-param {name}")),
                cell(entries.to_string()),
                cell(span(*timeout_secs)),
                cell(NONE),
                cell(NONE),
            ]),
        }
        columns.push(cells);
    }
    columns.write_into(out)
}

/// `lbctl table show`. Says so when there are more than were listed.
pub fn entries_into(out: &mut impl Write, list: &EntryList, colour: bool) -> io::Result<()> {
    if list.entries.is_empty() {
        return writeln!(out, "No clients.");
    }
    let mut columns = Columns::new(&["CLIENT", "REAL SERVER", "IDLE", "FORGOTTEN IN"], &[], colour);
    for entry in &list.entries {
        columns.push(vec![
            cell(&entry.client),
            cell(entry.rip.as_deref().unwrap_or(NONE)),
            cell(span(entry.idle_secs)),
            cell(span(entry.left_secs)),
        ]);
    }
    columns.write_into(out)?;
    let listed = list.entries.len() as u64;
    if listed < list.total {
        writeln!(out, "{listed} of {} clients; see more with --limit", list.total)?;
    }
    Ok(())
}

/// `lbctl explain`: what becomes of the packet, and below it why.
pub fn explanation_into(out: &mut impl Write, explanation: &Explanation) -> io::Result<()> {
    let mut lines = explanation.lines.iter();
    if let Some(verdict) = lines.next() {
        writeln!(out, "{}", plain(verdict))?;
    }
    lines.try_for_each(|line| writeln!(out, "  {}", plain(line)))
}
