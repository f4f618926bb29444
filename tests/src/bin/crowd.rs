//! A part of a crowd of connections, in a process of its own: `server ADDRESS:PORT` accepts and holds, `client ADDRESS
//! COUNT SPARE ADDRESS:PORT` opens and holds. Says a line when it is ready, and one for every order on its standard input.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, Write as _},
    net::{SocketAddr, TcpStream},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};
use lb_tests::lab::crowd::{Keeper, allow_open_files, open_each, receive_each, send_each};

/// Files that a process has open beside its connections.
const OTHER_FILES: u64 = 100;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", address] => serve(parse(address)?),
        ["client", from, count, spare, to] => {
            let (count, spare): (u16, u16) = (parse(count)?, parse(spare)?);
            allow_open_files(u64::from(count) + OTHER_FILES);
            let mut lost: BTreeMap<String, usize> = BTreeMap::new();
            let mut open = Vec::new();
            for outcome in open_each(parse(from)?, count.saturating_add(spare), parse(to)?) {
                match outcome {
                    Ok(connection) => open.push(connection),
                    Err(error) => *lost.entry(error.to_string()).or_default() += 1,
                }
                if open.len() == usize::from(count) {
                    break;
                }
            }
            hold(open, &lost)
        }
        _ => bail!("usage: crowd server ADDRESS:PORT | crowd client ADDRESS COUNT SPARE ADDRESS:PORT"),
    }
}

fn serve(address: SocketAddr) -> Result<()> {
    allow_open_files(OTHER_FILES);
    let keeper = Keeper::start(address).with_context(|| format!("cannot listen on {address}"))?;
    say("ready")?;
    obey(|order| match order {
        "count" => Ok(keeper.count().to_string()),
        "peers" => Ok(keeper.peers().iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" ")),
        "answer" => done(keeper.answer_each()),
        _ => bail!("a server takes no order {order:?}"),
    })
}

fn hold(mut connections: Vec<TcpStream>, lost: &BTreeMap<String, usize>) -> Result<()> {
    say(&format!("{} open {lost:?}", connections.len()))?;
    obey(|order| match order {
        "send" => done(send_each(&mut connections)),
        "receive" => done(receive_each(&mut connections)),
        _ => bail!("a client takes no order {order:?}"),
    })
}

/// Follows orders until there are no more.
fn obey(mut follow: impl FnMut(&str) -> Result<String>) -> Result<()> {
    for order in io::stdin().lock().lines() {
        say(&follow(&order?)?)?;
    }
    Ok(())
}

/// What becomes of an order that can fail: the other side is to know why.
fn done(outcome: io::Result<()>) -> Result<String> {
    Ok(outcome.map_or_else(|error| format!("failed: {error}"), |()| "done".to_owned()))
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn parse<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> Result<T> {
    text.parse().with_context(|| format!("{text:?} is not what it should be"))
}
