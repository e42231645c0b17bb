//! The program `weft`: every role and every command of the mesh.
//!
//! Lives here: the table of commands and which function each goes to. Does not: logic that a room could own.
//! Exit codes: 0 done; 1 failed; 2 used wrongly, or a configuration that cannot be.
#![forbid(unsafe_code)]

mod access;
mod bootstrap;
mod change;
mod check;
mod claims;
mod clients;
mod inject;
mod keys;
mod look;
mod output;
mod policies;
mod roles;
mod tool;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

/// A call costs some fifty allocations of a few hundred bytes on one thread, which glibc's allocator makes a tenth of its price.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A gRPC service mesh: registry, gateway and sidecars in one program.
#[derive(Debug, Parser)]
#[command(name = "weft", version, disable_help_subcommand = true, help_template = HELP, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
{about}

{usage-heading} {usage}

run
  up        The whole mesh of a weft.toml: builds, starts, supervises, shows where everything is
  registry  Knows the live instances and tells whoever watches
  gateway   Turns REST into gRPC and balances calls over the live instances
  sidecar   Stands beside one instance: registers it, supervises it, carries its calls

look
  ps        What runs, where, and how it is
  logs      What the processes write
  clients   Who is told by the registry, what they act on, what they rejected and why
  check     Whether the mesh is well, down to the path of a call, and what to do if not
  probe     Asks a process once whether it takes calls; the exit code says it

change
  scale     Sets the number of instances of a service
  restart   Replaces the instances of a service one by one, so that no call is lost
  stop      Stops a service, or the whole mesh
  drain     Lets a process of this machine leave the mesh; returns when callers have heard of it
  claims    Which gRPC name and REST template belongs to which service; gives one to another
  apply     Makes or changes policies as files say: who may call whom
  get       Shows policies, also in the form that apply reads
  delete    Removes policies

access
  token     Who may join the mesh: makes, lists and revokes tokens
  keys      Who may call from outside: makes, lists and revokes API keys
  identity  Who is in it: shows whom it trusts, writes certificates for others, takes them back
  bootstrap Makes the file by which a stock gRPC client or an Envoy finds the mesh (xDS)
  inject    Adds the sidecar to the pods of Kubernetes manifests

{options}

Start with `weft up` beside a weft.toml; then `weft ps` in the same directory. `weft <command> --help` shows examples.
";

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole mesh of a weft.toml: builds, starts, supervises, shows where everything is
    #[command(after_help = UP)]
    Up(weft_up::Args),
    /// Knows the live instances and tells whoever watches
    #[command(after_help = REGISTRY)]
    Registry(weft_registry::Args),
    /// Turns REST into gRPC and balances calls over the live instances
    #[command(after_help = GATEWAY)]
    Gateway(weft_gateway::Args),
    /// Stands beside one instance: registers it, supervises it, carries its calls
    #[command(after_help = SIDECAR)]
    Sidecar(weft_sidecar::Args),
    /// What runs, where, and how it is
    #[command(after_help = PS)]
    Ps(look::PsArgs),
    /// What the processes write
    #[command(after_help = LOGS)]
    Logs(look::LogsArgs),
    /// Who is told by the registry, what they act on, what they rejected and why
    #[command(after_help = CLIENTS)]
    Clients(clients::ClientsArgs),
    /// Whether the mesh is well, down to the path of a call, and what to do if not
    #[command(after_help = CHECK)]
    Check(check::CheckArgs),
    /// Asks a process once whether it takes calls; the exit code says it
    #[command(after_help = PROBE)]
    Probe(look::ProbeArgs),
    /// Sets the number of instances of a service
    #[command(after_help = SCALE)]
    Scale(change::ScaleArgs),
    /// Replaces the instances of a service one by one, so that no call is lost
    #[command(after_help = RESTART)]
    Restart(change::RestartArgs),
    /// Stops a service, or the whole mesh
    #[command(after_help = STOP)]
    Stop(change::StopArgs),
    /// Lets a process of this machine leave the mesh; returns when callers have heard of it
    #[command(after_help = DRAIN)]
    Drain(look::DrainArgs),
    /// Which gRPC name and REST template belongs to which service; gives one to another
    #[command(after_help = CLAIMS)]
    Claims(claims::ClaimsArgs),
    /// Adds the sidecar to the pods of Kubernetes manifests
    #[command(after_help = INJECT)]
    Inject(inject::InjectArgs),
    /// Makes or changes policies as files say: who may call whom
    #[command(after_help = APPLY)]
    Apply(policies::ApplyArgs),
    /// Shows policies, also in the form that apply reads
    #[command(after_help = GET)]
    Get(policies::GetArgs),
    /// Removes policies
    #[command(after_help = DELETE)]
    Delete(policies::DeleteArgs),
    /// Who may join the mesh: makes, lists and revokes tokens
    #[command(after_help = TOKEN)]
    Token(access::TokenArgs),
    /// Who may call from outside: makes, lists and revokes API keys
    #[command(after_help = KEYS)]
    Keys(keys::KeysArgs),
    /// Who is in it: shows whom it trusts, writes certificates for others, takes them back
    #[command(after_help = IDENTITY)]
    Identity(access::IdentityArgs),
    /// Makes the file by which a stock gRPC client or an Envoy finds the mesh (xDS)
    #[command(after_help = BOOTSTRAP)]
    Bootstrap(bootstrap::BootstrapArgs),
}

