//! Programs with a life of their own that run beside us: they are kept running by the last configuration that they
//! take, and outlive the daemon.
#![forbid(unsafe_code)]

mod backoff;

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use self::backoff::Backoff;

/// What is particular of a program. Errors are lines for people.
pub trait Companion: Send {
    /// What it is run by. Two that are equal mean one and the same running program; it need not be told of the other.
    type Config: Clone + PartialEq + Send + Sync;

    /// Asks the program whether it could run by this.
    fn check(&mut self, config: &Self::Config) -> impl Future<Output = Result<(), String>> + Send;
    /// Starts it.
    fn start(&mut self, config: &Self::Config) -> impl Future<Output = Result<(), String>> + Send;
    /// Makes the running one go on by another configuration. When it fails, it goes on by the one that it has.
    fn reload(&mut self, config: &Self::Config) -> impl Future<Output = Result<(), String>> + Send;
    /// Lets it end as soon as it has nothing to do any more.
    fn retire(&mut self) -> impl Future<Output = ()> + Send;
    /// Whether it runs; a short look.
    fn runs(&mut self) -> bool;
    /// What it said last, when it has ended of itself.
    fn last_words(&self) -> impl Future<Output = String> + Send;
    /// How long a reload has to wait, which is asked when one is due.
    fn patience(&mut self) -> impl Future<Output = Duration> + Send;
}

/// What became of a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stepped {
    /// Nothing was to be done, or it is not time yet.
    Nothing,
    /// The program has begun, or begun anew, by what is wanted.
    Renewed,
    /// There is none any more.
    Retired,
}

/// Keeps a program running by what is wanted.
#[derive(Debug)]
pub struct Supervisor<C: Companion> {
    program: C,
    wanted: Option<C::Config>,
    /// What the program runs by; `None` = it does not run.
    running: Option<C::Config>,
    backoff: Backoff,
    not_before: Option<Instant>,
    trouble: Option<String>,
    /// What it runs by has changed outside of its configuration.
    stale: bool,
}

impl<C: Companion> Supervisor<C> {
    /// Takes a program over. `running` is what it was found running by.
    pub fn new(program: C, running: Option<C::Config>) -> Self {
        Self {
            program,
            wanted: None,
            running,
            backoff: Backoff::default(),
            not_before: None,
            trouble: None,
            stale: false,
        }
    }

    /// The program.
    pub const fn program(&mut self) -> &mut C {
        &mut self.program
    }

    /// Why it does not run, or not by what is wanted.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// True when it runs by what is wanted, or nothing is wanted and it does not run.
    pub fn settled(&self) -> bool {
        self.wanted == self.running && !self.stale
    }

    /// True when it runs.
    pub const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// What it runs by, as it is wanted now if that is the same.
    pub fn running(&self) -> Option<&C::Config> {
        if self.running == self.wanted { self.wanted.as_ref() } else { self.running.as_ref() }
    }

    /// Has it reloaded though it runs by what is wanted.
    pub const fn renew(&mut self) {
        self.stale = true;
    }

    /// Says what it should run by; `None` = it should not run.
    ///
    /// # Errors
    ///
    /// When the program refuses it. What was wanted before is wanted still.
    pub async fn want(&mut self, config: Option<C::Config>) -> Result<(), String> {
        if let Some(config) = &config
            && self.running.as_ref() != Some(config)
            && self.wanted.as_ref() != Some(config)
        {
            self.program.check(config).await?;
        }
        if self.wanted != config {
            // Something else than what failed may work.
            self.backoff = Backoff::default();
            self.not_before = None;
            self.trouble = None;
        }
        self.wanted = config;
        Ok(())
    }

    /// Does what is due.
    pub async fn step(&mut self) -> Stepped {
        if self.running.is_some() && !self.program.runs() {
            self.running = None;
            let words = self.program.last_words().await;
            tracing::error!("the companion program has ended: {words}");
            self.failed(words);
        }
        let due = self.not_before.is_none_or(|at| at <= Instant::now());
        let Some(wanted) = self.wanted.clone() else {
            if self.running.take().is_none() {
                return Stepped::Nothing;
            }
            self.program.retire().await;
            return Stepped::Retired;
        };
        if (self.running.as_ref() == Some(&wanted) && !self.stale) || !due {
            return Stepped::Nothing;
        }
        let done = if self.running.is_none() {
            self.program.start(&wanted).await
        } else {
            let patience = self.program.patience().await;
            if !patience.is_zero() {
                self.not_before = Some(Instant::now() + patience);
                return Stepped::Nothing;
            }
            self.program.reload(&wanted).await
        };
        match done {
            Ok(()) => {
                self.backoff.began();
                self.stale = false;
                (self.running, self.not_before, self.trouble) = (Some(wanted), None, None);
                Stepped::Renewed
            }
            Err(words) => {
                self.failed(words);
                Stepped::Nothing
            }
        }
    }

    fn failed(&mut self, words: String) {
        let pause = self.backoff.pause();
        self.not_before = Some(Instant::now() + pause);
        self.trouble = Some(words);
    }
}

#[cfg(test)]
mod tests;
