//! Conversions of edge policies.
//!
//! Lives here: into the model with the field path of what is wrong, `From` back. Does not: other kinds (`policy`, `policy::route`).

use std::time::Duration;

use model::Invalid;
use weft_model as model;

use super::each;
use crate::weft::policy::v1 as pb;

pub(super) fn cors(it: pb::Cors) -> Result<model::PolicyKind, Invalid> {
    let cors = model::Cors {
        methods: methods(&it.methods)?,
        origins: each("origins", &it.origins)?,
        http_methods: each("http_methods", &it.http_methods)?,
        headers: it.headers.into_iter().map(Into::into).collect(),
        expose: it.expose.into_iter().map(Into::into).collect(),
        credentials: it.credentials,
        max_age: time(it.max_age_ms).unwrap_or(model::Cors::DEFAULT_MAX_AGE),
    };
    Ok(model::PolicyKind::Edge(model::Edge::Cors(cors.checked()?)))
}

fn methods(texts: &[String]) -> Result<model::Methods, Invalid> {
    model::Methods::new(each("methods", texts)?)
}

/// 0 is none.
fn time(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

impl From<&model::Edge> for pb::policy::Kind {
    fn from(it: &model::Edge) -> Self {
        match it {
            model::Edge::Cors(it) => Self::Cors(pb::Cors {
                methods: texts(it.methods.patterns()),
                origins: texts(&it.origins),
                http_methods: it.http_methods.iter().map(|it| it.as_str().to_owned()).collect(),
                headers: texts(&it.headers),
                expose: texts(&it.expose),
                credentials: it.credentials,
                max_age_ms: millis(it.max_age),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(kind: pb::policy::Kind) -> pb::Policy {
        pb::Policy { name: "edge".into(), service: "gateway.default".into(), version: 7, kind: Some(kind) }
    }

    fn cors() -> pb::Cors {
        pb::Cors {
            methods: vec!["a.B/*".into()],
            origins: vec!["https://a.example".into(), "https://*.b.example".into()],
            http_methods: vec!["GET".into()],
            headers: vec!["x-tenant".into()],
            expose: vec!["etag".into()],
            credentials: true,
            max_age_ms: 60_000,
        }
    }

    #[test]
    fn edge_policies_survive_the_way_through_the_model() {
        for kind in [pb::policy::Kind::Cors(cors())] {
            let model = model::Policy::try_from(policy(kind.clone())).unwrap();
            assert_eq!(pb::Policy::from(&model), policy(kind));
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let broken = |breaking: fn(&mut pb::Cors)| {
            let mut it = cors();
            breaking(&mut it);
            model::Policy::try_from(policy(pb::policy::Kind::Cors(it))).unwrap_err().field().to_owned()
        };
        assert_eq!(broken(|it| it.origins[1] = "b.example".into()), "cors.origins[1]");
        assert_eq!(broken(|it| it.origins.clear()), "cors.origins");
        assert_eq!(broken(|it| it.origins.push("*".into())), "cors.origins");
        assert_eq!(broken(|it| it.http_methods[0] = "get".into()), "cors.http_methods[0]");
        assert_eq!(broken(|it| it.headers[0] = "X".into()), "cors.headers[0]");
        assert_eq!(broken(|it| it.methods[0] = "B".into()), "cors.methods[0]");
    }

    #[test]
    fn what_a_later_registry_says_lets_nobody_in() {
        let later = pb::Cors { origins: vec!["regex:.*".into()], ..cors() };
        let said =
            crate::weft::discovery::v1::ServicePolicies { policies: vec![policy(pb::policy::Kind::Cors(later))] };
        let (read, problems) = super::super::stored_policies(&"gateway".parse().unwrap(), said);
        assert_eq!(read[0].kind, model::PolicyKind::Edge(model::Edge::Cors(model::Cors::closed())));
        assert_eq!(problems.len(), 1);
    }
}
