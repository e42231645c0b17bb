//! `token` and `identity`: who may join the mesh, who is in it, and the certificates for those who read files.
//!
//! Lives here: flags, which token is used, what is printed. Does not: the calls and the files (`weft-discovery`), any rule (the registry).
//! Strings of tokens go to stdout or a file of mode 600, and nowhere else.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use serde::Serialize;
use tonic::{Request, Status, service::interceptor::InterceptedService, transport::Channel};
use weft_discovery::{
    Credential, CredentialError, IdentityError, JoinArgs, ListedToken, Operator, Registries, RegistryUrls, Revoked,
    TokenFor, Way, export, join, keep_exported, read_token, write_token,
};
use weft_identity::{Clock, RootPin, Serial};
use weft_model::{ServiceName, SpiffeId};
use weft_runtime::{Context, HumanDuration, Usage, clock};

use crate::{
    look::{Mesh, age, left},
    output::{self, Format},
};

/// How long joining may take for who keeps files fresh, and so may have been started with the mesh.
const JOIN: Duration = Duration::from_secs(30);
/// How long a registry is tried before a person is told that it does not answer; and where nobody runs it, as far as is known.
const REACH: Duration = Duration::from_secs(5);
const IN_VAIN: Duration = Duration::from_secs(1);
/// How long the registry may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Which registry is asked, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Registry {
    /// An operator's token [default: WEFT_TOKEN_FILE, else the one of the mesh in this directory or above]
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Registries [default: those the token names]; http:// is for one that was started with --insecure
    #[arg(long, value_name = "URL[,URL…]", global = true)]
    registry: Option<RegistryUrls>,
    #[command(flatten)]
    mesh: Mesh,
}

impl Registry {
    fn operator(&self, context: &Context) -> anyhow::Result<Operator> {
        let file = token_file(self.token_file.clone(), &self.mesh, context)?;
        Ok(Operator::new(Credential::read(&file, self.registry.as_ref())?, wall()))
    }

    /// Whether nothing but the `weft.toml` says which mesh is meant.
    fn is_of_the_file(&self, context: &Context) -> bool {
        self.registry.is_none() && self.token_file.is_none() && context.env().token_file().is_none()
    }

    /// What came of asking; in place of a registry that does not answer, or of a token that is not there, that nobody runs this mesh, or that it is
    /// not ready yet.
    async fn unless_down<T>(&self, context: &Context, asked: anyhow::Result<T>) -> anyhow::Result<T> {
        match asked {
            Err(error) if self.is_of_the_file(context) && is_of_the_absent(&error) => {
                Err(self.mesh.trouble().await.unwrap_or(error))
            }
            asked => asked,
        }
    }

    /// How long a registry is tried: not for long where nobody runs the mesh as far as is known.
    async fn patience(&self, context: &Context) -> Duration {
        match self.is_of_the_file(context) && self.mesh.trouble().await.is_some() {
            true => IN_VAIN,
            false => REACH,
        }
    }

    /// A channel as the operator, on which each call has `ANSWER`; in plaintext, as nobody, to a registry that was started with --insecure.
    pub(crate) async fn channel(&self, context: &Context) -> anyhow::Result<Asked> {
        let channel = match &self.registry {
            Some(urls) if urls.iter().any(|url| url.starts_with("http://")) => {
                Registries::new(urls).answering(REACH).await.with_context(|| format!("no registry at {urls}"))?
            }
            Some(_) | None => {
                let joined = async { Ok(self.operator(context)?.channel(self.patience(context).await).await?) };
                self.unless_down(context, joined.await).await?
            }
        };
        Ok(InterceptedService::new(channel, in_time))
    }
}

/// Whether it is about somebody who does not answer, or a token that nobody wrote.
fn is_of_the_absent(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(IdentityError::OutOfReach { .. }))
        || matches!(error.downcast_ref(), Some(CredentialError::Unreadable { .. }))
}

/// A channel on which each call has a deadline.
pub(crate) type Asked = InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>;

