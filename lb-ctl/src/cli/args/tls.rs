//! Arguments of the verbs about certificates.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{DryRun, Form};

/// `lbctl tls`.
#[derive(Debug, Subcommand)]
pub enum TlsVerb {
    /// Certificates with their keys: list, show, add, replace, delete, check
    #[command(subcommand, arg_required_else_help = true)]
    Cert(CertVerb),
    /// Authorities, in families: list, show, add, delete
    #[command(subcommand, arg_required_else_help = true)]
    Ca(CaVerb),
    /// Look at what clients of a VIP meet: dates, usage, chain, names; exit code 3 when something does not work
    Check(TlsCheckArgs),
}

/// `lbctl tls cert`.
#[derive(Debug, Subcommand)]
pub enum CertVerb {
    /// List the certificates: what they are for, how long they last, what uses them
    List {
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// Show a certificate with its chain
    Show {
        /// Its name
        name: String,
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// Add a certificate with its key, at once and in the configuration file
    Add(CertAddArgs),
    /// Delete a certificate that nothing uses, with its file
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        /// `--dry-run`.
        dry_run: DryRun,
    },
    /// Look at a certificate: dates, usage, chain; exit code 3 when something does not work
    Check {
        /// Its name
        name: String,
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
}

/// `lbctl tls cert add`.
#[derive(Args, Debug)]
pub struct CertAddArgs {
    /// Name that VIPs call it by
    pub name: String,
    /// PFX file, or PEM files with the certificate, its chain and its key, in any order
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// File whose first line is the password of a PFX file; without it, the password is asked for
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Put it in the place of the one of this name
    #[arg(long)]
    pub replace: bool,
    #[command(flatten)]
    /// `--dry-run`.
    pub dry_run: DryRun,
}

/// `lbctl tls ca`.
#[derive(Debug, Subcommand)]
pub enum CaVerb {
    /// List the families and their members
    List {
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// Show the members of a family
    Show {
        /// Its name
        family: String,
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// Add an authority to a family; the first one makes the family
    Add {
        /// Family
        family: String,
        /// Label of the new member
        name: String,
        /// File with its certificate, in PEM or DER
        file: PathBuf,
        /// Put it in the place of the one of this label
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        /// `--dry-run`.
        dry_run: DryRun,
    },
    /// Delete an authority of a family, or a family that nothing uses
    Delete {
        /// Family
        family: String,
        /// Label of a member; without it, the whole family goes
        name: Option<String>,
        #[command(flatten)]
        /// `--dry-run`.
        dry_run: DryRun,
    },
}

/// `lbctl tls check`.
#[derive(Args, Debug)]
pub struct TlsCheckArgs {
    /// VIP's name
    pub vip: String,
    /// Name or address that clients are configured with
    #[arg(long, value_name = "HOST")]
    pub name: Option<String>,
    /// Form of the output
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    pub output: Form,
}
