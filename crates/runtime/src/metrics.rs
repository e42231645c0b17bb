//! Metrics: the process's one registry, filled by roles and layers, read by `/metrics`.
//!
//! Lives here: the registry and its two text forms. Does not: any metric of a role.
//! Locking: one mutex, taken at registration and at a scrape; counting itself goes through the metric handles and touches no lock of ours.
//! Source: OpenMetrics 1.0; Prometheus' exposition format 0.0.4, in which a counter's family has the name of its samples, and units,
//! exemplars and the end mark do not exist.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, header::ACCEPT};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

/// A form in which metrics are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0, for whoever accepts it; Prometheus does.
    OpenMetrics,
    /// Prometheus' own older text, for everybody else.
    Text,
}

impl Exposition {
    /// Returns the form that a reader accepts.
    pub fn accepted(headers: &HeaderMap) -> Self {
        let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        match accepts.flat_map(|value| value.split(',')).any(|it| it.trim().starts_with("application/openmetrics-text"))
        {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    /// The content type that names it.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A handle on the process's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// Registers `weft_build_info`, which says what the process is built from.
    pub(crate) fn tell_build(&self) {
        let build = Family::<[(&str, &str); 1], Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        self.register(|registry| registry.register("weft_build_info", "What the process is built from", build));
    }

    /// Lends the registry for registration. Metric names are whole: `weft_<role>_<noun>_<unit>`, or an OTel name.
    pub fn register<R>(&self, with: impl FnOnce(&mut Registry) -> R) -> R {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Registers what a role tells of its certificate. `read` is asked at each scrape: when it runs out, and how often renewing it has failed.
    pub fn certificate(&self, role: &'static str, read: impl Fn() -> (SystemTime, u64) + Send + Sync + 'static) {
        self.register(|registry| registry.register_collector(Box::new(Certificate { role, read: Box::new(read) })));
    }

    /// Returns everything registered as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut out, &registry).expect("writing to a String cannot fail");
        out
    }

    /// Returns everything registered in this form.
    pub fn encode_as(&self, form: Exposition) -> String {
        match form {
            Exposition::OpenMetrics => self.encode(),
            Exposition::Text => plain(&self.encode()),
        }
    }
}

struct Certificate {
    role: &'static str,
    read: Box<dyn Fn() -> (SystemTime, u64) + Send + Sync>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Collector for Certificate {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let ((expires, failed), role) = ((self.read)(), self.role);
        let seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let gauge = ConstGauge::new(i64::try_from(seconds).unwrap_or(i64::MAX));
        let (name, help) = (
            format!("weft_{role}_certificate_expires_seconds"),
            "When the certificate runs out, in seconds since 1970",
        );
        gauge.encode(encoder.encode_descriptor(&name, help, None, gauge.metric_type())?)?;
        let counter = ConstCounter::new(failed);
        let (name, help) =
            (format!("weft_{role}_certificate_renewal_failures"), "Times the certificate could not be renewed");
        counter.encode(encoder.encode_descriptor(&name, help, None, counter.metric_type())?)
    }
}

/// OpenMetrics as the older text.
fn plain(open: &str) -> String {
    let types = open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let counters: HashSet<&str> = types.filter(|(_, kind)| *kind == "counter").map(|(name, _)| name).collect();
    let mut out = String::with_capacity(open.len());
    for line in open.lines() {
        let about = |prefix: &str| line.strip_prefix(prefix)?.split_once(' ');
        let family = |name: &str| if counters.contains(name) { format!("{name}_total") } else { name.to_owned() };
        if let Some((name, help)) = about("# HELP ") {
            out += &format!("# HELP {} {help}\n", family(name));
        } else if let Some((name, kind)) = about("# TYPE ") {
            let kind = if kind == "unknown" { "untyped" } else { kind };
            out += &format!("# TYPE {} {kind}\n", family(name));
        } else if !line.starts_with('#') {
            out += line.rfind(" # {").map_or(line, |exemplar| &line[..exemplar]);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_reader_that_accepts_open_metrics_gets_it_and_any_other_the_older_text() {
        let accepted = |value: &'static str| {
            Exposition::accepted(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]))
        };
        assert_eq!(
            accepted("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"),
            Exposition::OpenMetrics
        );
        assert_eq!((accepted("*/*"), Exposition::accepted(&HeaderMap::new())), (Exposition::Text, Exposition::Text));
    }

    #[test]
    fn a_certificate_is_read_at_each_scrape() {
        let (metrics, failed) = (Metrics::default(), Arc::new(std::sync::atomic::AtomicU64::new(0)));
        let read = Arc::clone(&failed);
        let expires = UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
        metrics.certificate("gateway", move || (expires, read.load(std::sync::atomic::Ordering::Relaxed)));
        assert!(metrics.encode().contains("weft_gateway_certificate_expires_seconds 1800000000\n"));
        failed.store(3, std::sync::atomic::Ordering::Relaxed);
        assert!(metrics.encode().contains("weft_gateway_certificate_renewal_failures_total 3\n"));
    }

    #[test]
    fn the_older_text_names_a_counters_family_by_its_samples_and_has_no_units_exemplars_or_end() {
        let open = "# HELP a_b Some.\n# TYPE a_b counter\na_b_total{c=\"d # {\"} 1 # {trace_id=\"7\"} 0.3\n# HELP s_seconds Time.\n\
                    # TYPE s_seconds gauge\n# UNIT s_seconds seconds\ns_seconds 2\n# EOF\n";
        assert_eq!(
            plain(open),
            "# HELP a_b_total Some.\n# TYPE a_b_total counter\na_b_total{c=\"d # {\"} 1\n# HELP s_seconds Time.\n\
             # TYPE s_seconds gauge\ns_seconds 2\n"
        );
    }
}
