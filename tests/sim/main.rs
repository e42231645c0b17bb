//! Simulations: one thread, a paused clock, a seed that replays what it broke.
//!
//! Lives here: the list of them, and where seeds come from. `WEFT_SEED=N` replays one seed, `WEFT_SEEDS=N` tries so many.

mod watch;

/// Seeds to try: the one asked for, or as many as asked for beginning with today's.
fn seeds(usually: u64) -> Vec<u64> {
    let env = weft_runtime::Env::capture();
    let number =
        |name: &str| env.get(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")));
    if let Some(seed) = number("WEFT_SEED") {
        return vec![seed];
    }
    let first = weft_runtime::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    (first..first + number("WEFT_SEEDS").unwrap_or(usually)).collect()
}

/// Runs a simulation for each seed; the first that fails says how to see it again.
fn each_seed(usually: u64, simulate: impl Fn(u64) -> Result<(), String>) {
    for seed in seeds(usually) {
        println!("seed {seed}");
        if let Err(problem) = simulate(seed) {
            panic!("{problem}\nreplay with WEFT_SEED={seed}");
        }
    }
}
