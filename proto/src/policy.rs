//! Conversions of policies between the wire and `weft-model`.
//!
//! Lives here: `TryFrom` into the model with the field path of what is wrong, `From` back, and the lenient reading of what a registry said.
//! Does not: status codes, documents as people write them (`weft-policy`).
//! Unknown values: refused by `TryFrom`, as the registry reads them; read as strictly as their kind allows by `stored_policies`, as everybody else reads them.

mod edge;
mod http;
mod route;

use std::{str::FromStr, sync::Arc};

use model::Invalid;
use weft_model as model;

use crate::weft::{discovery::v1 as discovery, policy::v1 as pb};

impl TryFrom<pb::Policy> for model::Policy {
    type Error = Invalid;

    fn try_from(it: pb::Policy) -> Result<Self, Invalid> {
        Ok(Self {
            name: it.name.parse().map_err(|e: Invalid| e.within("name"))?,
            service: it.service.parse().map_err(|e: Invalid| e.within("service"))?,
            version: model::Version(it.version),
            kind: match it.kind {
                Some(pb::policy::Kind::Access(it)) => {
                    model::PolicyKind::Access(it.try_into().map_err(|e: Invalid| e.within("access"))?)
                }
                Some(pb::policy::Kind::PlaintextUpstream(it)) => {
                    let mode = plaintext_upstream(&it).map_err(|e| e.within("plaintext_upstream"))?;
                    model::PolicyKind::PlaintextUpstream(mode)
                }
                Some(pb::policy::Kind::Route(it)) => {
                    model::PolicyKind::Route(it.try_into().map_err(|e: Invalid| e.within("route"))?)
                }
                Some(pb::policy::Kind::Upstream(it)) => {
                    model::PolicyKind::Upstream(it.try_into().map_err(|e: Invalid| e.within("upstream"))?)
                }
                Some(pb::policy::Kind::Cors(it)) => edge::cors(it).map_err(|e| e.within("cors"))?,
                Some(pb::policy::Kind::Authentication(it)) => {
                    edge::authentication(it).map_err(|e| e.within("authentication"))?
                }
                Some(pb::policy::Kind::RateLimit(it)) => edge::rate_limit(it).map_err(|e| e.within("rate_limit"))?,
                Some(pb::policy::Kind::ApiKey(it)) => edge::api_key(it).map_err(|e| e.within("api_key"))?,
                Some(pb::policy::Kind::Cache(it)) => edge::cache(it).map_err(|e| e.within("cache"))?,
                Some(pb::policy::Kind::Limits(it)) => edge::limits(it).map_err(|e| e.within("limits"))?,
                Some(pb::policy::Kind::Headers(it)) => edge::headers(it).map_err(|e| e.within("headers"))?,
                Some(pb::policy::Kind::Http(it)) => http::http(it).map_err(|e| e.within("http"))?,
                Some(pb::policy::Kind::Transcoding(it)) => {
                    edge::transcoding(it).map_err(|e| e.within("transcoding"))?
                }
                None => {
                    return Err(Invalid::new(
                        "kind",
                        "set one of access, plaintext_upstream, route, upstream, cors, authentication, rate_limit, api_key, cache, limits, headers, http, transcoding",
                    ));
                }
            },
        })
    }
}

impl TryFrom<pb::Access> for model::Access {
    type Error = Invalid;

    fn try_from(it: pb::Access) -> Result<Self, Invalid> {
        let rule = |(index, it)| rule(index, it).map_err(|e| e.within(&format!("rules[{index}]")));
        Self::new(it.rules.into_iter().enumerate().map(rule).collect::<Result<_, _>>()?)
    }
}

fn rule(index: usize, it: pb::Rule) -> Result<model::Rule, Invalid> {
    let (action, name) = (action(it.action)?, rule_name(index, &it.name)?);
    let from = it.from.ok_or_else(|| Invalid::new("from", "is required: whom is the rule about?"))?;
    let from = callers(&from).map_err(|e| e.within("from"))?;
    model::Rule::new(name, action, from, each("methods", &it.methods)?)
}

fn action(it: i32) -> Result<model::Action, Invalid> {
    match pb::rule::Action::try_from(it) {
        Ok(pb::rule::Action::Unspecified | pb::rule::Action::Allow) => Ok(model::Action::Allow),
        Ok(pb::rule::Action::Deny) => Ok(model::Action::Deny),
        Err(_) => Err(Invalid::new("action", format!("{it} is not known here"))),
    }
}

fn action_to_wire(it: model::Action) -> pb::rule::Action {
    match it {
        model::Action::Allow => pb::rule::Action::Allow,
        model::Action::Deny => pb::rule::Action::Deny,
    }
}

/// The name of a rule, or of its place if it has none.
fn rule_name(index: usize, name: &str) -> Result<model::PolicyName, Invalid> {
    match name {
        "" => Ok(model::Rule::name_of_place(index)),
        name => name.parse().map_err(|e: Invalid| e.within("name")),
    }
}

