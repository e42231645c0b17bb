//! Route and upstream policies: what they mean, what is wrong with them and where, any of them for the way out and back.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*};
use weft_model::{
    CallMatch, FailurePercentage, Fault, HeaderMatch, HeaderValue, Outliers, Part, PathPattern, PolicyKind, RetryOn,
    RetryRule, Route, RouteRule, Rule, Split, SuccessRate, Target, Upstream,
};

use super::*;

const TOML: &str = r#"
[[policies]]
name = "users-canary"
service = "users"

[[policies.route.rules]]
name = "canary"
match = { methods = ["shop.users.v1.Users/*"], paths = ["/shop*"], headers = [{ name = "x-canary", exact = "yes" }] }
to = [{ service = "users", weight = 90 }, { service = "users-canary", weight = 10 }]
timeout = "2s"
retry = { on = ["unavailable"], retries = 2 }

[[policies.route.rules]]
fault = { delay = { time = "1s", percent = 0.5 }, abort = { status = 14, percent = 5 } }

[[policies]]
name = "users-upstream"
service = "users"
upstream = { max_requests = 100, outliers = { failure_percentage = { threshold = 50 } } }
"#;

const YAML: &str = r#"
name: users-canary
service: users
route:
  rules:
    - name: canary
      match: { methods: [shop.users.v1.Users/*], paths: [/shop*], headers: [{ name: x-canary, exact: yes }] }
      to: [{ service: users, weight: 90 }, { service: users-canary, weight: 10 }]
      timeout: 2s
      retry: { on: [unavailable], retries: 2, back_off: 25ms, max_back_off: 250ms }
    - fault: { delay: { time: 1000ms, percent: 0.5 }, abort: { status: unavailable, percent: 5 } }
---
name: users-upstream
service: users
upstream:
  max_requests: 100
  outliers: { failure_percentage: { threshold: 50 } }
"#;

#[test]
fn both_formats_say_the_same() {
    let read = |text, format| {
        let read = parse(text, format).unwrap_or_else(|e| panic!("{format:?}: {e}"));
        read.into_iter().map(|(_, it)| it.kind).collect::<Vec<_>>()
    };
    let kinds = read(YAML, Format::Yaml);
    assert_eq!(kinds, read(TOML, Format::Toml));
    let [PolicyKind::Route(route), PolicyKind::Upstream(upstream)] = kinds.as_slice() else { panic!("{kinds:?}") };
    let [canary, broken] = route.rules() else { panic!("{route:?}") };
    let paths: Vec<String> = canary.matches.patterns().map(|it| it.to_string()).collect();
    assert_eq!(paths, ["/shop.users.v1.Users/*", "/shop*"]);
    let shares: Vec<_> = canary.to.iter().flat_map(Split::targets).map(|it| (it.service.name(), it.weight)).collect();
    assert_eq!(shares, [("users", 90), ("users-canary", 10)]);
    assert_eq!(canary.timeout, Some(Duration::from_secs(2)));
    let retry = canary.retry.as_ref().unwrap();
    assert_eq!((retry.retries(), retry.back_off().as_millis(), retry.max_back_off().as_millis()), (2, 25, 250));
    assert_eq!(broken.name.as_str(), "rule-2");
    let fault = broken.fault.as_ref().unwrap();
    assert_eq!(fault.delay.map(|(time, part)| (time.as_secs(), part.millionths())), Some((1, 5_000)));
    assert_eq!(fault.abort.map(|(code, part)| (code, part.millionths())), Some((14, 50_000)));
    let outliers = upstream.outliers.as_ref().unwrap();
    assert_eq!((upstream.max_requests, outliers.interval.as_secs()), (Some(100), 10));
    assert_eq!(outliers.failure_percentage.map(|it| (it.threshold, it.min_hosts)), Some((50, 5)));
}

#[test]
fn what_is_wrong_is_told_with_line_field_and_cure() {
    let rule = |rule: &str| format!("name: a\nservice: b\nroute:\n  rules:\n    - {rule}\n");
    let upstream = |it: &str| format!("name: a\nservice: b\nupstream: {it}\n");
    for (text, expected) in [
        ("name: a\nservice: b\nroute: { rules: [] }\n".to_owned(), "line 3: route.rules: has no rule"),
        (rule("{}"), "line 5: route.rules[0]: does nothing; give to, timeout, retry or fault"),
        (rule("{ timeout: 2 }"), "line 5: route.rules[0].timeout: \"2\" is no time, like 250ms"),
        (rule("{ timeout: 0s }"), "line 5: route.rules[0].timeout: 0ns is outside 1 ms to 24 h"),
        (rule("{ timout: 2s }"), "line 5: route.rules[0].timout: unknown key; did you mean timeout?"),
        (
            rule("{ timeout: 2s, match: { paths: [users] } }"),
            "route.rules[0].match.paths[0]: \"users\" does not start with a slash",
        ),
        (
            rule("{ timeout: 2s, match: { headers: [{ name: X, exact: y }] } }"),
            "route.rules[0].match.headers[0].name: \"X\" is no name of a header in lower case",
        ),
        (
            rule("{ timeout: 2s, match: { headers: [{ name: x-bin, exact: y }] } }"),
            "route.rules[0].match.headers[0].name: \"x-bin\" is binary",
        ),
        (
            rule("{ timeout: 2s, match: { headers: [{ name: x }] } }"),
            "route.rules[0].match.headers[0]: says nothing of the value",
        ),
        (
            rule("{ timeout: 2s, match: { headers: [{ name: x, exact: a, prefix: b }] } }"),
            "route.rules[0].match.headers[0]: give only one of",
        ),
        (
            rule("to: [{ service: users }, { service: users.default }]"),
            "route.rules[0].to[1].service: users is there twice",
        ),
        (rule("to: [{ service: users, weight: 0 }]"), "route.rules[0].to: all weights are 0"),
        (rule("to: [{ service: users, weight: -1 }]"), "route.rules[0].to[0].weight: \"-1\" is no whole number"),
        (
            rule("retry: { on: [never] }"),
            "route.rules[0].retry.on[0]: \"never\" is no status to try again on; known: cancelled",
        ),
        (rule("retry: { retries: 2 }"), "route.rules[0].retry.on: names no status"),
        (rule("retry: { on: [internal], retries: 5 }"), "route.rules[0].retry.retries: 5 is outside 0 to 4"),
        (
            rule("retry: { on: [internal], back_off: 1s, max_back_off: 1ms }"),
            "route.rules[0].retry.max_back_off: 1ms is below back_off",
        ),
        (rule("fault: {}"), "route.rules[0].fault: does nothing; give delay or abort"),
        (rule("fault: { abort: { status: ok } }"), "route.rules[0].fault.abort.status: \"ok\" is no status"),
        (
            rule("fault: { abort: { status: 14, percent: 200 } }"),
            "route.rules[0].fault.abort.percent: \"200\" is no percent",
        ),
        (
            rule("{ name: x, timeout: 1s }\n    - { name: x, timeout: 1s }"),
            "line 6: route.rules[1].name: a second rule named \"x\"",
        ),
        (upstream("{}"), "line 3: upstream: says nothing; give max_requests or outliers"),
        (upstream("{ max_requests: 0 }"), "line 3: upstream.max_requests: 0 would refuse every call"),
        (upstream("{ outliers: {} }"), "upstream.outliers: has no rule; give success_rate or failure_percentage"),
        (
            upstream("{ outliers: { failure_percentage: { threshold: 101 } } }"),
            "upstream.outliers.failure_percentage.threshold: 101 is outside 1 to 100",
        ),
    ] {
        let error = parse(&text, Format::Yaml).expect_err(&text).to_string();
        assert!(error.contains(expected), "{text}\nsays     {error}\nexpected {expected}");
    }
}

fn time() -> impl Strategy<Value = Duration> {
    (1u64..86_400_000).prop_map(Duration::from_millis)
}

pub(super) fn any_route() -> impl Strategy<Value = Route> {
    let text = || "[ -~]{1,12}".prop_map(|it| it.as_str().into());
    let value = prop_oneof![
        text().prop_map(HeaderValue::Exact),
        text().prop_map(HeaderValue::Prefix),
        text().prop_map(HeaderValue::Suffix),
        any::<bool>().prop_map(HeaderValue::Present),
    ];
    let header = ("x-[a-z0-9-]{1,8}[a-z]", value)
        .prop_filter_map("no -bin", |(name, value)| HeaderMatch::new(&name, value).ok());
    let path = prop_oneof!["/[a-zA-Z./]{0,9}\\*?"].prop_map(|it| it.parse::<PathPattern>().unwrap());
    let method = "([a-z]{1,5}\\.){0,2}[A-Z][a-z]{1,5}/([A-Z][A-Za-z]{1,8}|\\*)".prop_map(|it| it.parse().unwrap());
    let matches = (vec(method, 0..3), vec(path, 0..3), vec(header, 0..3))
        .prop_map(|(methods, paths, headers)| CallMatch::new(methods, paths, headers).unwrap());
    let weights = vec(0u32..1_000_000, 1..4);
    let split = weights.prop_filter_map("something to share", |weights| {
        let target = |(index, weight)| Target { service: format!("s{index}").parse().unwrap(), weight };
        Split::new(weights.into_iter().enumerate().map(target).collect()).ok()
    });
    let statuses = proptest::sample::subsequence(RetryOn::ALL.to_vec(), 1..=5);
    let retry = (statuses, 0u32..=4, option::of(time()), option::of(time()))
        .prop_filter_map("in order", |(on, retries, first, longest)| {
            RetryRule::new(on.into_iter().collect(), retries, first, longest).ok()
        });
    let part = || (1u32..=1_000_000).prop_map(|it| Part::of_a_million(it).unwrap());
    let fault = (option::of((time(), part())), option::of((1u32..=16, part())))
        .prop_filter_map("does something", |(delay, abort)| Fault { delay, abort }.checked().ok());
    let rule = (matches, option::of(split), option::of(time()), option::of(retry), option::of(fault));
    vec(rule, 1..4).prop_filter_map("rules that do something", |rules| {
        let rule = |(index, (matches, to, timeout, retry, fault))| {
            RouteRule { name: Rule::name_of_place(index), matches, to, timeout, retry, fault }.checked()
        };
        Route::new(rules.into_iter().enumerate().map(rule).collect::<Result<_, _>>().ok()?).ok()
    })
}

pub(super) fn any_upstream() -> impl Strategy<Value = Upstream> {
    let some = || 1u32..1_000;
    let time = || (100u64..86_400_000).prop_map(Duration::from_millis);
    let success = (some(), some(), some()).prop_map(|(stdev_thousandths, min_hosts, min_calls)| SuccessRate {
        stdev_thousandths,
        min_hosts,
        min_calls,
    });
    let failures = (1u32..=100, some(), some()).prop_map(|(threshold, min_hosts, min_calls)| FailurePercentage {
        threshold,
        min_hosts,
        min_calls,
    });
    let outliers = (time(), time(), time(), 1u32..=100, option::of(success), option::of(failures));
    let outliers = outliers.prop_filter_map(
        "in order",
        |(interval, base_ejection, max_ejection, max_ejection_percent, success_rate, failure_percentage)| {
            let it = Outliers {
                interval,
                base_ejection,
                max_ejection,
                max_ejection_percent,
                success_rate,
                failure_percentage,
            };
            it.checked().ok()
        },
    );
    (option::of(some()), option::of(outliers)).prop_filter_map("says something", |(max_requests, outliers)| {
        Upstream { max_requests, outliers }.checked().ok()
    })
}
