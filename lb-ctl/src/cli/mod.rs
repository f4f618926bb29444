//! The command line. [`Cli`] is what can be typed, [`run`] does it; printers are pure and take what the API gave.
//!
//! Exit codes: 0 done, 1 usage or a local error, 2 the daemon refused or cannot be reached, 3 something is not
//! green (`status`), not right (`doctor`), or fails (`check`).
#![forbid(unsafe_code)]

mod alerts;
mod args;
mod arp_help;
mod certificates;
mod checks;
mod history;
mod lists;
mod names;
pub mod offline;
mod operator;
mod overview;
mod password;
mod tables;
mod text;
mod tls;

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::CommandFactory as _;
use clap_complete::Shell;

pub use self::{
    alerts::tested_into,
    args::{Cli, ListForm},
    certificates::{cert_into, certs_into, families_into, family_into, findings_into},
    checks::{ShownCheck, check_into, checks_into, runs_into},
    history::{history_into, version_into},
    lists::{ListedRip, flow_counts_into, flows_into, json_into, rips_into, vip_into, vips_into},
    overview::overview_into,
    tables::{entries_into, explanation_into, tables_into},
};
use self::{
    args::{
        CompletionShell, ConfigVerb, DryRun, FlowsVerb, Form, HaltArgs, NamedIp, RipVerb, Verb, VipAddArgs,
        VipVerb,
    },
    names::{find_vip, id_of},
};
use crate::{
    api::client::{Client, ClientError},
    model::{
        command::{Command, Edit, Outcome, VipSpec},
        operator::Order,
        status::{Colour, FlowQuery},
    },
};

/// Said at the end of a dry run.
const DRY_RUN: &str = "dry run: nothing was changed";

/// Where output goes, and how.
#[derive(Debug)]
pub struct Terminal<O, E> {
    /// Standard output.
    pub out: O,
    /// Standard error: warnings.
    pub err: E,
    /// Colours are wanted.
    pub colour: bool,
    /// Output is a screen, which `--watch` may clear.
    pub screen: bool,
}

/// How a run ended that did not fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Done {
    /// All well.
    Well,
    /// Done, and what it showed is not well.
    Degraded,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The daemon refused or cannot be reached.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// This side could not do it.
    #[error("{0}")]
    Local(String),
    /// Output could not be written; with a broken pipe the reader has had enough.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// The daemon could not reach somebody.
    #[error("{0}")]
    Unreached(String),
    /// The daemon has nothing of this name.
    #[error("{0}")]
    Unknown(String),
}

impl RunError {
    /// Exit code of the program.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Daemon(_) | Self::Unknown(_) | Self::Unreached(_) => 2,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Local(_) | Self::Output(_) => 1,
        }
    }

    /// True when there is nobody left to tell.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Does what was typed and prints it. With [`RunError`] goes an exit code; what was printed until then may still wait
/// in `terminal`, which the caller flushes.
pub async fn run(cli: &Cli, terminal: &mut Terminal<impl Write, impl Write>) -> Result<Done, RunError> {
    let client = Client::new(&cli.socket, cli.answer_timeout);
    match &cli.verb {
        Verb::Alert(verb) => alerts::alert(cli, terminal, verb).await,
        Verb::Apply => command(&client, terminal, &Command::Apply).await,
        Verb::ArpHelp(args) => arp_help::arp_help(&client, terminal, args).await,
        Verb::Check(verb) => checks::check(&client, terminal, verb).await,
        Verb::Completions { shell } => complete(*shell, &mut terminal.out),
        Verb::Config(verb) => config(&client, terminal, verb).await,
        Verb::Doctor(args) => {
            let report = offline::doctor(&args.config).await.map_err(RunError::Local)?;
            writeln!(terminal.out, "{}", report.text)?;
            Ok(if report.healthy { Done::Well } else { Done::Degraded })
        }
        Verb::Explain(args) => tables::explain(&client, terminal, args).await,
        Verb::Flows(verb) => flows(&client, terminal, verb).await,
        Verb::Rip(verb) => rip(&client, terminal, verb).await,
        Verb::Server(verb) => operator::server(&client, terminal, verb).await,
        Verb::Status(args) => match args.watch {
            Some(every) => watch(&client, terminal, args.output, every).await,
            None => status(&client, terminal, args.output).await,
        },
        Verb::Table(verb) => tables::table(&client, terminal, verb).await,
        Verb::Tls(verb) => tls::tls(&client, terminal, verb).await,
        Verb::Vip(verb) => vip(&client, terminal, verb).await,
    }
}

async fn status(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    form: Form,
) -> Result<Done, RunError> {
    let status = client.status().await?;
    match form {
        Form::Json => json_into(&mut terminal.out, &status)?,
        Form::Table => overview_into(&mut terminal.out, &status, terminal.colour)?,
    }
    Ok(if status.health == Colour::Green { Done::Well } else { Done::Degraded })
}

