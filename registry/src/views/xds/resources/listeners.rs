//! Listener: what a client asks for first.
//!
//! Lives here: the listener of a gRPC channel, and that of an Envoy. Does not: routes (`routes`), listeners of gRPC servers (`servers`).
//! A gRPC channel has its routes inline, so that both change at once and one round trip is saved; the name is as it was asked for, port and suffix
//! included. It exists for every name that a service could have: whether there is one is said by its endpoints, and a service that is forgotten or
//! not known yet takes no listener away. An Envoy has one listener, for all services, with routes from RDS
//! and every filter that these may refer to: a changed listener would cut calls.

use std::net::SocketAddr;

use super::messages::{
    Any, HttpConnectionManager, HttpFilter, Listener, RouteConfiguration, RouteSpecifier, address, ads, any, hcm,
    listener, router,
};

/// The listener of a gRPC channel.
pub(super) fn for_channel(name: &str, routes: RouteConfiguration, filters: Vec<HttpFilter>) -> Listener {
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        http_filters: ending_with_router(filters),
        ..HttpConnectionManager::default()
    };
    Listener {
        name: name.to_owned(),
        api_listener: Some(listener::ApiListener { api_listener: Some(any(&manager)) }),
        ..Listener::default()
    }
}

/// The listener of an Envoy for the calls of the apps beside it.
pub(super) fn for_envoy(name: &str, at: SocketAddr, route_config_name: &str, filters: Vec<HttpFilter>) -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: "outbound".to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(hcm::Rds {
            config_source: ads(),
            route_config_name: route_config_name.to_owned(),
        })),
        http_filters: ending_with_router(filters),
        strip_port_mode: Some(hcm::http_connection_manager::StripPortMode::StripAnyHostPort(true)),
        stream_idle_timeout: super::messages::time(std::time::Duration::ZERO), // streams may be silent for hours
        ..HttpConnectionManager::default()
    };
    Listener {
        name: name.to_owned(),
        address: address(at),
        filter_chains: vec![chain(&any(&manager))],
        ..Listener::default()
    }
}

/// A filter chain that is nothing but HTTP.
pub(super) fn chain(manager: &Any) -> listener::FilterChain {
    let filter = listener::Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(manager.clone())),
    };
    listener::FilterChain { filters: vec![filter], ..listener::FilterChain::default() }
}

pub(super) fn ending_with_router(mut filters: Vec<HttpFilter>) -> Vec<HttpFilter> {
    filters.push(router());
    filters
}
