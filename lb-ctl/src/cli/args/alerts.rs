//! Arguments of the verbs about alerts.

use clap::Subcommand;

use super::Form;

/// `lbctl alert`.
#[derive(Debug, Subcommand)]
pub enum AlertVerb {
    /// Send a test message by every way now; exit code 2 when one fails
    Test {
        /// Form of the output
        #[arg(short, long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
}