fn callers(it: &pb::Callers) -> Result<model::Callers, Invalid> {
    let callers = model::Callers {
        identities: each("identities", &it.identities)?,
        services: each("services", &it.services)?,
        namespaces: each("namespaces", &it.namespaces)?,
        anonymous: it.anonymous,
        authenticated: it.authenticated,
    };
    callers.checked()
}

fn each<T: FromStr<Err = Invalid>, C: FromIterator<T>>(field: &str, texts: &[String]) -> Result<C, Invalid> {
    let parse =
        |(index, text): (usize, &String)| text.parse().map_err(|e: Invalid| e.within(&format!("{field}[{index}]")));
    texts.iter().enumerate().map(parse).collect()
}

fn plaintext_upstream(it: &pb::PlaintextUpstream) -> Result<model::PlaintextUpstream, Invalid> {
    match pb::plaintext_upstream::Mode::try_from(it.mode) {
        Ok(pb::plaintext_upstream::Mode::Allow) => Ok(model::PlaintextUpstream::Allow),
        Ok(pb::plaintext_upstream::Mode::Refuse) => Ok(model::PlaintextUpstream::Refuse),
        Ok(pb::plaintext_upstream::Mode::Unspecified) => Err(Invalid::new("mode", "is required: allow or refuse")),
        Err(_) => Err(Invalid::new("mode", format!("{} is not known here", it.mode))),
    }
}

impl From<&model::Policy> for pb::Policy {
    fn from(it: &model::Policy) -> Self {
        let kind = match &it.kind {
            model::PolicyKind::Access(access) => {
                pb::policy::Kind::Access(pb::Access { rules: access.rules().iter().map(Into::into).collect() })
            }
            model::PolicyKind::PlaintextUpstream(mode) => {
                let mode = match mode {
                    model::PlaintextUpstream::Allow => pb::plaintext_upstream::Mode::Allow,
                    model::PlaintextUpstream::Refuse => pb::plaintext_upstream::Mode::Refuse,
                };
                pb::policy::Kind::PlaintextUpstream(pb::PlaintextUpstream { mode: mode.into() })
            }
            model::PolicyKind::Route(route) => pb::policy::Kind::Route(route.into()),
            model::PolicyKind::Upstream(upstream) => pb::policy::Kind::Upstream(upstream.into()),
            model::PolicyKind::Edge(it) => it.into(),
        };
        let service = it.service.full().to_owned();
        Self { name: it.name.to_string(), service, version: it.version.0, kind: Some(kind) }
    }
}

impl From<&model::Rule> for pb::Rule {
    fn from(it: &model::Rule) -> Self {
        let action = action_to_wire(it.action());
        let from = it.from();
        let from = pb::Callers {
            identities: from.identities.iter().map(ToString::to_string).collect(),
            services: from.services.iter().map(|it| it.full().to_owned()).collect(),
            namespaces: from.namespaces.iter().map(ToString::to_string).collect(),
            anonymous: from.anonymous,
            authenticated: from.authenticated,
        };
        let methods = it.methods().iter().map(ToString::to_string).collect();
        Self { name: it.name().to_string(), action: action.into(), from: Some(from), methods }
    }
}

/// Returns the policies of a service as a full update carries them.
pub fn service_policies(policies: &[Arc<model::Policy>]) -> discovery::ServicePolicies {
    discovery::ServicePolicies { policies: policies.iter().map(|it| it.as_ref().into()).collect() }
}

