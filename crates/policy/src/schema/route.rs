//! The schema of route and upstream policies.
//!
//! Lives here: keys and what their values may be. Does not: bounds (`weft-model`), other kinds (`schema`).

use std::time::Duration;

use weft_model::{
    CallMatch, FailurePercentage, Fault, HeaderMatch, HeaderValue, Invalid, Outliers, RetryRule, Route, RouteRule,
    Rule, Split, SuccessRate, Target, Upstream,
};

use super::{each, fields, find, flag, list, number, parsed, required, text, written};
use crate::{
    tree::{Entry, Node},
    units,
};

pub(super) fn route(node: &Node) -> Result<Route, Invalid> {
    let entries = fields(node, &["rules"])?;
    let rules = list(required(entries, "rules")?).map_err(|e| e.within("rules"))?;
    let read = |(index, node)| rule(index, node).map_err(|e| e.within(&format!("rules[{index}]")));
    Route::new(rules.iter().enumerate().map(read).collect::<Result<_, _>>()?)
}

fn rule(index: usize, node: &Node) -> Result<RouteRule, Invalid> {
    let entries = fields(node, &["name", "match", "to", "timeout", "retry", "fault"])?;
    let name = find(entries, "name").map_or_else(|| Ok(Rule::name_of_place(index)), |it| parsed("name", it))?;
    let rule = RouteRule {
        name,
        matches: within(entries, "match", matches)?.unwrap_or_default(),
        to: find(entries, "to").map(split).transpose()?,
        timeout: time(entries, "timeout")?,
        retry: within(entries, "retry", retry)?,
        fault: within(entries, "fault", fault)?,
    };
    rule.checked()
}

/// What a key leads to, if it is there.
pub(super) fn within<T>(
    entries: &[Entry],
    key: &str,
    read: impl Fn(&Node) -> Result<T, Invalid>,
) -> Result<Option<T>, Invalid> {
    find(entries, key).map(read).transpose().map_err(|e| e.within(key))
}

pub(super) fn time(entries: &[Entry], key: &str) -> Result<Option<Duration>, Invalid> {
    within(entries, key, |node| units::time(text(node)?))
}

pub(super) fn count(entries: &[Entry], key: &str) -> Result<Option<u32>, Invalid> {
    within(entries, key, number)
}

fn matches(node: &Node) -> Result<CallMatch, Invalid> {
    let entries = fields(node, &["methods", "paths", "headers"])?;
    let headers = match find(entries, "headers") {
        None => Vec::new(),
        Some(node) => {
            let items = list(node).map_err(|e| e.within("headers"))?;
            let read = |(index, item)| header(item).map_err(|e| e.within(&format!("headers[{index}]")));
            items.iter().enumerate().map(read).collect::<Result<_, _>>()?
        }
    };
    CallMatch::new(each(entries, "methods")?, each(entries, "paths")?, headers)
}

fn header(node: &Node) -> Result<HeaderMatch, Invalid> {
    let entries = fields(node, &["name", "exact", "prefix", "suffix", "present"])?;
    let words = |key: &str| within(entries, key, |node| written(node).map(str::to_owned));
    let values = [
        words("exact")?.map(|it| HeaderValue::Exact(it.into())),
        words("prefix")?.map(|it| HeaderValue::Prefix(it.into())),
        words("suffix")?.map(|it| HeaderValue::Suffix(it.into())),
        within(entries, "present", flag)?.map(HeaderValue::Present),
    ];
    let mut values = values.into_iter().flatten();
    match (values.next(), values.next()) {
        (Some(value), None) => {
            let name = text(required(entries, "name")?).map_err(|e| e.within("name"))?;
            HeaderMatch::new(name, value)
        }
        (None, _) => Err(Invalid::new("", "says nothing of the value: give one of exact, prefix, suffix, present")),
        (Some(_), Some(_)) => Err(Invalid::new("", "give only one of exact, prefix, suffix, present")),
    }
}