const UP: &str = "\
Examples:
  weft up                    the weft.toml of this directory or above
  weft up -f demo/weft.toml

A weft.toml:
  [gateway]                  # listen = \"127.0.0.1:8080\"
  [services.users]
  package = \"weft-users\"     # built by cargo; or  command = [\"python3\", \"app.py\"]
  scale = 2
  needs = []                 # services that must serve first
  data = \"shared\"            # one directory for all instances";
const REGISTRY: &str = "\
Examples:
  weft registry --data /var/lib/weft
  weft registry --data /var/lib/weft --listen :7100 --advertise https://registry.example:7100
  curl http://127.0.0.1:7180/readyz";
const GATEWAY: &str = "\
Examples:
  weft gateway --token-file gateway.token
  weft gateway --descriptor-set users.binpb --upstream 127.0.0.1:50051      without a registry";
const SIDECAR: &str = "\
Examples:
  weft sidecar --service users --token-file users.token --app 127.0.0.1:0 -- ./users
  weft sidecar --service users --app 127.0.0.1:50051 --services services.toml        without a registry";
const PS: &str = "\
Examples:
  weft ps
  weft ps -o wide            with instance ids, every address, and why
  weft ps -o json | jq -r '.processes[] | select(.state != \"serving\") | .name'";
const LOGS: &str = "\
Examples:
  weft logs users-1          the last lines of one instance
  weft logs -f               everything, as it comes
  weft logs --trace 4bf92f3577b34da6a3ce929d0e0e4736      one call, through all processes
  weft logs users --tail 1000 --raw";
const CHECK: &str = "\
Examples:
  weft check                 the mesh of the weft.toml of this directory or above
  weft check --registry https://10.0.0.5:7100 --gateway http://10.0.0.7:8080 --token-file operator.token
  weft check -o json | jq -r '.checks[] | select(.status == \"failed\") | .id'
  weft check --explain WEFT0107

Exit code: 0 all is well, warnings aside; 1 a check failed, or it was interrupted; 2 used wrongly.";
const SCALE: &str = "\
Examples:
  weft scale users=4
  weft scale users=2 posts=0";
const RESTART: &str = "\
Examples:
  weft restart users         each replacement serves before the old instance drains
  weft restart users-2       one slot only

Replacements, and what `weft scale` starts, are as the weft.toml says of their service by then. needs, scale, other packages, services that come
or go, [registry] and [gateway] count when `weft up` is started again.

The gateway and the registry have one instance and fixed ports here: the old one ends before the new one starts. That takes a second or two,
or as long as calls last that the old one has begun, streams among them: half a minute at most. Calls to the gateway are refused meanwhile;
calls between services go on.";
const STOP: &str = "\
Examples:
  weft stop users            drains all its instances; `weft scale users=2` brings it back
  weft stop                  the whole mesh: gateway, services, registry";
const PROBE: &str = "\
Examples:
  weft probe 127.0.0.1:50051                         grpc.health.v1 of an app
  weft probe 127.0.0.1:8160 --health http:/readyz    the gateway's admin port: HEALTHCHECK of its container";
const DRAIN: &str = "\
Examples:
  weft drain 127.0.0.1:7380      the sidecar beside this app: what an app's preStop hook runs in Kubernetes
  weft drain 127.0.0.1:8160      a gateway";