/// Shows the status until the reader has had enough or the user interrupts. A daemon that is away, as in a
/// restart, is shown as such and asked again.
async fn watch(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    form: Form,
    every: Duration,
) -> Result<Done, RunError> {
    loop {
        if terminal.screen {
            // Erase the screen, cursor to the top left (ECMA-48 ED and CUP).
            write!(terminal.out, "\x1b[2J\x1b[H")?;
        }
        match status(client, terminal, form).await {
            Ok(_) => {}
            Err(RunError::Daemon(error)) => {
                // The erased screen first, or the message would go with it.
                terminal.out.flush()?;
                writeln!(terminal.err, "lbctl: {error}")?;
            }
            Err(error) => return Err(error),
        }
        if !terminal.screen && form == Form::Table {
            writeln!(terminal.out)?;
        }
        terminal.out.flush()?;
        tokio::time::sleep(every).await;
    }
}

async fn vip(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &VipVerb,
) -> Result<Done, RunError> {
    match verb {
        VipVerb::List { output } => {
            vips_into(&mut terminal.out, &client.status().await?.vips, *output, terminal.colour)?;
            Ok(Done::Well)
        }
        VipVerb::Show { vip, output } => {
            let status = client.status().await?;
            let vip = find_vip(&status, vip).map_err(RunError::Unknown)?;
            match output {
                Form::Json => json_into(&mut terminal.out, vip)?,
                Form::Table => vip_into(&mut terminal.out, vip, terminal.colour)?,
            }
            Ok(Done::Well)
        }
        VipVerb::Add(args) => {
            edit(client, terminal, Edit::VipAdd(Box::new(vip_spec(args))), args.dry_run).await
        }
        VipVerb::Set { vip, assignments, dry_run } => {
            let change = Edit::VipSet { vip: vip.clone(), assignments: assignments.clone() };
            edit(client, terminal, change, *dry_run).await
        }
        VipVerb::Delete { vip, dry_run } => {
            edit(client, terminal, Edit::VipDelete { vip: vip.clone() }, *dry_run).await
        }
    }
}

async fn rip(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &RipVerb,
) -> Result<Done, RunError> {
    match verb {
        RipVerb::List { vip, output } => {
            let status = client.status().await?;
            let vips = match vip {
                Some(name) => std::slice::from_ref(find_vip(&status, name).map_err(RunError::Unknown)?),
                None => status.vips.as_slice(),
            };
            let rips: Vec<ListedRip<'_>> = vips
                .iter()
                .flat_map(|vip| vip.rips.iter().map(|rip| ListedRip { vip: &vip.name, rip }))
                .collect();
            rips_into(&mut terminal.out, &rips, *output, terminal.colour)?;
            Ok(Done::Well)
        }
        RipVerb::Add { vip, rip, weight, max_connections, min_connections, dry_run } => {
            let NamedIp { name, ip, port } = rip.clone();
            let change = Edit::RipAdd {
                vip: vip.clone(),
                rip: name,
                ip,
                port,
                weight: *weight,
                max_connections: *max_connections,
                min_connections: *min_connections,
            };
            edit(client, terminal, change, *dry_run).await
        }
        RipVerb::Set { rip, assignments, dry_run } => {
            let change = Edit::RipSet { id: id_of(rip), assignments: assignments.clone() };
            edit(client, terminal, change, *dry_run).await
        }
        RipVerb::Delete { rip, dry_run } => {
            edit(client, terminal, Edit::RipDelete(id_of(rip)), *dry_run).await
        }
        RipVerb::Drain { targets, how } => {
            let rips = operator::named(client, targets).await?;
            operator::drain(client, terminal, rips, *how).await
        }
        RipVerb::Halt { targets, how: HaltArgs { keep_sessions } } => {
            let rips = operator::named(client, targets).await?;
            let state = Order::Halt { keep_sessions: *keep_sessions };
            command(client, terminal, &Command::SetState { rips, state }).await
        }
        RipVerb::Online(targets) => {
            let rips = operator::named(client, targets).await?;
            command(client, terminal, &Command::SetState { rips, state: Order::Online }).await
        }
    }
}

