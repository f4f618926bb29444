//! The command line of the load balancer: arguments in, words and an exit code out. All of it is [`lb_ctl::cli`].
#![forbid(unsafe_code)]

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use lb_ctl::{
    cli::{Cli, Done, Terminal, run},
    colour,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are answers too. When even this cannot be printed there is nobody to tell.
            let _unheard = answer.print();
            return if answer.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS };
        }
    };
    let screen = io::stdout().is_terminal();
    let mut terminal = Terminal {
        out: io::BufWriter::new(io::stdout()),
        err: io::stderr(),
        colour: colour::is_wanted(&io::stdout()),
        screen,
    };

    let done = run(&cli, &mut terminal).await;
    let done = done.and_then(|done| Ok(terminal.out.flush().map(|()| done)?));
    match done {
        Ok(Done::Well) => ExitCode::SUCCESS,
        Ok(Done::Degraded) => ExitCode::from(3),
        Err(error) => {
            if !error.is_quiet() {
                let text = error.to_string();
                // Rendered configuration errors bring their own headings.
                let name = if text.contains('\n') { "" } else { "lbctl: " };
                let _unheard = writeln!(terminal.err, "{name}{}", text.trim_end());
            }
            ExitCode::from(error.exit_code())
        }
    }
}