const INJECT: &str = "\
Examples:
  weft inject -f shop.yaml -o shop.yaml
  kustomize build . | weft inject -f - | kubectl apply -f -

A pod is the service its service account names, in the pod's own namespace: the account users of shop is users.shop, and may be nobody else. It
shows the account's token, and demands the root of the registry that a ConfigMap of its namespace names. Made once, and again after a new root:
  kubectl -n shop create configmap weft-root --from-literal=sha256=$(kubectl -n weft exec registry-0 -- weft identity root)

Annotations of a pod's template:
  weft.dev/inject: \"false\"      no sidecar
  weft.dev/service: users        [default: the pod's serviceAccountName, else the label app.kubernetes.io/name, else the object's name]
  weft.dev/app-port: \"50051\"    [default: the app's only containerPort]
  weft.dev/container: app        which container the app is, when there are several
  weft.dev/health: grpc          or tcp, or http:/PATH
  weft.dev/plaintext: allow      who may call without a certificate: refuse [default], loopback (the pod itself), allow (everybody)";
const APPLY: &str = "\
Examples:
  weft apply -f policies.yaml
  weft apply -f policies/ --dry-run        what would change
  weft get policies -o yaml | weft apply -f - --format yaml

A policy, in YAML (TOML and JSON say the same; what is wrong with one is told
by line and field):
  name: users-callers
  service: users
  access:                      # calls that no rule allows are refused
    rules:
      - name: readers
        # or identities, namespaces, anonymous: true, authenticated: true
        from: { services: [posts, comments] }
        # or shop.users.v1.Users/*; left out: every method
        methods: [shop.users.v1.Users/GetUser]
      - name: from-outside
        # all REST, and gRPC on the gateway's port
        from: { services: [gateway] }
      - name: no-deletes
        action: deny           # beats every rule that allows
        from: { authenticated: true }
        methods: [shop.users.v1.Users/DeleteUser]";
const GET: &str = "\
Examples:
  weft get policies
  weft get policies users-callers -o yaml";
const DELETE: &str = "\
Examples:
  weft delete policies users-callers";
const TOKEN: &str = "\
Examples:
  weft token create --service users --out users.token
  weft sidecar --service users --token-file users.token --app 127.0.0.1:0 -- ./users
  weft token list
  weft token revoke 5f1b0c…          what joined with it stays; `weft identity revoke` ends that, too

An operator's token is --token-file, or WEFT_TOKEN_FILE, or that of the mesh in this directory: ca/operator.token below the registry's --data.";
const KEYS: &str = "\
Examples:
  weft keys create billing --claim plan=gold         the key, once; keep it where secrets are kept
  weft keys create nightly --service users --life 90d --out nightly.key
  weft keys list
  weft keys revoke billing                           refused from now on, by every gateway

A key counts where an authentication policy has `api_keys: true`. Clients show it as `x-api-key`, unless the policy names another header.";
const IDENTITY: &str = "\
Examples:
  weft identity                      whom the mesh trusts
  weft identity --service web --token-file web.token --out certs      PEM files for Envoy and stock gRPC clients, kept fresh
  weft identity revoke spiffe://weft.local/ns/default/svc/users
  weft identity rotate-root --notice 1h
  weft identity root                 the hash to pin: in Kubernetes, what the ConfigMap weft-root holds";

const CLIENTS: &str = "\
Examples:
  weft clients                       sidecars and gateways by name, xDS clients by the id of their node
  weft clients -o wide               which version of the catalog each acts on, what it is, who it proved to be
  weft clients web-1 -o json         each resource of one client, with versions";

const BOOTSTRAP: &str = "\
Examples:
  weft bootstrap --lang python --out bootstrap.json          beside a sidecar, which tells its app WEFT_OUTBOUND
  weft bootstrap --lang go --server http://127.0.0.1:7301
  weft identity --service web --token-file web.token --out certs &
  weft bootstrap --lang go --server https://registry.example:7100 --identity certs --out bootstrap.json
  weft bootstrap --lang envoy --server https://10.0.0.1:7100 --identity certs --out envoy.json