/// Reads what a registry said of the policies of `service`, and what of it cannot be read here: it may be of a later version.
///
/// A policy of a kind that is not known is left out. One of a known kind that cannot be read is replaced by the strictest of its kind, or left out
/// where a kind forbids nothing.
pub fn stored_policies(
    service: &model::ServiceName,
    said: discovery::ServicePolicies,
) -> (Vec<model::Policy>, Vec<Invalid>) {
    let mut problems = Vec::new();
    let mut read = |it: pb::Policy| {
        let strictest = match &it.kind {
            Some(pb::policy::Kind::Access(_)) => Some(model::PolicyKind::Access(model::Access::CLOSED)),
            Some(pb::policy::Kind::PlaintextUpstream(_)) => {
                Some(model::PolicyKind::PlaintextUpstream(model::PlaintextUpstream::Refuse))
            }
            Some(pb::policy::Kind::Route(_) | pb::policy::Kind::Upstream(_)) => None,
            Some(pb::policy::Kind::Cors(_)) => Some(model::PolicyKind::Edge(model::Edge::Cors(model::Cors::closed()))),
            Some(pb::policy::Kind::Authentication(_)) => {
                Some(model::PolicyKind::Edge(model::Edge::Authentication(model::Authentication::closed())))
            }
            Some(pb::policy::Kind::RateLimit(_)) => {
                Some(model::PolicyKind::Edge(model::Edge::RateLimit(model::RateLimit::closed())))
            }
            Some(pb::policy::Kind::ApiKey(_)) => None, // a key that cannot be read lets nobody in
            Some(pb::policy::Kind::Cache(_)) => {
                Some(model::PolicyKind::Edge(model::Edge::Cache(model::Cache::closed())))
            }
            Some(pb::policy::Kind::Headers(_) | pb::policy::Kind::Http(_) | pb::policy::Kind::Transcoding(_)) => None, // they forbid nothing
            Some(pb::policy::Kind::Limits(_)) => {
                Some(model::PolicyKind::Edge(model::Edge::Limits(model::Limits::closed())))
            }
            None => return None,
        };
        let (name, version) = (it.name.clone(), model::Version(it.version));
        match model::Policy::try_from(it) {
            Ok(policy) => Some(model::Policy { service: service.clone(), ..policy }),
            Err(problem) => {
                problems.push(problem.within(&format!("policy {name:?}")));
                let name = name.parse().unwrap_or_else(|_| "unreadable".parse().expect("a constant that is a name"));
                strictest.map(|kind| model::Policy { name, service: service.clone(), version, kind })
            }
        }
    };
    let policies = said.policies.into_iter().filter_map(&mut read).collect();
    (policies, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> pb::Policy {
        let rule = pb::Rule {
            name: "readers".into(),
            action: pb::rule::Action::Deny.into(),
            from: Some(pb::Callers {
                identities: vec!["spiffe://weft.local/ns/default/svc/posts".into()],
                services: vec!["comments.default".into()],
                namespaces: vec!["eu".into()],
                anonymous: true,
                authenticated: true,
            }),
            methods: vec!["shop.users.v1.Users/*".into(), "shop.users.v1.Users/GetUser".into()],
        };
        let kind = Some(pb::policy::Kind::Access(pb::Access { rules: vec![rule] }));
        pb::Policy { name: "users-callers".into(), service: "users.default".into(), version: 7, kind }
    }

    fn only_rule(it: &mut pb::Policy) -> &mut pb::Rule {
        match &mut it.kind {
            Some(pb::policy::Kind::Access(access)) => &mut access.rules[0],
            _ => panic!("an access policy"),
        }
    }

    #[test]
    fn a_policy_survives_the_way_through_the_model() {
        let model = model::Policy::try_from(policy()).unwrap();
        assert_eq!(pb::Policy::from(&model), policy());
        let mode = pb::PlaintextUpstream { mode: pb::plaintext_upstream::Mode::Allow.into() };
        let other = pb::Policy { kind: Some(pb::policy::Kind::PlaintextUpstream(mode)), ..policy() };
        assert_eq!(pb::Policy::from(&model::Policy::try_from(other.clone()).unwrap()), other);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let broken = |breaking: fn(&mut pb::Policy)| {
            let mut it = policy();
            breaking(&mut it);
            model::Policy::try_from(it).unwrap_err().field().to_owned()
        };
        assert_eq!(broken(|p| p.name = "Users".into()), "name");
        assert_eq!(broken(|p| p.service = "a.b.c".into()), "service");
        assert_eq!(broken(|p| p.kind = None), "kind");
        assert_eq!(broken(|p| only_rule(p).name = "default".into()), "access.rules[0].name");
        assert_eq!(broken(|p| only_rule(p).action = 9), "access.rules[0].action");
        assert_eq!(broken(|p| only_rule(p).from = None), "access.rules[0].from");
        assert_eq!(broken(|p| only_rule(p).from = Some(pb::Callers::default())), "access.rules[0].from");
        let identities = broken(|p| only_rule(p).from.as_mut().unwrap().identities = vec!["posts".into()]);
        assert_eq!(identities, "access.rules[0].from.identities[0]");
        assert_eq!(broken(|p| only_rule(p).methods[1] = "GetUser".into()), "access.rules[0].methods[1]");
        let mode = pb::policy::Kind::PlaintextUpstream(pb::PlaintextUpstream { mode: 0 });
        let unset = model::Policy::try_from(pb::Policy { kind: Some(mode), ..policy() }).unwrap_err();
        assert_eq!(unset.field(), "plaintext_upstream.mode");
    }

    #[test]
    fn what_a_later_registry_says_is_read_as_strictly_as_its_kind_allows() {
        let users = "users".parse().unwrap();
        let mut later = policy();
        only_rule(&mut later).action = 9;
        let mode = pb::policy::Kind::PlaintextUpstream(pb::PlaintextUpstream { mode: 9 });
        let later_mode = pb::Policy { name: "b".into(), kind: Some(mode), ..policy() };
        let later_kind = pb::Policy { name: "c".into(), kind: None, ..policy() };
        let said = discovery::ServicePolicies { policies: vec![later, later_mode, later_kind] };
        let (read, problems) = stored_policies(&users, said);
        let kinds: Vec<_> = read.iter().map(|p| (p.name.as_str(), &p.kind)).collect();
        let refuse = model::PolicyKind::PlaintextUpstream(model::PlaintextUpstream::Refuse);
        let closed = model::PolicyKind::Access(model::Access::CLOSED);
        assert_eq!(kinds, [("users-callers", &closed), ("b", &refuse)]);
        assert_eq!(problems.len(), 2);
    }
}
