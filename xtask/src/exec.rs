//! Running programs, and saying which one failed.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command that shares our terminal; the error is the command line to repeat.
pub(crate) fn exec(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if status.success() {
        return Ok(());
    }
    bail!("`{line}` failed ({status})")
}

/// Standard output of a command that must succeed; the error holds the command line and what it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let run = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    if run.status.success() {
        return Ok(String::from_utf8_lossy(&run.stdout).into_owned());
    }
    let said = [run.stdout, run.stderr].concat();
    bail!("`{line}` failed ({}):\n{}", run.status, last_lines(&String::from_utf8_lossy(&said), 30))
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::place::root()).stdin(Stdio::null());
    command
}

/// Tells the person at the terminal. Standard error, so that it stays in order with what the programs we run say.
#[expect(clippy::print_stderr, reason = "a program for people")]
pub(crate) fn note(text: fmt::Arguments<'_>) {
    eprintln!("{text}");
}

/// How to repeat a command in a shell: variables we set, program by its name where that finds it, quoted arguments.
pub(crate) fn command_line(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
    let program = match command.get_program() {
        path if Some(path) == env::var_os("CARGO").as_deref() => "cargo".to_owned(),
        path => quoted(path),
    };
    variables.chain([program]).chain(command.get_args().map(quoted)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_so_that_it_can_be_repeated() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo \"it's broken\" >&2; exit 3"]).env("MODE", "a b").env_remove("GONE");
        let error = output(&mut command).unwrap_err().to_string();
        assert_eq!(
            error,
            "`MODE='a b' sh -c 'echo \"it'\\''s broken\" >&2; exit 3'` failed (exit status: 3):\nit's broken"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_with_its_name() {
        let error = exec(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(error.to_string().contains("cannot start `/nonexistent/program`"), "{error}");
    }

    #[test]
    fn only_the_end_of_a_long_output_is_shown() {
        assert_eq!(last_lines("1\n2\n3\n", 2), "2\n3");
        assert_eq!(last_lines("1\n", 2), "1");
    }
}