fn split(node: &Node) -> Result<Split, Invalid> {
    let read = |(index, item): (usize, &Node)| target(item).map_err(|e| e.within(&format!("to[{index}]")));
    Split::new(list(node).map_err(|e| e.within("to"))?.iter().enumerate().map(read).collect::<Result<_, _>>()?)
}

fn target(node: &Node) -> Result<Target, Invalid> {
    let entries = fields(node, &["service", "weight"])?;
    let weight = count(entries, "weight")?.unwrap_or(1);
    Ok(Target { service: parsed("service", required(entries, "service")?)?, weight })
}

fn retry(node: &Node) -> Result<RetryRule, Invalid> {
    let entries = fields(node, &["on", "retries", "back_off", "max_back_off"])?;
    let retries = count(entries, "retries")?.unwrap_or(RetryRule::DEFAULT_RETRIES);
    RetryRule::new(each(entries, "on")?, retries, time(entries, "back_off")?, time(entries, "max_back_off")?)
}

fn fault(node: &Node) -> Result<Fault, Invalid> {
    let entries = fields(node, &["delay", "abort"])?;
    let delay = |node: &Node| {
        let entries = fields(node, &["time", "percent"])?;
        let time = units::time(text(required(entries, "time")?)?).map_err(|e| e.within("time"))?;
        Ok((time, percent(entries)?))
    };
    let abort = |node: &Node| {
        let entries = fields(node, &["status", "percent"])?;
        let status = units::status(written(required(entries, "status")?)?).map_err(|e| e.within("status"))?;
        Ok((status, percent(entries)?))
    };
    Fault { delay: within(entries, "delay", delay)?, abort: within(entries, "abort", abort)? }.checked()
}

fn percent(entries: &[Entry]) -> Result<weft_model::Part, Invalid> {
    let all = || units::percent("100");
    within(entries, "percent", |node| units::percent(written(node)?))?.map_or_else(all, Ok)
}

pub(super) fn upstream(node: &Node) -> Result<Upstream, Invalid> {
    let entries = fields(node, &["max_requests", "outliers"])?;
    let max_requests = count(entries, "max_requests")?;
    Upstream { max_requests, outliers: within(entries, "outliers", outliers)? }.checked()
}

fn outliers(node: &Node) -> Result<Outliers, Invalid> {
    let known =
        ["interval", "base_ejection", "max_ejection", "max_ejection_percent", "success_rate", "failure_percentage"];
    let entries = fields(node, &known)?;
    let usual = Outliers::default();
    let outliers = Outliers {
        interval: time(entries, "interval")?.unwrap_or(usual.interval),
        base_ejection: time(entries, "base_ejection")?.unwrap_or(usual.base_ejection),
        max_ejection: time(entries, "max_ejection")?.unwrap_or(usual.max_ejection),
        max_ejection_percent: count(entries, "max_ejection_percent")?.unwrap_or(usual.max_ejection_percent),
        success_rate: within(entries, "success_rate", success_rate)?,
        failure_percentage: within(entries, "failure_percentage", failure_percentage)?,
    };
    outliers.checked()
}

fn success_rate(node: &Node) -> Result<SuccessRate, Invalid> {
    let entries = fields(node, &["stdev_thousandths", "min_hosts", "min_calls"])?;
    let usual = SuccessRate::default();
    Ok(SuccessRate {
        stdev_thousandths: count(entries, "stdev_thousandths")?.unwrap_or(usual.stdev_thousandths),
        min_hosts: count(entries, "min_hosts")?.unwrap_or(usual.min_hosts),
        min_calls: count(entries, "min_calls")?.unwrap_or(usual.min_calls),
    })
}

fn failure_percentage(node: &Node) -> Result<FailurePercentage, Invalid> {
    let entries = fields(node, &["threshold", "min_hosts", "min_calls"])?;
    let usual = FailurePercentage::default();
    Ok(FailurePercentage {
        threshold: count(entries, "threshold")?.unwrap_or(usual.threshold),
        min_hosts: count(entries, "min_hosts")?.unwrap_or(usual.min_hosts),
        min_calls: count(entries, "min_calls")?.unwrap_or(usual.min_calls),
    })
}