The program itself stays as it is. It is told of the file by a variable, and dials xds:///NAME of a service:
  GRPC_XDS_BOOTSTRAP=bootstrap.json python3 app.py
  go      import _ \"google.golang.org/grpc/xds\"; grpc.NewClient(\"xds:///users\", …)
  java    io.grpc:grpc-xds on the class path; Grpc.newChannelBuilder(\"xds:///users\", …)
  python  grpc.insecure_channel(\"xds:///users\")
  node    require('@grpc/grpc-js-xds').register(); new Client('xds:///users', …)
  envoy   envoy -c envoy.json; calls go to --listen with the service as authority

Java and Node ask a sidecar: they cannot be told whom to believe by TLS.
Without --identity a client reaches the instances that take plaintext (sidecar --plaintext). With it, and with credentials of xDS in the program
(xds.NewClientCredentials, XdsChannelCredentials, grpc.xds_channel_credentials, XdsChannelCredentials of grpc-js-xds), calls go by mutual TLS.";
const CLAIMS: &str = "\
Examples:
  weft claims                                              what is claimed by whom, and who was refused it
  weft claims move shop.users.v1.Users --to people         with its REST templates
  weft claims move \"GET /api/users/{id}\" --to people
  weft claims release shop.users.v1.Users                  of a service that is gone";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_else(|| OsString::from("weft"));
    if args.next().is_some_and(|command| command == "trampoline") {
        return roles::trampoline(args); // before anything else: it must not have started a thread
    }
    match Cli::parse().command {
        Command::Up(args) => roles::up(args, program.to_string_lossy().into_owned()),
        Command::Registry(args) => roles::registry(args),
        Command::Gateway(args) => roles::gateway(args),
        Command::Sidecar(args) => roles::sidecar(args),
        Command::Ps(args) => tool::run("ps", |_| look::ps(args)),
        Command::Logs(args) if args.follows() => tool::run_until_told("logs", |_| look::logs(args)),
        Command::Logs(args) => tool::run("logs", |_| look::logs(args)),
        Command::Check(args) => check::check(args),
        Command::Scale(args) => tool::run("scale", |_| change::scale(args)),
        Command::Restart(args) => tool::run("restart", |_| change::restart(args)),
        Command::Probe(args) => tool::run("probe", |_| look::probe(args)),
        Command::Drain(args) => tool::run("drain", |_| look::drain(args)),
        Command::Inject(args) => tool::run("inject", |_| async move { inject::inject(&args) }),
        Command::Stop(args) => tool::run("stop", |_| change::stop(args)),
        Command::Apply(args) => tool::run("apply", |context| policies::apply(args, context)),
        Command::Get(args) => tool::run("get", |context| policies::get(args, context)),
        Command::Delete(args) => tool::run("delete", |context| policies::delete(args, context)),
        Command::Claims(args) => tool::run("claims", |context| claims::claims(args, context)),
        Command::Clients(args) => tool::run("clients", |context| clients::clients(args, context)),
        Command::Token(args) => tool::run("token", |context| access::token(args, context)),
        Command::Keys(args) => tool::run("keys", |context| keys::keys(args, context)),
        Command::Identity(args) if args.keeps() => {
            tool::run_until_told("identity", |context| access::identity(args, context))
        }
        Command::Identity(args) => tool::run("identity", |context| access::identity(args, context)),
        Command::Bootstrap(args) => tool::run("bootstrap", |context| bootstrap::bootstrap(args, context)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_of_all_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_grouped_help_names_every_command_with_its_own_words() {
        let cli = Cli::command();
        for command in cli.get_subcommands() {
            let line = format!("  {:<9} {}\n", command.get_name(), command.get_about().unwrap());
            assert!(HELP.contains(&line), "{line:?}");
        }
        let named = HELP.lines().filter(|line| line.starts_with("  ")).count();
        assert_eq!(named, cli.get_subcommands().count());
    }

    #[test]
    fn the_policy_in_the_help_can_be_pasted_as_a_terminal_shows_it() {
        let mut cli = Cli::command().term_width(80);
        let help = cli.find_subcommand_mut("apply").expect("it is a command").render_help().to_string();
        let (_, shown) = help.split_once("by line and field):\n").expect("a policy is shown");
        let read = weft_policy::read(shown, weft_policy::Format::Yaml, std::path::Path::new("help"));
        assert_eq!(read.unwrap_or_else(|wrong| panic!("{wrong}\n{shown}")).len(), 1);
    }
}
