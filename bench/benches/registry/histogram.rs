//! What the registry counts itself of how long something takes: a histogram out of its `/metrics`.
//!
//! Lives here: reading one, what came between two readings, in which bucket a quantile is. Does not: which histogram, and when (`main`).

use std::{fmt, net::SocketAddr};

use anyhow::ensure;
use http::Method;
use weft_testkit::http::send;

/// A histogram of seconds.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Upper bounds, the last of them infinite, and how many are not above each.
    buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Reads it as an admin port tells it.
    pub(crate) async fn read(admin: SocketAddr, name: &str) -> anyhow::Result<Self> {
        let page = send(admin, Method::GET, "/metrics", "").await?.body;
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?.split_once("\"} ")?;
            Some((bound.parse::<f64>().ok()?, count.parse::<u64>().ok()?))
        };
        let buckets: Vec<(f64, u64)> = page.lines().filter_map(bucket).collect();
        ensure!(!buckets.is_empty(), "the metrics at {admin} have no {name}");
        Ok(Self { buckets })
    }

    /// What has come since another reading.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let both = self.buckets.iter().zip(&before.buckets);
        Self { buckets: both.map(|((bound, now), (_, before))| (*bound, now.saturating_sub(*before))).collect() }
    }

    fn count(&self) -> u64 {
        self.buckets.last().map_or(0, |(_, count)| *count)
    }

    /// Upper bound, in ms, of the bucket in which the value is that so large a share is not above.
    fn bound(&self, share: f64) -> f64 {
        let rank = (self.count() as f64 * share).ceil() as u64;
        let bucket = self.buckets.iter().find(|(_, count)| *count >= rank);
        bucket.map_or(f64::INFINITY, |(bound, _)| bound * 1e3)
    }
}

/// `p50 ≤ 100 ms   p99 ≤ 250 ms   of 1234`; where no bucket says how much it is at most, `inf`.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count() {
            0 => f.write_str("nothing was seen"),
            count => write!(f, "p50 ≤ {:6.0} ms   p99 ≤ {:6.0} ms   of {count}", self.bound(0.5), self.bound(0.99)),
        }
    }
}
