//! The checks: one table that the command, its `--explain` and docs/checks.md all come from.
//!
//! Lives here: id, title, meaning and cure of each check. Does not: deciding an outcome (the groups).
//! An id is for ever: scripts and tickets name it. One that is not used any more is not given to something else.

use serde::Serialize;

/// What a check looks at; the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// What runs on this machine, and its ports.
    Machine,
    /// The control plane.
    Registry,
    /// Tokens, roots, certificates.
    Identity,
    /// The services' instances.
    Services,
    /// The way in.
    Gateway,
    /// A call, from the gateway to each app.
    Path,
}

impl Group {
    /// All, in the order of the report.
    pub const ALL: [Self; 6] =
        [Self::Machine, Self::Registry, Self::Identity, Self::Services, Self::Gateway, Self::Path];

    /// Its heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Machine => "this machine",
            Self::Registry => "registry",
            Self::Identity => "identity",
            Self::Services => "services",
            Self::Gateway => "gateway",
            Self::Path => "path",
        }
    }
}

/// One check.
#[derive(Debug, PartialEq, Eq)]
pub struct Id {
    /// `WEFT0107`.
    pub id: &'static str,
    /// Where it stands in the report.
    pub group: Group,
    /// What is so when all is well.
    pub title: &'static str,
    /// What it looks at and what a failure means for callers.
    pub means: &'static str,
    /// What to do, in one line.
    pub cure: &'static str,
}

macro_rules! table {
    ($($name:ident $id:literal $group:ident $title:literal means $means:literal cure $cure:literal)*) => {
        $(
            #[doc = concat!("`", $id, "`: ", $title, ".")]
            pub static $name: Id = Id { id: $id, group: Group::$group, title: $title, means: $means, cure: $cure };
        )*
        /// Every check, by id.
        pub static ALL: &[&Id] = &[$(&$name),*];
    };
}

