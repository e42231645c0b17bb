//! Conversions of route and upstream policies.
//!
//! Lives here: `TryFrom` into the model with the field path of what is wrong, `From` back. Does not: other kinds (`policy`).

use std::time::Duration;

use model::Invalid;
use weft_model as model;

use super::each;
use crate::weft::policy::v1 as pb;

impl TryFrom<pb::Route> for model::Route {
    type Error = Invalid;

    fn try_from(it: pb::Route) -> Result<Self, Invalid> {
        let rule = |(index, it)| rule(index, it).map_err(|e| e.within(&format!("rules[{index}]")));
        Self::new(it.rules.into_iter().enumerate().map(rule).collect::<Result<_, _>>()?)
    }
}

fn rule(index: usize, it: pb::RouteRule) -> Result<model::RouteRule, Invalid> {
    let name = match it.name.as_str() {
        "" => model::Rule::name_of_place(index),
        name => name.parse().map_err(|e: Invalid| e.within("name"))?,
    };
    let to = (!it.to.is_empty()).then(|| split(&it.to));
    let rule = model::RouteRule {
        name,
        matches: call_match(&it.r#match.unwrap_or_default()).map_err(|e| e.within("match"))?,
        to: to.transpose()?,
        timeout: time(it.timeout_ms),
        retry: it.retry.map(|it| retry(&it).map_err(|e| e.within("retry"))).transpose()?,
        fault: it.fault.map(|it| fault(&it).map_err(|e| e.within("fault"))).transpose()?,
    };
    rule.checked()
}

/// 0 is none.
fn time(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}

fn split(targets: &[pb::route_rule::Target]) -> Result<model::Split, Invalid> {
    let target = |(index, it): (usize, &pb::route_rule::Target)| {
        let service = it.service.parse().map_err(|e: Invalid| e.within(&format!("to[{index}].service")))?;
        Ok(model::Target { service, weight: it.weight })
    };
    model::Split::new(targets.iter().enumerate().map(target).collect::<Result<_, _>>()?)
}

fn call_match(it: &pb::CallMatch) -> Result<model::CallMatch, Invalid> {
    let header = |(index, it)| header(it).map_err(|e| e.within(&format!("headers[{index}]")));
    let headers = it.headers.iter().enumerate().map(header).collect::<Result<_, _>>()?;
    model::CallMatch::new(each("methods", &it.methods)?, each("paths", &it.paths)?, headers)
}

fn header(it: &pb::HeaderMatch) -> Result<model::HeaderMatch, Invalid> {
    let value = match it.value.as_ref() {
        Some(pb::header_match::Value::Exact(text)) => model::HeaderValue::Exact(text.as_str().into()),
        Some(pb::header_match::Value::Prefix(text)) => model::HeaderValue::Prefix(text.as_str().into()),
        Some(pb::header_match::Value::Suffix(text)) => model::HeaderValue::Suffix(text.as_str().into()),
        Some(pb::header_match::Value::Present(flag)) => model::HeaderValue::Present(*flag),
        None => return Err(Invalid::new("value", "set one of exact, prefix, suffix, present")),
    };
    model::HeaderMatch::new(&it.name, value)
}

fn retry(it: &pb::RetryRule) -> Result<model::RetryRule, Invalid> {
    model::RetryRule::new(each("on", &it.on)?, it.retries, time(it.back_off_ms), time(it.max_back_off_ms))
}

fn fault(it: &pb::Fault) -> Result<model::Fault, Invalid> {
    let part = |field: &str, millionths| model::Part::of_a_million(millionths).map_err(|e| e.within(field));
    let delay = it.delay.map(|it| {
        Ok::<_, Invalid>((Duration::from_millis(it.time_ms.into()), part("delay.millionths", it.millionths)?))
    });
    let abort = it.abort.map(|it| Ok::<_, Invalid>((it.status, part("abort.millionths", it.millionths)?)));
    model::Fault { delay: delay.transpose()?, abort: abort.transpose()? }.checked()
}

impl TryFrom<pb::Upstream> for model::Upstream {
    type Error = Invalid;

    fn try_from(it: pb::Upstream) -> Result<Self, Invalid> {
        let outliers = it.outliers.map(|it| outliers(&it).map_err(|e| e.within("outliers"))).transpose()?;
        Self { max_requests: (it.max_requests > 0).then_some(it.max_requests), outliers }.checked()
    }
}

fn outliers(it: &pb::Outliers) -> Result<model::Outliers, Invalid> {
    let usual = model::Outliers::default();
    let or = |value: u32, usual: u32| if value == 0 { usual } else { value };
    let success_rate = it.success_rate.map(|it| {
        let usual = model::SuccessRate::default();
        model::SuccessRate {
            stdev_thousandths: or(it.stdev_thousandths, usual.stdev_thousandths),
            min_hosts: or(it.min_hosts, usual.min_hosts),
            min_calls: or(it.min_calls, usual.min_calls),
        }
    });
    let failure_percentage = it.failure_percentage.map(|it| {
        let usual = model::FailurePercentage::default();
        model::FailurePercentage {
            threshold: or(it.threshold, usual.threshold),
            min_hosts: or(it.min_hosts, usual.min_hosts),
            min_calls: or(it.min_calls, usual.min_calls),
        }
    });
    let outliers = model::Outliers {
        interval: time(it.interval_ms).unwrap_or(usual.interval),
        base_ejection: time(it.base_ejection_ms).unwrap_or(usual.base_ejection),
        max_ejection: time(it.max_ejection_ms).unwrap_or(usual.max_ejection),
        max_ejection_percent: or(it.max_ejection_percent, usual.max_ejection_percent),
        success_rate,
        failure_percentage,
    };
    outliers.checked()
}

impl From<&model::Route> for pb::Route {
    fn from(it: &model::Route) -> Self {
        Self { rules: it.rules().iter().map(Into::into).collect() }
    }
}

impl From<&model::RouteRule> for pb::RouteRule {
    fn from(it: &model::RouteRule) -> Self {
        let target =
            |it: &model::Target| pb::route_rule::Target { service: it.service.full().to_owned(), weight: it.weight };
        let matches = &it.matches;
        let any = *matches == model::CallMatch::default();
        Self {
            name: it.name.to_string(),
            r#match: (!any).then(|| pb::CallMatch {
                methods: matches.methods().iter().map(ToString::to_string).collect(),
                paths: matches.paths().iter().map(ToString::to_string).collect(),
                headers: matches.headers().iter().map(Into::into).collect(),
            }),
            to: it.to.iter().flat_map(model::Split::targets).map(target).collect(),
            timeout_ms: it.timeout.map_or(0, millis),
            retry: it.retry.as_ref().map(Into::into),
            fault: it.fault.as_ref().map(Into::into),
        }
    }
}

