//! What the operator wants of traces, from the environment variables that OpenTelemetry names.
//!
//! Lives here: `OTEL_TRACES_SAMPLER` and its argument, `OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER`, whether there is an endpoint, the resource.
//! Does not: the exporter's own (`OTEL_EXPORTER_OTLP_HEADERS`, `_TIMEOUT`, `_INSECURE`, `_COMPRESSION`): opentelemetry-otlp reads them.
//! A value that means nothing is told and left out, as the specification wants: telemetry does not stop a process that could serve.
//! Source: OpenTelemetry, "Environment Variable Specification"; differs: without a word the ratio is 0.01, since every proxy of the mesh is a
//! root for somebody (design, 5.9), and spans are exported only to an endpoint that was named.

use crate::Env;

/// How a process that begins traces decides, once for all hops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Share of new traces that are sampled, 0 to 1.
    pub ratio: f64,
    /// Whether the decision of a caller who began the trace is kept. If not, it is taken anew, by the ratio.
    pub parent_based: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { ratio: 0.01, parent_based: true }
    }
}

/// Everything traces are configured by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) sampling: Sampling,
    /// Whether spans go to a collector.
    pub(crate) endpoint: Option<String>,
    /// Whether nobody wants spans at all.
    pub(crate) disabled: bool,
    /// `service.name` first.
    pub(crate) resource: Vec<(String, String)>,
    /// What was left out, and what would be right.
    pub(crate) problems: Vec<String>,
}

impl Settings {
    /// `service` is the name where the environment has none.
    pub(crate) fn read(env: &Env, service: &str) -> Self {
        let mut problems = Vec::new();
        let disabled = env.get("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
        let sampling = sampling(env, disabled, &mut problems);
        Self {
            sampling,
            endpoint: if disabled { None } else { endpoint(env, &mut problems) },
            disabled,
            resource: resource(env, service, &mut problems),
            problems,
        }
    }
}

fn sampling(env: &Env, disabled: bool, problems: &mut Vec<String>) -> Sampling {
    if disabled {
        return Sampling { ratio: 0.0, parent_based: true };
    }
    let Some(name) = env.get("OTEL_TRACES_SAMPLER") else { return Sampling::default() };
    let (parent_based, base) = match name.strip_prefix("parentbased_") {
        Some(base) => (true, base),
        None => (false, name),
    };
    let ratio = match base {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => ratio(env, problems),
        _ => {
            problems.push(format!(
                "OTEL_TRACES_SAMPLER={name:?} is no sampler of ours: say always_on, always_off or traceidratio, alone or after \
                 parentbased_; going by parentbased_traceidratio with 0.01"
            ));
            return Sampling::default();
        }
    };
    Sampling { ratio, parent_based }
}

fn ratio(env: &Env, problems: &mut Vec<String>) -> f64 {
    let Some(text) = env.get("OTEL_TRACES_SAMPLER_ARG") else { return 1.0 };
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
        _ => {
            problems.push(format!("OTEL_TRACES_SAMPLER_ARG={text:?} is no number from 0 to 1; going by 1"));
            1.0
        }
    }
}

fn endpoint(env: &Env, problems: &mut Vec<String>) -> Option<String> {
    let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, env.get(name)?)));
    let (name, url) = first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])?;
    match env.get("OTEL_TRACES_EXPORTER") {
        None | Some("otlp") => {}
        Some("none") => return None,
        Some(other) => {
            problems.push(format!(
                "OTEL_TRACES_EXPORTER={other:?}: spans go out by otlp or not at all (none); exporting none"
            ));
            return None;
        }
    }
    if let Some((name, protocol)) = first(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"])
        && protocol != "grpc"
    {
        problems.push(format!(
            "{name}={protocol:?} is not spoken: say grpc, and name the collector's gRPC port (usually 4317); exporting no spans"
        ));
        return None;
    }
    if !url.starts_with("http://") {
        problems.push(format!(
            "{name}={url:?} is no URL like http://127.0.0.1:4317; for a collector behind TLS run an agent on this machine; exporting no spans"
        ));
        return None;
    }
    Some(url.to_owned())
}