table! {
    RUNS "WEFT0101" Machine "a mesh runs beside the file"
        means "`weft up` answers on its control socket beside the weft.toml. Without it nothing below can be looked at."
        cure "start it with `weft up`, or name another mesh with --registry and --gateway"
    PORTS "WEFT0107" Machine "ports belong to the mesh"
        means "The ports that the registry and the gateway listen on are free, or their own processes hold them, as `weft up` started them. One that another process holds, and be it of another mesh, keeps its role from starting, or answers callers in its place."
        cure "stop that process, or give the role another address"
    CLOCKS "WEFT0108" Machine "clocks agree"
        means "Every process that tells its time tells that of this machine, to 5 s. Certificates are valid from a minute before they are signed, so a clock that is more than a minute off refuses good ones and this is a failure; from 5 s on traces and logs are out of order, and this is a warning."
        cure "synchronise the clocks: run an NTP client (chrony, systemd-timesyncd) on every machine"
    VERSIONS "WEFT0109" Machine "one version of weft"
        means "Registry, gateway and sidecars are built from the version of this program. Neighbouring versions understand each other, so that an update can roll; a mesh that stays mixed is an update that was not finished."
        cure "finish the update: restart what is named with the version you want"
    GATEWAYS_FILE "WEFT0110" Machine "the gateway's file can be used"
        means "What the weft.toml names as `config` of the gateway can be read, and so can the certificates that it names. A gateway reads the settings when it starts, so that one that runs goes on with those of before; files of certificates it follows, and keeps what it had."
        cure "mend the file as the detail says, then `weft restart gateway`"
    REGISTRY "WEFT0201" Registry "answers"
        means "The registry answers a list of everything it knows. Without it calls go on as they did, by what gateway and sidecars knew last; no instance can join or leave."
        cure "start it, or look into its log for why it ended: `weft logs registry`"
    REGISTRY_READY "WEFT0202" Registry "is ready"
        means "The registry's /readyz says yes: its catalog is loaded and it takes work."
        cure "wait, or do as its /readyz says"
    REGISTRY_TLS "WEFT0203" Registry "speaks as it was addressed"
        means "The registry speaks TLS where its URL says https, and plaintext where it says http. Otherwise no process that follows the URL gets in."
        cure "write https:// and give a token with --token-file; or http:// if it was started with --insecure"
    STORE "WEFT0204" Registry "stores changes"
        means "The last change that the registry wanted to keep reached its store. Otherwise what is there goes on, but nothing can join or leave."
        cure "make room in its data directory and let it write there, then restart it"
    EXPIRY "WEFT0205" Registry "lets leases run out"
        means "So many instances fell silent at once that the registry doubts its network rather than them, and keeps them listed. Callers find out by themselves which of them answer."
        cure "find out what the silent instances have in common: a machine, a zone, a network"
    TOKEN "WEFT0301" Identity "the token can be read"
        means "The token file that was named, or that `weft up` wrote, is there and holds a token."
        cure "name it with --token-file; `weft token create` makes one"
    TOKEN_PRIVATE "WEFT0302" Identity "the token is private"
        means "Nobody but its owner may read the token file: whoever reads it can be whom it names. weft does not use one that others can read."
        cure "chmod 600 the file; if others may have read it, revoke the token with `weft token revoke` and make another"
    TOKEN_GOOD "WEFT0303" Identity "the token is good"
        means "The registry takes the token: it has not run out, was not revoked, and is as the registry signed it. Processes that already have a certificate go on; new ones cannot join."
        cure "make another with `weft token create`"
    ROOT "WEFT0304" Identity "the registry shows the pinned root"
        means "What answers at the registry's address proves to be the registry that the token was made by. If it does not, it is another mesh's, its authority was made anew, or somebody is in between; nothing joins it."
        cure "check the address; take a token of the registry that runs there"
    CERTIFICATES "WEFT0305" Identity "certificates are renewed in time"
        means "Neither the registry nor an instance shows a certificate with less than a quarter of its life left; each is renewed at half. One that runs out cuts its process off. The gateway's is not looked at: it shows that to instances only."
        cure "look into the log of the process for why it could not renew; most often the registry cannot be reached from there"
    INSTANCES "WEFT0401" Services "has an instance"
        means "A service that holds claims has at least one instance. Calls to one without get UNAVAILABLE, 503, also where its last instance was ended on purpose. The last one that crashed or hangs stays listed, and is a failure of WEFT0402, WEFT0403 or WEFT0406. A warning where the service holds none; skipped where `weft up` scaled it to 0."
        cure "start one (of `weft up`: `weft scale NAME=1`); if it has gone for good, `weft claims release` what `weft claims` lists of it, and `weft delete policies` its policies; one that holds neither is forgotten a day after it left"
    APP "WEFT0402" Services "the app answers its health check"
        means "The app behind the sidecar answers, and says that it serves. One that hangs, or says no, gets no calls."
        cure "look into its log (`weft logs SLOT`) and what it waits for; `weft restart SLOT` replaces it"
    CRASH "WEFT0403" Services "the app keeps running"
        means "The app has not ended. Its sidecar starts it again, ever more slowly, and gives up when it ends too often."
        cure "read its last words: `weft logs SLOT`"
    REVOKED "WEFT0404" Services "is listed"
        means "An operator removed the instance from the registry. Its process goes on and gets no calls; the registry takes its id back for a day."
        cure "`weft restart SLOT` starts another in its place, with an id of its own"
    JOINING "WEFT0405" Services "joins in time"
        means "A process that runs for a minute is registered. One that is not gets no calls."
        cure "look into the sidecar's log: `weft logs SLOT`"
    SIDECAR "WEFT0406" Services "the sidecar answers"
        means "The process beside the app answers at its admin address, or carries a probe. One that does not is stopped, overloaded, or cut off; the registry drops it when its lease runs out."
        cure "look at the process: is it stopped (state T), out of memory, behind a firewall? `weft restart SLOT` replaces it"
    DESCRIPTORS "WEFT0407" Services "its descriptors are known"
        means "The registry took the descriptors that the app shows by reflection. Without them the service has no REST, and no gRPC through the gateway; where older ones are known, their methods go on."
        cure "turn gRPC reflection on in the app, or give its sidecar --descriptor-set (`descriptor_set` in a weft.toml); protos that are refused: mend them as the detail says, and deploy again"
    CLAIMS "WEFT0408" Services "owns what it offers"
        means "Every gRPC name and REST template that the service declares is its own. One that another service claimed first is refused: calls to that name go to its owner. One that is refused to a service which a route policy of the owner sends calls on to, a canary, is as it should be."
        cure "rename one of them; or let an operator move the claim to the service that shall have it"
    POLICIES "WEFT0409" Services "policies name what is there, and count"
        means "The service that a policy belongs to has been registered, and the methods in its rules are declared by that service; a caller's name is not one letter beside that of a registered service; a service that calls are sent on to has been registered; a rule of REST is about a method of the service and takes no path that another service claims. A rule about what nobody has does nothing: one that allows keeps out whom it was to let in, one that denies lets pass what it was to refuse. Calls that are sent on to nobody fail, and a path that is another's stays so. A policy that another of its kind and service leaves no call to, since that one comes first by name, does nothing either; nor does one of the gateway that only sidecars enforce."
        cure "correct the name and `weft apply` the policy again, or `weft delete policies NAME`; if the service is yet to come, start it"
    GATEWAY "WEFT0501" Gateway "answers"
        means "The gateway answers gRPC on its port."
        cure "start it, or look into its log for why it ended: `weft logs gateway`"
    GATEWAY_READY "WEFT0502" Gateway "has its routes"
        means "The gateway has a route table and takes calls. Without one every call gets 503."
        cure "do as its /readyz says; most often it cannot reach the registry"
    ISSUERS "WEFT0503" Gateway "has the keys of issuers of tokens"
        means "The gateway could fetch the keys of every issuer that its `authentication` policies name. While it has none, every call that shows a token of that issuer gets 503, which is a failure; with those it had before calls go on, which is a warning."
        cure "make the URL that the detail names answer where the gateway runs, or correct it in the policy and `weft apply` that again"
    COUNTS "WEFT0504" Gateway "shares its rate limits"
        means "The Redis that the gateway's file names answers. Without it calls go on and each gateway counts for itself, so that several of them let through more than one."
        cure "start the Redis, or correct `redis` under [rate_limit] in the gateway's file and `weft restart gateway`"
    PROBE "WEFT0601" Path "a call reaches the app"
        means "A health check sent to the gateway for each instance went through the gateway, the connection to its sidecar and the sidecar to the app, and the app answered. It takes the way of any call, and changes nothing. A warning where an access policy of the service lets the gateway call nothing: every call from outside is refused. Where it may call some methods, the sidecar's refusal of the check proves the way that far."
        cure "look at the hop that the detail names: the gateway's log, the sidecar's log, the network between them; if a policy refuses the gateway and calls from outside are wanted, give it a rule `from: { services: [gateway] }`"
    GATEWAY_COUNTS "WEFT0602" Path "the gateway counts it"
        means "The probes show in the gateway's /metrics. If not, what you see in graphs is not what happens: the address may belong to another gateway."
        cure "compare --gateway and --gateway-admin: they must be of one process"
    SIDECAR_COUNTS "WEFT0603" Path "the sidecar counts it"
        means "The probe shows in the /metrics of the sidecar that it was sent to."
        cure "look at what listens at the admin address that the instance registered"
    TRACE "WEFT0604" Path "the trace goes on"
        means "The gateway names in its answer the trace that the probe began: it took it over, as every call's. What sidecars and apps make of it is not looked at."
        cure "look at what stands between you and the gateway: something removes or rewrites traceparent"
}

/// Returns a check by its id; upper or lower case.
pub fn find(id: &str) -> Option<&'static Id> {
    ALL.iter().find(|it| it.id.eq_ignore_ascii_case(id)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_by_group_and_nothing_is_left_unsaid() {
        assert!(ALL.is_sorted_by(|a, b| a.id < b.id && a.group <= b.group));
        for it in ALL {
            assert!(it.id.len() == 8 && it.id.starts_with("WEFT0"), "{}", it.id);
            assert!(!it.title.is_empty() && it.means.ends_with('.'), "{}", it.id);
            assert!(!it.cure.is_empty() && !it.cure.contains('\n') && !it.cure.ends_with('.'), "{}: one line", it.id);
        }
    }

    #[test]
    fn an_id_is_found_as_people_type_it() {
        assert_eq!(find("weft0107"), Some(&PORTS));
        assert_eq!(find("WEFT9999"), None);
    }
}