fn in_time(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.set_timeout(ANSWER);
    Ok(request)
}

fn token_file(given: Option<PathBuf>, mesh: &Mesh, context: &Context) -> anyhow::Result<PathBuf> {
    match given.or_else(|| context.env().token_file()) {
        Some(file) => Ok(file),
        None => mesh.operator_token(),
    }
}

fn wall() -> Clock {
    Arc::new(clock::wall)
}

/// Flags of `weft token`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum TokenCommand {
    /// Makes a token, a secret, with which processes of one service join the mesh
    Create(CreateArgs),
    /// The tokens that have not run out; never their strings
    List(ListArgs),
    /// Makes a token worthless; what joined with it stays
    Revoke(RevokeArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct CreateArgs {
    /// Service whose instances may join with it: NAME or NAME.NAMESPACE
    #[arg(long, value_name = "NAME", required_unless_present = "operator", conflicts_with = "operator")]
    service: Option<ServiceName>,
    /// For an operator, who may do everything
    #[arg(long)]
    operator: bool,
    /// How long it may be used, at most 366d [default: 24h]
    #[arg(long, value_name = "TIME")]
    life: Option<HumanDuration>,
    /// File for the token, of mode 600, instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    authority: Registry,
}

#[derive(Debug, Clone, clap::Args)]
struct ListArgs {
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    authority: Registry,
}

#[derive(Debug, Clone, clap::Args)]
struct RevokeArgs {
    /// Its id, as `weft token list` shows it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    authority: Registry,
}

pub(crate) async fn token(args: TokenArgs, context: Context) -> anyhow::Result<()> {
    let authority = match &args.command {
        TokenCommand::Create(args) => args.authority.clone(),
        TokenCommand::List(args) => args.authority.clone(),
        TokenCommand::Revoke(args) => args.authority.clone(),
    };
    let done = async {
        match args.command {
            TokenCommand::Create(args) => create(args, &context).await,
            TokenCommand::List(args) => list(args, &context).await,
            TokenCommand::Revoke(args) => revoke(args, &context).await,
        }
    };
    authority.unless_down(&context, done.await).await
}

async fn revoke(args: RevokeArgs, context: &Context) -> anyhow::Result<()> {
    let operator = args.authority.operator(context)?;
    operator.revoke_token(&args.id).await?;
    let listed = operator.list_tokens().await?;
    eprintln!("{}", revoked(&args.id, &listed));
    Ok(())
}

/// What revoking a token did, and what it did not.
fn revoked(id: &str, listed: &[ListedToken]) -> String {
    match listed.iter().find(|token| token.id == id) {
        Some(ListedToken { identity, .. }) => format!(
            "token {id} of {identity} is revoked; certificates that it led to hold until they run out, or `weft identity revoke {identity}`"
        ),
        None => format!("token {id} is revoked"),
    }
}

async fn create(args: CreateArgs, context: &Context) -> anyhow::Result<()> {
    let whom = args.service.map_or(TokenFor::Operator, TokenFor::Service);
    let operator = args.authority.operator(context)?;
    let (text, listed) = operator.create_token(&whom, args.life.map(|life| life.0)).await?;
    let life = until(listed.expires, clock::wall());
    match args.out {
        Some(file) => {
            let replaced = file.exists();
            write_token(&file, &text).with_context(|| format!("--out {}", file.display()))?;
            eprintln!("token {} for {}, {life}, is in {}", listed.id, listed.identity, file.display());
            if replaced {
                eprintln!(
                    "what was in that file is gone; was it a token, it stays good until it runs out or `weft token revoke` ends it"
                );
            }
        }
        None => {
            if io::stdout().is_terminal() {
                eprintln!(
                    "token {} for {}, {life}; it is a secret, and --out FILE keeps it off the screen",
                    listed.id, listed.identity
                );
            }
            output::line(&text)?;
        }
    }
    Ok(())
}

/// A token as programs read it.
#[derive(Serialize)]
struct Token {
    id: String,
    identity: String,
    created_s: u64,
    expires_s: u64,
    revoked_s: Option<u64>,
}

impl From<ListedToken> for Token {
    fn from(it: ListedToken) -> Self {
        let (created_s, expires_s) = (seconds(it.created), seconds(it.expires));
        Self { id: it.id, identity: it.identity, created_s, expires_s, revoked_s: it.revoked.map(seconds) }
    }
}

async fn list(args: ListArgs, context: &Context) -> anyhow::Result<()> {
    let tokens = args.authority.operator(context)?.list_tokens().await?;
    let now = clock::wall();
    let rows = tokens.iter().map(|token| row(token, now)).collect();
    let tokens: Vec<Token> = tokens.into_iter().map(Token::from).collect();
    output::print(args.output, &tokens, |format| {
        let mut heading = vec!["ID", "IDENTITY", "STATE", "AGE"];
        if format == Format::Wide {
            heading.push("CREATED");
        }
        (heading, rows)
    })
}

fn row(token: &ListedToken, now: SystemTime) -> [String; 5] {
    let state = match token.revoked {
        Some(at) => format!("revoked {} ago", since(at, now)),
        None => until(token.expires, now),
    };
    let created = format!("unix time {}", seconds(token.created));
    [token.id.clone(), token.identity.clone(), state, since(token.created, now), created]
}

/// Flags of `weft identity`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct IdentityArgs {
    #[command(subcommand)]
    command: Option<IdentityCommand>,
    /// Keep svid.pem, key.pem (mode 600) and bundle.pem in this directory fresh, until Ctrl-C
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Service to be: NAME or NAME.NAMESPACE [default: the one the token names]
    #[arg(long, value_name = "NAME", requires = "out")]
    service: Option<ServiceName>,
    /// Write the files once and end
    #[arg(long, requires = "out")]
    once: bool,
    /// Format of what is shown without --out
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "out")]
    output: Format,
    #[command(flatten)]
    join: JoinArgs,
    #[command(flatten)]
    mesh: Mesh,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum IdentityCommand {
    /// Takes certificates back before their time; connections of theirs end
    Revoke(TakeBackArgs),
    /// Replaces the root of the mesh, with overlap
    RotateRoot(RotateArgs),
    /// Prints the SHA-256 of the newest root, for --registry-pin and --registry-pin-file
    Root(RootArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct TakeBackArgs {
    /// All certificates that this identity holds now; it joins anew with a token that is not revoked
    #[arg(value_name = "SPIFFE_ID", required_unless_present = "serial", conflicts_with = "serial")]
    identity: Option<SpiffeId>,
    /// One certificate, by its serial number
    #[arg(long, value_name = "HEX")]
    serial: Option<Serial>,
    #[command(flatten)]
    authority: Registry,
}

#[derive(Debug, Clone, clap::Args)]
struct RotateArgs {
    /// How long the new root is published before it signs [default: half the life of a certificate]
    #[arg(long, value_name = "TIME")]
    notice: Option<HumanDuration>,
    #[command(flatten)]
    authority: Registry,
}

impl IdentityArgs {
    /// Whether it keeps files fresh until it is told to end.
    pub(crate) const fn keeps(&self) -> bool {
        self.command.is_none() && self.out.is_some() && !self.once
    }
}

#[derive(Debug, Clone, clap::Args)]
struct RootArgs {
    #[command(flatten)]
    authority: Registry,
}

pub(crate) async fn identity(args: IdentityArgs, context: Context) -> anyhow::Result<()> {
    match args.command {
        None => match args.out.clone() {
            None => show(args, &context).await,
            Some(dir) => keep_files(args, dir, &context).await,
        },
        Some(IdentityCommand::Revoke(args)) => {
            let authority = args.authority.clone();
            authority.unless_down(&context, take_back(args, &context).await).await
        }
        Some(IdentityCommand::RotateRoot(args)) => {
            let notice = args.notice.map(|notice| notice.0);
            let (pin, from) = args.authority.operator(&context)?.rotate_root(notice).await?;
            eprintln!("the new root is trusted now and signs {}", until_then(from, clock::wall()));
            Ok(output::line(&pin.to_string())?)
        }
        Some(IdentityCommand::Root(args)) => {
            let (bundle, _) = args.authority.operator(&context)?.trusted().await?;
            // The last is the newest: registries present it from the moment it is published, and it will be there the longest.
            let newest = bundle.roots().last().context("the mesh trusts no root")?;
            Ok(output::line(&RootPin::of(newest).to_string())?)
        }
    }
}

async fn take_back(args: TakeBackArgs, context: &Context) -> anyhow::Result<()> {
    let what = match (args.identity, args.serial) {
        (Some(id), _) => Revoked::Identity(id),
        (None, Some(serial)) => Revoked::Serial(serial),
        (None, None) => return Err(Usage::new("name a SPIFFE id or --serial").into()), // clap asks for one
    };
    let operator = args.authority.operator(context)?;
    operator.revoke(&what).await?;
    match what {
        Revoked::Serial(serial) => eprintln!("certificate {serial} is taken back"),
        Revoked::Identity(id) => {
            let listed = operator.list_tokens().await?;
            eprintln!("{}", taken_back(&id.to_string(), &listed, clock::wall()));
        }
    }
    Ok(())
}

/// What taking back the certificates of an identity did, and which tokens let it in again.
fn taken_back(identity: &str, listed: &[ListedToken], now: SystemTime) -> String {
    let admits = |it: &&ListedToken| it.identity == identity && it.revoked.is_none() && it.expires > now;
    let tokens: Vec<&str> = listed.iter().filter(admits).map(|it| it.id.as_str()).collect();
    let done = format!("the certificates that {identity} holds are taken back");
    match tokens.as_slice() {
        [] => format!("{done}; no token admits it"),
        [one] => format!("{done}; token {one} still admits it, with a new one, at once: `weft token revoke {one}`"),
        [..] => {
            let each: Vec<String> = tokens.iter().map(|id| format!("`weft token revoke {id}`")).collect();
            format!("{done}; {} tokens still admit it, with a new one, at once: {}", tokens.len(), each.join(", "))
        }
    }
}

/// Returns the flags with a token in them.
fn with_token(args: &IdentityArgs, context: &Context) -> anyhow::Result<JoinArgs> {
    let mut flags = args.join.clone();
    if flags.token_fd.is_none() {
        flags.token_file = Some(token_file(flags.token_file, &args.mesh, context)?);
    }
    Ok(flags)
}

fn credential(flags: &JoinArgs) -> Result<Credential, CredentialError> {
    match flags.load()? {
        Way::Secured(credential) => Ok(*credential),
        Way::Plaintext(urls) => Err(CredentialError::Plaintext { urls }), // a token was put in above
    }
}

async fn keep_files(args: IdentityArgs, dir: PathBuf, context: &Context) -> anyhow::Result<()> {
    let credential = credential(&with_token(&args, context)?)?;
    let (task, identity) = join(credential, args.service, wall(), JOIN).await?;
    let failed = || format!("--out {}", dir.display());
    let said = || {
        let left = until(identity.svid().leaf().not_after, clock::wall());
        eprintln!("{}: certificate of {}, {left}", dir.display(), identity.id());
    };
    if args.once {
        export(&identity, &dir).await.with_context(failed)?;
        said();
        return Ok(());
    }
    tokio::select! {
        () = task.run(Default::default()) => Ok(()), // ends when told, and nobody tells it
        error = keep_exported(&identity, &dir, said) => match error.with_context(failed)? {},
    }
}

/// Who the holder of a token is, and whom the mesh trusts, as programs read it.
#[derive(Serialize)]
struct Shown {
    identity: String,
    token: String,
    expires_s: u64,
    registries: Vec<String>,
    trust_domain: String,
    roots: Vec<String>,
    revoked_certificates: Vec<String>,
    revoked_identities: Vec<String>,
}

async fn show(args: IdentityArgs, context: &Context) -> anyhow::Result<()> {
    let flags = with_token(&args, context)?;
    let file = flags.token_file.clone().ok_or_else(|| Usage::new("give --token-file; a descriptor is for --out"))?;
    let token = read_token(&file)?;
    let (bundle, revocations) = Operator::new(credential(&flags)?, wall()).trusted().await?;
    let sorted = |mut all: Vec<String>| {
        all.sort_unstable();
        all
    };
    let shown = Shown {
        identity: token.identity().to_string(),
        token: token.id().to_owned(),
        expires_s: seconds(token.expires()),
        registries: token.registries().to_vec(),
        trust_domain: bundle.domain().to_string(),
        roots: bundle.roots().iter().map(|root| RootPin::of(root).to_string()).collect(),
        revoked_certificates: sorted(revocations.serials.iter().map(ToString::to_string).collect()),
        revoked_identities: sorted(revocations.identities.keys().map(ToString::to_string).collect()),
    };
    output::print(args.output, &shown, |_| {
        let line = |name: &str, value: String| [name.to_owned(), value];
        let mut rows = vec![
            line("identity", shown.identity.clone()),
            line("token", format!("{}, {}", shown.token, until(token.expires(), clock::wall()))),
            line("registry", shown.registries.join(" ")),
            line("trust domain", shown.trust_domain.clone()),
        ];
        rows.extend(shown.roots.iter().map(|pin| line("root", pin.clone())));
        rows.extend(shown.revoked_identities.iter().map(|id| line("revoked", id.clone())));
        rows.extend(shown.revoked_certificates.iter().map(|serial| line("revoked", format!("serial {serial}"))));
        (vec!["WHAT", "VALUE"], rows)
    })
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn since(at: SystemTime, now: SystemTime) -> String {
    age(now.duration_since(at).map_or(0, |it| it.as_secs().cast_signed()))
}

fn until(end: SystemTime, now: SystemTime) -> String {
    match end.duration_since(now) {
        Ok(rest) => format!("good for {}", left(rest.as_secs())),
        Err(_) => "expired".to_owned(),
    }
}

fn until_then(from: SystemTime, now: SystemTime) -> String {
    from.duration_since(now).map_or_else(|_| "now".to_owned(), |rest| format!("in {}", left(rest.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_how_long_it_is_good_or_that_it_is_not() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let token = |revoked| ListedToken {
            id: "t".into(),
            identity: "spiffe://a/x".into(),
            created: at(0),
            expires: at(7_200),
            revoked,
        };
        let state = |token: &ListedToken, now| row(token, at(now))[2].clone();
        assert_eq!(state(&token(None), 1), "good for 2h", "as it was asked for a moment ago");
        assert_eq!(state(&token(None), 1_860), "good for 1h");
        assert_eq!(state(&token(None), 3_660), "good for 59m");
        assert_eq!(state(&token(None), 7_201), "expired");
        assert_eq!(state(&token(Some(at(60))), 120), "revoked 1m ago");
    }

    #[test]
    fn what_was_revoked_and_what_lets_it_in_again_is_said() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let token = |id: &str, identity: &str, revoked: bool, expires| ListedToken {
            id: id.into(),
            identity: identity.into(),
            created: at(0),
            expires: at(expires),
            revoked: revoked.then(|| at(1)),
        };
        let web = "spiffe://a/web";
        let spent = [token("b", web, true, 90), token("c", web, false, 10), token("d", "spiffe://a/x", false, 90)];
        assert!(taken_back(web, &spent, at(50)).ends_with("; no token admits it"));
        let one = [&spent[..], &[token("e", web, false, 90)]].concat();
        assert!(taken_back(web, &one, at(50)).ends_with("at once: `weft token revoke e`"));
        let two = [&one[..], &[token("f", web, false, 90)]].concat();
        assert!(taken_back(web, &two, at(50)).ends_with("at once: `weft token revoke e`, `weft token revoke f`"));
        assert!(revoked("e", &two).contains("`weft identity revoke spiffe://a/web`"));
    }
}