fn resource(env: &Env, service: &str, problems: &mut Vec<String>) -> Vec<(String, String)> {
    let mut told: Vec<(String, String)> = Vec::new();
    for pair in
        env.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default().split(',').filter(|pair| !pair.trim().is_empty())
    {
        match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => told.push((key.trim().to_owned(), decoded(value.trim()))),
            _ => problems.push(format!("OTEL_RESOURCE_ATTRIBUTES: {pair:?} is not key=value; left out")),
        }
    }
    let named = told.iter().rposition(|(key, _)| key == "service.name").map(|at| told.remove(at).1);
    told.retain(|(key, _)| key != "service.name");
    let name = env.get("OTEL_SERVICE_NAME").map(str::to_owned).or(named).unwrap_or_else(|| service.to_owned());
    told.insert(0, ("service.name".to_owned(), name));
    if let Some(instance) = env.instance()
        && told.iter().all(|(key, _)| key != "service.instance.id")
    {
        told.push(("service.instance.id".to_owned(), instance.to_owned()));
    }
    told
}

/// Percent-decoded, as values of baggage are; what does not decode stays as it is.
fn decoded(value: &str) -> String {
    let mut out = Vec::with_capacity(value.len());
    let bytes = value.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| value.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Settings {
        Settings::read(&Env::from_pairs(pairs.iter().copied()), "gateway")
    }

    #[test]
    fn without_a_word_one_trace_in_a_hundred_is_sampled_and_none_exported() {
        let settings = read(&[]);
        assert_eq!((settings.sampling, settings.endpoint), (Sampling { ratio: 0.01, parent_based: true }, None));
        assert_eq!(settings.resource, [("service.name".to_owned(), "gateway".to_owned())]);
    }

    #[test]
    fn samplers_are_read_by_their_otel_names() {
        let sampling = |name, arg| {
            let it = read(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", arg)]).sampling;
            (it.ratio, it.parent_based)
        };
        assert_eq!(sampling("parentbased_always_on", ""), (1.0, true));
        assert_eq!(sampling("parentbased_always_off", ""), (0.0, true));
        assert_eq!(sampling("parentbased_traceidratio", "0.25"), (0.25, true));
        assert_eq!(sampling("always_on", ""), (1.0, false));
        assert_eq!(sampling("always_off", "1"), (0.0, false));
        assert_eq!(sampling("traceidratio", ""), (1.0, false));
    }

    #[test]
    fn what_means_nothing_is_told_with_its_cure_and_left_out() {
        for (pairs, told) in [
            (vec![("OTEL_TRACES_SAMPLER", "jaeger_remote")], "parentbased_"),
            (vec![("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")], "from 0 to 1"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4317")], "http://127.0.0.1:4317"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel:4317")], "agent"),
            (
                vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")],
                "4317",
            ),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:1"), ("OTEL_TRACES_EXPORTER", "zipkin")], "otlp"),
            (vec![("OTEL_RESOURCE_ATTRIBUTES", "a")], "key=value"),
        ] {
            let settings = read(&pairs);
            assert!(settings.problems.len() == 1 && settings.problems[0].contains(told), "{:?}", settings.problems);
            assert_eq!(settings.endpoint, None);
        }
    }

    #[test]
    fn the_endpoint_of_traces_comes_before_the_general_one() {
        let pairs =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:2")];
        assert_eq!(read(&pairs).endpoint.as_deref(), Some("http://b:2"));
        let none = [pairs[0], ("OTEL_TRACES_EXPORTER", "none")];
        assert_eq!(read(&none).endpoint, None);
    }

    #[test]
    fn a_disabled_sdk_samples_and_exports_nothing() {
        let settings = read(&[
            ("OTEL_SDK_DISABLED", "TRUE"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"),
        ]);
        assert_eq!((settings.disabled, settings.sampling.ratio, settings.endpoint), (true, 0.0, None));
    }

    #[test]
    fn the_name_of_the_service_is_the_variables_own_before_that_among_the_attributes() {
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=edge, deployment.environment.name=a%20b");
        let named = |pairs: &[_]| read(pairs).resource.into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        assert_eq!(named(&[attributes]), ["edge", "a b"]);
        assert_eq!(named(&[attributes, ("OTEL_SERVICE_NAME", "front")]), ["front", "a b"]);
        assert_eq!(named(&[("WEFT_INSTANCE", "7")]), ["gateway", "7"]);
    }
}
