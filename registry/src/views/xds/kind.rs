//! The four kinds of resources that we serve, in the order in which a change is told.
//!
//! Lives here: type URLs, order, which answers are complete. Does not: content (`resources`), subscriptions (`session`).
//! Source: xds_protocol.rst ("Eventual consistency considerations": make before break), contracts/discovery.md 6.3.

/// A kind of resource. The order is that of telling a change: a route comes after the cluster that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// `Cluster`, CDS.
    Cluster,
    /// `ClusterLoadAssignment`, EDS.
    Endpoint,
    /// `Listener`, LDS.
    Listener,
    /// `RouteConfiguration`, RDS.
    Route,
}

impl Kind {
    /// All, in the order of telling.
    pub(crate) const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// How many there are.
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// Its type URL on the wire.
    pub(crate) const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The kind that a type URL names. None: something that we do not serve.
    pub(crate) fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether an answer by state of the world carries everything subscribed, and deletes what it leaves out.
    pub(crate) const fn is_complete(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// Whether a client may ask for all there are.
    pub(crate) const fn has_wildcard(self) -> bool {
        self.is_complete()
    }

    /// For people and metrics: `lds`, `rds`, `cds`, `eds`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoint => "eds",
            Self::Listener => "lds",
            Self::Route => "rds",
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::{cluster::v3, endpoint, listener, route};
    use prost::Name;

    use super::*;

    #[test]
    fn type_urls_are_those_of_the_messages() {
        assert_eq!(Kind::Cluster.type_url(), v3::Cluster::type_url());
        assert_eq!(Kind::Endpoint.type_url(), endpoint::v3::ClusterLoadAssignment::type_url());
        assert_eq!(Kind::Listener.type_url(), listener::v3::Listener::type_url());
        assert_eq!(Kind::Route.type_url(), route::v3::RouteConfiguration::type_url());
        for kind in Kind::ALL {
            assert_eq!(Kind::of_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(Kind::of_type_url("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"), None);
    }
}
