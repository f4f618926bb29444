//! What tests that need the kernel have in common.

#![forbid(unsafe_code)]

/// True when the test may go on. Without root it says loudly that the test is skipped, and returns false.
///
/// # Panics
///
/// Without root when `LB_REQUIRE_ROOT` is set: there, a skipped test would be a hole nobody sees.
#[must_use]
#[expect(clippy::print_stderr, reason = "a skipped test has to be seen by the person who runs it")]
pub fn require_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("LB_REQUIRE_ROOT").is_none(),
        "{test} needs root, and LB_REQUIRE_ROOT is set: run the tests as root"
    );
    eprintln!("\n==== SKIPPED (needs root): {test} ====\n");
    false
}
