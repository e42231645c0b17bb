//! Simulations: one thread, a paused clock, a seed that replays what it broke.
//!
//! Lives here: the list of them, and where seeds come from. `WEFT_SEED=N` replays one seed, `WEFT_SEEDS=N` tries so many
//! where a simulation is short.

mod watch;

/// How many seeds a simulation tries.
enum Seeds {
    /// One, however many are asked for: it is long.
    One,
    /// As many as asked for, or this many.
    Usually(u64),
}

/// Runs a simulation for each seed, beginning with today's; the first that fails says how to see it again.
fn each_seed(seeds: Seeds, simulate: impl Fn(u64) -> Result<(), String>) {
    let env = weft_runtime::Env::capture();
    let asked = |name: &str| {
        env.get(name).map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is no number")))
    };
    let today = weft_runtime::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (first, count) = match (asked("WEFT_SEED"), seeds) {
        (Some(seed), _) => (seed, 1),
        (None, Seeds::One) => (today, 1),
        (None, Seeds::Usually(count)) => (today, asked("WEFT_SEEDS").unwrap_or(count)),
    };
    for seed in first..first + count {
        println!("seed {seed}");
        if let Err(problem) = simulate(seed) {
            panic!("{problem}\nreplay with WEFT_SEED={seed}");
        }
    }
}