impl From<&model::HeaderMatch> for pb::HeaderMatch {
    fn from(it: &model::HeaderMatch) -> Self {
        use pb::header_match::Value;
        let value = match it.value() {
            model::HeaderValue::Exact(text) => Value::Exact(text.to_string()),
            model::HeaderValue::Prefix(text) => Value::Prefix(text.to_string()),
            model::HeaderValue::Suffix(text) => Value::Suffix(text.to_string()),
            model::HeaderValue::Present(flag) => Value::Present(*flag),
        };
        Self { name: it.name().to_owned(), value: Some(value) }
    }
}

impl From<&model::RetryRule> for pb::RetryRule {
    fn from(it: &model::RetryRule) -> Self {
        Self {
            on: it.on().iter().map(|it| it.as_str().to_owned()).collect(),
            retries: it.retries(),
            back_off_ms: millis(it.back_off()),
            max_back_off_ms: millis(it.max_back_off()),
        }
    }
}

impl From<&model::Fault> for pb::Fault {
    fn from(it: &model::Fault) -> Self {
        let delay = |(time, part): (Duration, model::Part)| pb::fault::Delay {
            time_ms: millis(time),
            millionths: part.millionths(),
        };
        let abort = |(status, part): (u32, model::Part)| pb::fault::Abort { status, millionths: part.millionths() };
        Self { delay: it.delay.map(delay), abort: it.abort.map(abort) }
    }
}

impl From<&model::Upstream> for pb::Upstream {
    fn from(it: &model::Upstream) -> Self {
        Self { max_requests: it.max_requests.unwrap_or(0), outliers: it.outliers.as_ref().map(Into::into) }
    }
}

impl From<&model::Outliers> for pb::Outliers {
    fn from(it: &model::Outliers) -> Self {
        Self {
            interval_ms: millis(it.interval),
            base_ejection_ms: millis(it.base_ejection),
            max_ejection_ms: millis(it.max_ejection),
            max_ejection_percent: it.max_ejection_percent,
            success_rate: it.success_rate.map(|it| pb::outliers::SuccessRate {
                stdev_thousandths: it.stdev_thousandths,
                min_hosts: it.min_hosts,
                min_calls: it.min_calls,
            }),
            failure_percentage: it.failure_percentage.map(|it| pb::outliers::FailurePercentage {
                threshold: it.threshold,
                min_hosts: it.min_hosts,
                min_calls: it.min_calls,
            }),
        }
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).expect("no time of a policy is above a day")
}
