//! Reads what `cargo test` prints: counts, and the names of what failed.
//!
//! Lives here: the only knowledge of libtest's lines. Does not: running it (`testing`). A pure fold over lines.
//! Assumption: lines arrive whole and uncoloured, one binary after the other, which is how cargo runs them.

/// What was counted so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed, skipping ones among them: a skipping test returns early and cargo cannot tell.
    pub(crate) passed: u64,
    /// Tests that failed, and test binaries that died before they could say how many did.
    pub(crate) failed: u64,
    /// Tests that cargo itself left out: `#[ignore]`, or a documentation example marked `ignore`.
    pub(crate) ignored: u64,
    /// `binary: test` of each that failed, in order.
    pub(crate) failures: Vec<String>,
    binary: String,
    /// The binary has begun its tests and not said their result.
    running: bool,
}

impl Tally {
    /// Folds one line in.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(binary) = binary(line) {
            self.close();
            self.binary = binary.to_owned();
        } else if begins(line) {
            self.running = true;
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.running = false;
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.ignored += count(counts, "ignored");
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(format!("{}: {name}", self.binary));
        }
    }

    /// Says that the current binary has nothing more to print.
    pub(crate) fn close(&mut self) {
        if std::mem::take(&mut self.running) {
            self.failed += 1;
            self.failures.push(format!("{}: died before its result", self.binary));
        }
    }

    /// Returns whether cargo ran any test at all.
    pub(crate) fn any(&self) -> bool {
        self.passed + self.failed > 0
    }
}

/// The crate of `     Running unittests src/lib.rs (target/debug/deps/weft_model-0af…)` or `   Doc-tests weft_model`.
fn binary(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(name);
    }
    let path = line.strip_prefix("Running ")?.strip_suffix(')')?.rsplit_once('(')?.1;
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    Some(file.rsplit_once('-').map_or(file, |(name, _)| name))
}

/// `running 3 tests`, `running 1 test`.
fn begins(line: &str) -> bool {
    line.strip_prefix("running ").is_some_and(|rest| rest.ends_with(" test") || rest.ends_with(" tests"))
}

/// The number before `word` in `ok. 5 passed; 0 failed; …`.
fn count(counts: &str, word: &str) -> u64 {
    let before = |part: &str| part.trim().strip_suffix(word)?.split_whitespace().last()?.parse().ok();
    counts.split(';').find_map(before).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.read(line));
        tally.close();
        tally
    }

    const RUN: &str = "
   Compiling weft-model v0.1.0 (/src/weft/crates/model)
     Running unittests src/lib.rs (target/debug/deps/weft_model-0af6bd6d0cb6d7c2)

running 3 tests
test id::tests::an_id_is_printed_as_it_was_read ... ok
test id::tests::a_bad_id_is_refused ... FAILED
test slow ... ignored, later

failures:
    id::tests::a_bad_id_is_refused

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: test failed, to rerun pass `-p weft-model --lib`
     Running tests/drain.rs (/t/debug/deps/drain-5e)
test an_acking_watcher_is_not_waited_for ... FAILED
test result: FAILED. 40 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1.20s
   Doc-tests weft
test crates/sdk/src/lib.rs - serve (line 12) ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.30s
";

    #[test]
    fn counts_are_summed_over_the_result_lines_and_failures_are_named_with_their_binary() {
        let read = tally(RUN);
        assert_eq!((read.passed, read.failed, read.ignored), (42, 2, 1));
        let failures = ["weft_model: id::tests::a_bad_id_is_refused", "drain: an_acking_watcher_is_not_waited_for"];
        assert_eq!(read.failures, failures);
        assert!(read.any());
    }

    #[test]
    fn a_binary_that_dies_counts_as_failed_and_is_named() {
        let next = "     Running tests/b.rs (t/debug/deps/b-1)\nrunning 1 test\ntest result: ok. 1 passed; 0 failed\n";
        let read = tally(&format!("   Running tests/a.rs (t/debug/deps/a-1)\nrunning 2 tests\ntest x ... ok\n{next}"));
        assert_eq!((read.passed, read.failed), (1, 1));
        assert_eq!(read.failures, ["a: died before its result"]);
        assert_eq!(tally("   Doc-tests a\nrunning 1 test\n").failures, ["a: died before its result"]);
    }

    #[test]
    fn a_run_whose_filter_met_nothing_ran_no_test() {
        let read =
            tally("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 31 filtered out; finished in 0.00s");
        assert!(!read.any());
        assert_eq!(read, Tally::default());
    }

    #[test]
    fn output_of_a_test_that_looks_almost_like_a_result_counts_nothing() {
        assert_eq!(tally("test result\nthe test result: ok. 9 passed\ntest x ... failed\n"), Tally::default());
    }
}