async fn config(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &ConfigVerb,
) -> Result<Done, RunError> {
    match verb {
        ConfigVerb::Check { file } => {
            let found = offline::check_config(file).await.map_err(RunError::Local)?;
            writeln!(terminal.out, "{found}")?;
            Ok(Done::Well)
        }
        ConfigVerb::Diff => {
            let outcome = client.config_diff().await?;
            outcome_into(terminal, &outcome, "the files say what is in force: nothing to apply")
        }
        ConfigVerb::Apply => command(client, terminal, &Command::Apply).await,
        ConfigVerb::History { output } => {
            let versions = client.config_history().await?;
            match output {
                Form::Json => json_into(&mut terminal.out, &versions)?,
                Form::Table => history_into(&mut terminal.out, &versions, terminal.colour)?,
            }
            Ok(Done::Well)
        }
        ConfigVerb::Rollback { number, force, dry_run: DryRun { dry_run } } => {
            let back = Command::Rollback { to: *number, force: *force, dry_run: *dry_run };
            let done = command(client, terminal, &back).await?;
            if *dry_run {
                writeln!(terminal.out, "{DRY_RUN}")?;
            }
            Ok(done)
        }
        ConfigVerb::Show { number: Some(number) } => {
            version_into(&mut terminal.out, &client.config_version(*number).await?)?;
            Ok(Done::Well)
        }
        ConfigVerb::Show { number: None } => {
            let config = client.config().await?;
            write!(terminal.out, "{}", config.toml)?;
            Ok(Done::Well)
        }
    }
}

async fn flows(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &FlowsVerb,
) -> Result<Done, RunError> {
    match verb {
        FlowsVerb::Kill(args) => return tables::kill(client, terminal, args).await,
        FlowsVerb::List { vip, rip, client: from, limit, output } => {
            let query = FlowQuery { limit: Some(*limit), vip: vip.clone(), rip: rip.clone(), client: *from };
            let list = client.flows(&query).await?;
            match output {
                Form::Json => json_into(&mut terminal.out, &list)?,
                Form::Table => flows_into(&mut terminal.out, &list, terminal.colour)?,
            }
        }
        FlowsVerb::Count { by, output } => {
            let counts = client.flow_counts((*by).into()).await?;
            match output {
                Form::Json => json_into(&mut terminal.out, &counts)?,
                Form::Table => flow_counts_into(&mut terminal.out, &counts, (*by).into(), terminal.colour)?,
            }
        }
    }
    Ok(Done::Well)
}

async fn edit(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    edit: Edit,
    DryRun { dry_run }: DryRun,
) -> Result<Done, RunError> {
    let done = command(client, terminal, &Command::Edit { edit: Box::new(edit), dry_run }).await?;
    if dry_run {
        writeln!(terminal.out, "{DRY_RUN}")?;
    }
    Ok(done)
}

async fn command(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    command: &Command,
) -> Result<Done, RunError> {
    let outcome = client.command(command).await?;
    outcome_into(terminal, &outcome, "nothing to change")
}

/// Prints what changed or would change, or `nothing` when nothing does.
fn outcome_into(
    terminal: &mut Terminal<impl Write, impl Write>,
    outcome: &Outcome,
    nothing: &str,
) -> Result<Done, RunError> {
    for warning in &outcome.warnings {
        writeln!(terminal.err, "warning: {warning}")?;
    }
    for change in &outcome.changes {
        writeln!(terminal.out, "{change}")?;
    }
    if outcome.changes.is_empty() {
        writeln!(terminal.out, "{nothing}")?;
    }
    if !outcome.traffic.is_empty() {
        writeln!(terminal.out, "\nwhat becomes of traffic:")?;
    }
    for line in &outcome.traffic {
        writeln!(terminal.out, "  {line}")?;
    }
    Ok(Done::Well)
}

fn vip_spec(args: &VipAddArgs) -> VipSpec {
    VipSpec {
        name: args.vip.clone(),
        mode: args.mode.clone(),
        ip: args.ip.to_string(),
        ports: args.ports.clone(),
        protocol: args.protocol.clone(),
        scheduler: args.scheduler.clone(),
        persist: args.persist.clone(),
        persist_group: args.persist_group.clone(),
        fallback: args.fallback.clone(),
        slow_start: args.slow_start.clone(),
        unattended: args.unattended.clone(),
        check: args.check.clone(),
        check_port: args.check_port,
        check_path: args.check_path.clone(),
        check_script: args.check_script.clone(),
        calling_aet: args.calling_aet.clone(),
        called_aet: args.called_aet.clone(),
        source: args.source.clone(),
        source_ports: args.source_ports.clone(),
        return_path: args.return_path.clone(),
        reset: args.no_reset.then_some(false),
        proxy: args.proxy.spec(),
        rips: args.rips.iter().map(|rip| (rip.name.clone(), rip.address.clone())).collect(),
    }
}

fn complete(shell: CompletionShell, out: &mut impl Write) -> Result<Done, RunError> {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Fish => Shell::Fish,
        CompletionShell::Zsh => Shell::Zsh,
    };
    let mut command = Cli::command();
    command.build();
    // Into memory first: the generator takes any error of writing for a fault of its own and panics.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "lbctl", &mut script);
    out.write_all(&script)?;
    Ok(Done::Well)
}
