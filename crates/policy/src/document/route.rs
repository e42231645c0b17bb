//! Route and upstream policies on their way out.
//!
//! Lives here: their shape, short where defaults say the same. Does not: other kinds (`document`).

use std::time::Duration;

use serde::Serialize;
use weft_model::{self as model, CallMatch, HeaderValue};

use crate::units;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Route {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Rule {
    name: String,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    matches: Option<Match>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    to: Vec<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<Retry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Match {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<Header>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct Header {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suffix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    present: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Target {
    service: String,
    weight: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Retry {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    on: Vec<&'static str>,
    retries: u32,
    back_off: String,
    max_back_off: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Fault {
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Delay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abort: Option<Abort>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Delay {
    time: String,
    percent: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Abort {
    status: &'static str,
    percent: String,
}

impl Route {
    pub(super) fn new(it: &model::Route) -> Self {
        Self { rules: it.rules().iter().map(Rule::new).collect() }
    }
}

impl Rule {
    fn new(it: &model::RouteRule) -> Self {
        let target = |it: &model::Target| Target { service: it.service.to_string(), weight: it.weight };
        Self {
            name: it.name.to_string(),
            matches: (it.matches != CallMatch::default()).then(|| Match::new(&it.matches)),
            to: it.to.iter().flat_map(model::Split::targets).map(target).collect(),
            timeout: it.timeout.map(units::time_text),
            retry: it.retry.as_ref().map(Retry::new),
            fault: it.fault.as_ref().map(Fault::new),
        }
    }
}

impl Match {
    fn new(it: &CallMatch) -> Self {
        Self {
            methods: it.methods().iter().map(ToString::to_string).collect(),
            paths: it.paths().iter().map(ToString::to_string).collect(),
            headers: it.headers().iter().map(Header::new).collect(),
        }
    }
}

impl Header {
    fn new(it: &model::HeaderMatch) -> Self {
        let named = Self { name: it.name().to_owned(), ..Self::default() };
        match it.value() {
            HeaderValue::Exact(text) => Self { exact: Some(text.to_string()), ..named },
            HeaderValue::Prefix(text) => Self { prefix: Some(text.to_string()), ..named },
            HeaderValue::Suffix(text) => Self { suffix: Some(text.to_string()), ..named },
            HeaderValue::Present(flag) => Self { present: Some(*flag), ..named },
        }
    }
}

impl Retry {
    fn new(it: &model::RetryRule) -> Self {
        Self {
            on: it.on().iter().map(|it| it.as_str()).collect(),
            retries: it.retries(),
            back_off: units::time_text(it.back_off()),
            max_back_off: units::time_text(it.max_back_off()),
        }
    }
}

impl Fault {
    fn new(it: &model::Fault) -> Self {
        let delay = |(time, part): (Duration, model::Part)| Delay {
            time: units::time_text(time),
            percent: units::percent_text(part),
        };
        let abort = |(status, part): (u32, model::Part)| Abort {
            status: units::status_text(status),
            percent: units::percent_text(part),
        };
        Self { delay: it.delay.map(delay), abort: it.abort.map(abort) }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Upstream {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_requests: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outliers: Option<Outliers>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Outliers {
    interval: String,
    base_ejection: String,
    max_ejection: String,
    max_ejection_percent: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    success_rate: Option<SuccessRate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_percentage: Option<FailurePercentage>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct SuccessRate {
    stdev_thousandths: u32,
    min_hosts: u32,
    min_calls: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct FailurePercentage {
    threshold: u32,
    min_hosts: u32,
    min_calls: u32,
}

impl Upstream {
    pub(super) fn new(it: &model::Upstream) -> Self {
        Self { max_requests: it.max_requests, outliers: it.outliers.as_ref().map(Outliers::new) }
    }
}

impl Outliers {
    fn new(it: &model::Outliers) -> Self {
        Self {
            interval: units::time_text(it.interval),
            base_ejection: units::time_text(it.base_ejection),
            max_ejection: units::time_text(it.max_ejection),
            max_ejection_percent: it.max_ejection_percent,
            success_rate: it.success_rate.map(|it| SuccessRate {
                stdev_thousandths: it.stdev_thousandths,
                min_hosts: it.min_hosts,
                min_calls: it.min_calls,
            }),
            failure_percentage: it.failure_percentage.map(|it| FailurePercentage {
                threshold: it.threshold,
                min_hosts: it.min_hosts,
                min_calls: it.min_calls,
            }),
        }
    }
}
