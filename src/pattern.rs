//! Regular expressions that stand in the source code.

/// Compiles such a pattern.
///
/// # Panics
/// When the pattern is invalid: a fault of the source code, which the tests of its user meet first.
pub(crate) fn pattern(source: &str) -> regex::Regex {
    regex::Regex::new(source).expect("a pattern in the source code is valid")
}
