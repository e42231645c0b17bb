//! Header rules: what of the headers of a request a service is told, and what of an answer's metadata a caller is told.
//!
//! Lives here: one policy compiled, changing heads. Does not: what crosses without a policy (`protocol::rest::metadata`).
//! A name means the header of that name and, as clients of REST have it, the one with `grpc-metadata-` before it: whoever removes one removes both.

use http::{HeaderMap, HeaderName, HeaderValue};
use weft_model::{HeaderChange, HeaderRule, Headers as Policy};

use crate::edge::names;

/// One policy, ready to change heads.
#[derive(Debug)]
pub(crate) struct Headers {
    request: Box<[Rule]>,
    response: Box<[Rule]>,
}

#[derive(Debug)]
struct Rule {
    name: HeaderName,
    alias: HeaderName,
    change: Change,
}

#[derive(Debug)]
enum Change {
    Remove,
    Rename { to: HeaderName, alias: HeaderName },
    Set(HeaderValue),
    Append(HeaderValue),
}

impl Headers {
    pub(crate) fn new(it: &Policy) -> Self {
        let rules = |rules: &[HeaderRule]| rules.iter().map(Rule::new).collect();
        Self { request: rules(&it.request), response: rules(&it.response) }
    }

    /// Changes the head of a request on its way to the service.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) {
        self.request.iter().for_each(|rule| rule.apply(headers));
    }

    /// Changes the head of an answer on its way to the caller.
    pub(crate) fn answer(&self, headers: &mut HeaderMap) {
        self.response.iter().for_each(|rule| rule.apply(headers));
    }
}

impl Rule {
    fn new(it: &HeaderRule) -> Self {
        let name = |text: &str| HeaderName::try_from(text).expect("the policy was checked: it names headers");
        let alias = |text: &str| names::prefixed(text).expect("the policy was checked: it names headers");
        let value = |text: &str| HeaderValue::try_from(text).expect("the policy was checked: values are ASCII");
        let change = match it.change() {
            HeaderChange::Remove => Change::Remove,
            HeaderChange::Rename(to) => Change::Rename { to: name(to), alias: alias(to) },
            HeaderChange::Set(text) => Change::Set(value(text)),
            HeaderChange::Append(text) => Change::Append(value(text)),
        };
        Self { name: name(it.name()), alias: alias(it.name()), change }
    }

    fn apply(&self, headers: &mut HeaderMap) {
        match &self.change {
            Change::Remove => drop(self.take(headers)),
            Change::Set(value) => {
                self.take(headers);
                headers.insert(self.name.clone(), value.clone());
            }
            Change::Append(value) => drop(headers.append(self.name.clone(), value.clone())),
            Change::Rename { to, alias } => {
                let values = self.take(headers);
                if !values.is_empty() {
                    headers.remove(to);
                    headers.remove(alias);
                }
                for value in values {
                    headers.append(to.clone(), value);
                }
            }
        }
    }

    /// Takes out all values, by either name.
    fn take(&self, headers: &mut HeaderMap) -> Vec<HeaderValue> {
        let mut values = Vec::new();
        for name in [&self.name, &self.alias] {
            values.extend(headers.get_all(name).iter().cloned());
            headers.remove(name);
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(rules: &[(&str, HeaderChange)], headers: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let request = rules.iter().map(|(name, change)| HeaderRule::new(name, change.clone()).unwrap()).collect();
        let mut head: HeaderMap = HeaderMap::new();
        for (name, value) in headers {
            head.append(*name, HeaderValue::from_static(value));
        }
        Headers::new(&Policy { request, ..Policy::default() }).ask(&mut head);
        let text = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().unwrap().to_owned());
        let mut left: Vec<_> = head.iter().map(text).collect();
        left.sort();
        left
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn rules_are_done_in_order_and_mean_metadata_too() {
        let rename = |to: &str| HeaderChange::Rename(to.into());
        let both = [("x-a", "1"), ("grpc-metadata-x-a", "2"), ("x-b", "3"), ("x-b", "4")];
        assert_eq!(changed(&[("x-a", HeaderChange::Remove)], &both), pairs(&[("x-b", "3"), ("x-b", "4")]));
        assert_eq!(changed(&[("x-a", rename("x-b"))], &both), pairs(&[("x-b", "1"), ("x-b", "2")]));
        assert_eq!(changed(&[("x-c", rename("x-b"))], &[("x-b", "3")]), pairs(&[("x-b", "3")]), "nothing to rename");
        assert_eq!(changed(&[("x-a", HeaderChange::Set("9".into()))], &both[..2]), pairs(&[("x-a", "9")]));
        assert_eq!(
            changed(&[("x-a", HeaderChange::Append("9".into()))], &both[..1]),
            pairs(&[("x-a", "1"), ("x-a", "9")])
        );
        let swap = [("x-a", rename("x-c")), ("x-b", rename("x-a"))];
        assert_eq!(changed(&swap, &[("x-a", "1"), ("x-b", "2")]), pairs(&[("x-a", "2"), ("x-c", "1")]));
    }
}
