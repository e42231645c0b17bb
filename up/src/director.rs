//! What is done to the mesh: start it, scale, restart and stop services, stop it. One action at a time.
//!
//! Lives here: the order of steps and what is waited for between them. Does not: deciding which slots (`plan`), what is started with
//! what (`launch`), what runs (`board`), keeping it running (`weft-supervise`).
//! A replacement serves before the instance it replaces is asked to leave; an instance leaves by SIGTERM to its sidecar, which drains.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinSet},
    time::{Instant, timeout, timeout_at},
};
use weft_discovery::Registries;
use weft_model::ServiceName;
use weft_supervise::{Control, Handle, Spec};

use crate::{
    board::{Key, Kind, Row, State, View},
    config::Config,
    launch::Launch,
    listed,
    logfile::LogFile,
    order,
    place::Place,
    plan::{self, Slot, Target},
    probe::{self, Reach},
    screen::{Screen, seconds},
    text,
};

/// How long a process may take to serve before a start is called failed.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a process's output looked through when it fails, and of those shown.
const LINES_READ: usize = 100;
const LAST_LINES: usize = 12;
/// A wait is told of when it has lasted this long, and then whenever it has lasted twice as long as when it was told last.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// Pause between two questions to the gateway whether it reaches a service.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Says what is wrong with a gateway's file: what may be in it the gateway knows.
pub type GatewaysFile = fn(&Path) -> Result<(), String>;

/// What somebody asks for.
#[derive(Debug)]
pub(crate) enum Action {
    /// This many instances.
    Scale { service: ServiceName, instances: u32 },
    /// New processes, one at a time.
    Restart(Target),
    /// No instances.
    Stop(ServiceName),
}

/// An action and where its steps are told. Steps nobody reads any more are not told; the action goes on.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) action: Action,
    pub(crate) steps: Steps,
}

/// Where the steps of an action are told.
type Steps = mpsc::Sender<Result<Step, Failed>>;

/// What is told of an action. Without `Done` or a failure at its end it was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something was reached, in words for people.
    Said(String),
    /// All of it was carried out.
    Done,
}

/// A process that does not serve, or an action that cannot be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}{}", details(.last_lines, .hint))]
pub(crate) struct Failed {
    what: String,
    last_lines: Vec<String>,
    hint: String,
}

fn details(last_lines: &[String], hint: &str) -> String {
    let mut text = String::new();
    if !last_lines.is_empty() {
        text.push_str("; its last lines:");
        last_lines.iter().for_each(|line| text.extend(["\n    ", line]));
    }
    if !hint.is_empty() {
        text.extend(["\n  hint: ", hint]);
    }
    text
}

impl Failed {
    fn because(what: impl Into<String>) -> Self {
        Self { what: what.into(), last_lines: Vec::new(), hint: String::new() }
    }
}

/// Carries out actions. Dropping it leaves everything as it is.
pub(crate) struct Director {
    config: Arc<Config>,
    launch: Launch,
    control: Control,
    board: View,
    place: Arc<Place>,
    screen: Screen,
    gateways_file: GatewaysFile,
    /// How people reach the gateway; none until that was announced.
    reach: watch::Sender<Option<Reach>>,
    /// Where instances are listed; none until we are somebody there.
    registries: Option<Registries>,
    next: Key,
    running: BTreeMap<Key, (Kind, Handle)>,
}

impl Director {
    pub(crate) fn new(
        config: Arc<Config>,
        launch: Launch,
        control: Control,
        board: View,
        place: Arc<Place>,
        screen: Screen,
        gateways_file: GatewaysFile,
    ) -> Self {
        let (reach, registries, next, running) = (watch::Sender::new(None), None, 0, BTreeMap::new());
        Self { config, launch, control, board, place, screen, gateways_file, reach, registries, next, running }
    }

    /// Takes note of the registry that lists the instances, as who we are there.
    pub(crate) fn joined(&mut self, registries: Registries) {
        self.registries = Some(registries);
    }

    /// How people reach the gateway; none until that is announced.
    pub(crate) fn reach(&self) -> watch::Receiver<Option<Reach>> {
        self.reach.subscribe()
    }

    /// Lets everybody know how people reach the gateway; a restart of it may change that.
    pub(crate) fn announce(&self, reach: Reach) {
        self.reach.send_replace(Some(reach));
    }

    /// Takes note of the executables that instances run.
    pub(crate) fn built(&mut self, executables: BTreeMap<String, PathBuf>) {
        self.launch.executables = executables;
    }

    /// Starts the registry and waits until it is ready.
    pub(crate) async fn start_registry(&mut self) -> Result<(), Failed> {
        let stage = self.screen.stage("registry");
        let key = self.start(Kind::Registry).await?;
        let row = self.serving(key, None).await?;
        let at = row.addresses.get("grpc").copied().unwrap_or_else(|| self.config.registry.listen.get());
        stage.done(&format!("ready on {at}"));
        Ok(())
    }

    /// Starts every service after those it needs; the ones of a stage together.
    pub(crate) async fn start_services(&mut self) -> Result<(), Failed> {
        for stage in self.stages() {
            let shown = self.screen.stage(&names(&stage));
            let slots: Vec<Slot> = stage.iter().flat_map(|name| self.first_slots(name)).collect();
            let instances = slots.len();
            let mut keys = Vec::with_capacity(instances);
            for slot in slots {
                keys.push(self.start(Kind::Instance(slot)).await?);
            }
            for key in keys {
                self.serving(key, None).await?;
            }
            shown.done(&match instances {
                1 => "1 instance serves".to_owned(),
                count => format!("{count} instances serve"),
            });
        }
        Ok(())
    }

    /// Starts the gateway and waits until it reaches every service there is. Returns how people reach it.
    pub(crate) async fn start_gateway(&mut self, grpc_services: impl Fn() -> Vec<String>) -> Result<Reach, Failed> {
        let stage = self.screen.stage("gateway");
        let key = self.start(Kind::Gateway).await?;
        let row = self.serving(key, None).await?;
        let deadline = Instant::now() + START_LIMIT;
        let reach = self.reached(&row, deadline).await?;
        for service in grpc_services() {
            let reached = Box::pin(async {
                while !probe::serves(reach, &service).await {
                    if Instant::now() > deadline {
                        return Err(self.failed(key, &format!("the gateway does not reach {service}")));
                    }
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Ok(())
            });
            self.told(reached, None, || format!("the gateway does not reach {service} yet")).await?;
        }
        stage.done(&format!("ready on {}://{}", reach.scheme, reach.gateway));
        Ok(reach)
    }

    /// Waits until the gateway answers on its port, and finds out how.
    async fn reached(&self, gateway: &Row, deadline: Instant) -> Result<Reach, Failed> {
        let Some(addr) = gateway.addresses.get("http").copied() else {
            return Err(self.failed(gateway.key, "the gateway announced no address"));
        };
        let reached = Box::pin(async {
            loop {
                match probe::reach(addr).await {
                    Some(reach) => return Ok(reach),
                    None if Instant::now() > deadline => {
                        return Err(self.failed(gateway.key, "the gateway does not answer"));
                    }
                    None => tokio::time::sleep(ASK_AGAIN).await,
                }
            }
        });
        self.told(reached, None, || format!("the gateway does not answer on {addr} yet")).await
    }

    /// Carries out orders until nobody can give any. Cancel-safe between the steps of an action: what runs is on the board.
    pub(crate) async fn serve(&mut self, orders: &mut mpsc::Receiver<Order>) {
        while let Some(Order { action, steps }) = orders.recv().await {
            let done = match action {
                Action::Scale { service, instances } => self.scale(&service, instances, &steps).await,
                Action::Restart(target) => self.restart(target, &steps).await,
                Action::Stop(service) => self.scale(&service, 0, &steps).await,
            };
            if let Err(failed) = &done {
                self.screen.say(&failed.to_string());
            }
            let _ = steps.send(done.map(|()| Step::Done)).await; // as `step`
        }
    }

    /// Stops everything: the gateway first, services before those they need, the registry last.
    pub(crate) async fn stop(&mut self) {
        let is = |kind: Kind| move |it: &Kind| *it == kind;
        self.stop_all("gateway", is(Kind::Gateway)).await;
        for stage in self.stages().into_iter().rev() {
            let of = |kind: &Kind| matches!(kind, Kind::Instance(slot) if stage.contains(&slot.service));
            self.stop_all(&names(&stage), of).await;
        }
        self.stop_all("registry", is(Kind::Registry)).await;
    }

    async fn stop_all(&mut self, shown: &str, which: impl Fn(&Kind) -> bool) {
        let keys: Vec<_> = self.running.iter().filter(|(_, (kind, _))| which(kind)).map(|(key, _)| *key).collect();
        if keys.is_empty() {
            return;
        }
        let stage = self.screen.stage(shown);
        self.leave(keys, None).await;
        stage.done("stopped");
    }

    async fn scale(&mut self, service: &ServiceName, instances: u32, steps: &Steps) -> Result<(), Failed> {
        let present = self.present(service);
        let plan = plan::scale(&present.keys().copied().collect(), instances);
        let slot = |number| Slot { service: service.clone(), number };
        let started = Instant::now();
        let mut new = Vec::new();
        for number in plan.start {
            new.push(self.start(Kind::Instance(slot(number))).await?);
        }
        for key in new.clone() {
            let row = match self.serving(key, Some(steps)).await {
                Ok(row) => row,
                Err(failed) => {
                    self.leave(new, Some(steps)).await; // all or nothing
                    return Err(failed);
                }
            };
            self.step(steps, format!("{} serves after {}", row.name(), seconds(started.elapsed()))).await;
        }
        if !plan.stop.is_empty() {
            let names: Vec<_> = plan.stop.iter().map(|number| slot(*number).to_string()).collect();
            let leaving = plan.stop.iter().filter_map(|number| present.get(number).copied()).collect();
            self.leave(leaving, Some(steps)).await;
            self.step(steps, format!("{} drained and left after {}", names.join(", "), seconds(started.elapsed())))
                .await;
        }
        self.step(steps, format!("{service}: {instances} wanted, {} here", self.present(service).len())).await;
        Ok(())
    }

    async fn restart(&mut self, target: Target, steps: &Steps) -> Result<(), Failed> {
        let (service, only) = match target {
            Target::Role(kind) => return self.restart_role(&kind, steps).await,
            Target::Service(service) => (service, None),
            Target::Slot(Slot { service, number }) => (service, Some(number)),
        };
        let present = self.present(&service);
        let numbers = plan::restart(&present.keys().copied().collect(), only)
            .ok_or_else(|| Failed::because(format!("{service}-{} is not there", only.unwrap_or_default())))?;
        if numbers.is_empty() {
            return Err(Failed::because(format!(
                "{service} has no instance to restart; `scale {service}=1` starts one"
            )));
        }
        for number in numbers {
            let slot = Slot { service: service.clone(), number };
            let name = slot.to_string();
            let started = Instant::now();
            let new = self.start(Kind::Instance(slot)).await?;
            if let Err(failed) = self.serving(new, Some(steps)).await {
                self.leave(vec![new], Some(steps)).await;
                let what = format!("{}; {name} runs on as before", failed.what);
                return Err(Failed { what, ..failed });
            }
            self.step(steps, format!("{name}: its replacement serves after {}", seconds(started.elapsed()))).await;
            let leaving = Instant::now();
            self.leave(present.get(&number).copied().into_iter().collect(), Some(steps)).await;
            self.step(steps, format!("{name}: the old one drained and left after {}", seconds(leaving.elapsed())))
                .await;
        }
        Ok(())
    }

    /// A role has one port and so cannot be replaced while it serves: it ends its calls and starts again.
    async fn restart_role(&mut self, kind: &Kind, steps: &Steps) -> Result<(), Failed> {
        let found = self.running.iter().find(|(_, (it, _))| it == kind);
        let Some((key, handle)) = found.map(|(key, (_, handle))| (*key, handle.clone())) else {
            return Err(Failed::because(format!("{} does not run", kind.name())));
        };
        // Nothing follows from a file that cannot be used while the old process serves.
        if let (Kind::Gateway, Some(file)) = (kind, self.config.gateway.config.clone()) {
            let look = self.gateways_file;
            let looked = task::spawn_blocking(move || look(&file)).await;
            looked
                .unwrap_or_else(|died| Err(died.to_string()))
                .map_err(|problem| Failed::because(format!("{problem}; gateway runs on as before")))?;
        }
        let (started, before) = (Instant::now(), handle.status());
        let ended = |row: &Row| row.pid.is_none() || row.restarts > before.restarts;
        self.board.leaving(key).await;
        handle.restart_now().await;
        // Until it has ended, the board shows the old process, which may go on serving.
        let gone =
            Box::pin(self.board.find(|rows| rows.iter().find(|row| row.key == key).is_none_or(ended).then_some(())));
        self.told(gone, Some(steps), || format!("{} has not ended yet: it finishes its calls", kind.name())).await;
        let row = self.serving_after(key, before.restarts + 1, Some(steps)).await?;
        if *kind == Kind::Gateway {
            self.announce(self.reached(&row, Instant::now() + START_LIMIT).await?); // its file may say now that it speaks otherwise
        }
        self.step(steps, format!("{} serves again after {}", kind.name(), seconds(started.elapsed()))).await;
        Ok(())
    }

    /// Waits for `wait`, and says now and then what for: to the screen, and to who asked for an action.
    async fn told<T>(
        &self,
        wait: impl Future<Output = T> + Unpin,
        steps: Option<&Steps>,
        what: impl Fn() -> String,
    ) -> T {
        let tell = async |lasted: Duration| {
            let line = format!("still waiting after {} s: {}", lasted.as_secs(), what());
            match steps {
                Some(steps) => self.step(steps, line).await,
                None => self.screen.say(&format!("  {line}")),
            }
        };
        now_and_then(wait, tell).await
    }

    async fn step(&self, steps: &Steps, message: String) {
        self.screen.say(&message);
        let _ = steps.send(Ok(Step::Said(message))).await; // who asked has gone; the action goes on
    }

    async fn start(&mut self, kind: Kind) -> Result<Key, Failed> {
        self.next += 1;
        let key = self.next;
        let name = kind.name();
        let spec = self.spec(&kind, format!("{name}/{key}"));
        let handle = self.control.start(spec).await.map_err(|closed| Failed::because(closed.to_string()))?;
        self.running.insert(key, (kind.clone(), handle.clone()));
        self.board.add(key, kind, handle, LogFile::new(self.place.log(&name))).await;
        Ok(key)
    }

    fn spec(&self, kind: &Kind, child: String) -> Spec {
        match kind {
            Kind::Registry => self.launch.registry(child, &self.config),
            Kind::Gateway => self.launch.gateway(child, &self.config),
            Kind::Instance(slot) => {
                let service = self.config.services.get(&slot.service).expect("only configured services get slots");
                self.launch.instance(child, slot, service)
            }
        }
    }

    /// Waits until a process that was started just now serves, and returns its row.
    async fn serving(&self, key: Key, steps: Option<&Steps>) -> Result<Row, Failed> {
        self.serving_after(key, 0, steps).await
    }

    /// As `serving`, where so many restarts were asked for.
    async fn serving_after(&self, key: Key, restarts: u64, steps: Option<&Steps>) -> Result<Row, Failed> {
        let end = |rows: &[Row]| {
            let row = rows.iter().find(|row| row.key == key)?;
            match row.state {
                State::Serving => Some(Ok(row.clone())),
                // What ends before it ever served would do so again; the supervisor's further tries would only delay the news.
                _ if row.restarts > restarts => Some(Err(row.reason.clone())),
                State::GaveUp | State::Stopped | State::Revoked => Some(Err(row.reason.clone())),
                State::Starting | State::NotServing | State::Draining | State::Crashed => None,
            }
        };
        let found = Box::pin(timeout(START_LIMIT, self.board.find(end)));
        let what = || format!("{} does not serve yet{}", self.name(key), self.why(key));
        match self.told(found, steps, what).await {
            Ok(Some(Ok(row))) => Ok(row),
            Ok(Some(Err(reason))) => Err(self.failed(key, &format!("{} failed: {reason}", self.name(key)))),
            Ok(None) => Err(Failed::because("shutting down")),
            Err(_) => {
                let what = format!("{} does not serve after {START_LIMIT:?}{}", self.name(key), self.why(key));
                Err(self.failed(key, &what))
            }
        }
    }

    /// ` (reason)`, if a process has one for what it does not do.
    fn why(&self, key: Key) -> String {
        let rows = self.board.rows();
        let why = rows.iter().find(|row| row.key == key).map_or("", |row| &row.reason);
        if why.is_empty() { String::new() } else { format!(" ({why})") }
    }

    fn failed(&self, key: Key, what: &str) -> Failed {
        let lines = match self.running.get(&key).map(|(_, handle)| (handle, handle.status().state)) {
            Some((_, weft_supervise::State::GaveUp { exit })) => exit.last_lines, // of the last run alone
            Some((handle, _)) => handle.logs().last(LINES_READ),
            None => Vec::new(),
        };
        let mut last_lines = text::telling(lines.iter().map(|line| &*line.text));
        last_lines.drain(..last_lines.len().saturating_sub(LAST_LINES));
        let hint = self.hint(key);
        Failed { what: what.to_owned(), last_lines, hint }
    }

    /// What to look at: where all the output is, and what an app of ours has to do.
    fn hint(&self, key: Key) -> String {
        let log = self.place.log(&self.name(key));
        let Some((Kind::Instance(slot), _)) = self.running.get(&key) else {
            return format!("all its output is in {}", log.display());
        };
        let service = &slot.service;
        format!(
            "an app listens on 127.0.0.1:$PORT, which its sidecar tells it; see [services.{service}] in {}\n        all its output is in {}",
            self.config.file.display(),
            log.display()
        )
    }

    fn is_stopping(&self, key: Key) -> bool {
        let handle = self.running.get(&key).map(|(_, handle)| handle);
        handle.is_some_and(|it| matches!(it.status().state, weft_supervise::State::Stopping { .. }))
    }

    fn name(&self, key: Key) -> String {
        self.running.get(&key).map(|(kind, _)| kind.name()).unwrap_or_default()
    }

    /// Asks processes to leave and waits until they have.
    async fn leave(&mut self, keys: Vec<Key>, steps: Option<&Steps>) {
        let mut stops = JoinSet::new();
        for key in &keys {
            self.board.leaving(*key).await;
            if let Some((_, handle)) = self.running.get(key).cloned() {
                stops.spawn(async move { handle.stop().await });
            }
        }
        let leaving = || {
            let names = keys.iter().filter(|key| self.is_stopping(**key)).map(|key| self.name(*key));
            format!("{} has not left yet: it finishes its calls", names.collect::<Vec<_>>().join(", "))
        };
        self.told(Box::pin(stops.join_all()), steps, leaving).await;
        let mut left = BTreeSet::new();
        for key in keys {
            if let Some((Kind::Instance(slot), _)) = self.running.remove(&key) {
                left.insert(slot.to_string());
            }
            self.board.remove(key).await;
        }
        for (kind, _) in self.running.values() {
            left.remove(&kind.name()); // its replacement is there
        }
        self.take_out(&left).await;
    }

    /// Takes out of the registry what it lists of slots that have no process any more: one that was killed or given up has not left it. What
    /// cannot be is written down for the next `weft up`.
    async fn take_out(&self, slots: &BTreeSet<String>) {
        let which = self.place.listed_of(slots);
        let serves = self.board.rows().iter().any(|row| row.kind == Kind::Registry && row.state == State::Serving);
        let Some(registries) = self.registries.as_ref().filter(|_| serves) else { return };
        match listed::take_out(registries, &self.place, which).await {
            Ok(out) => out.kept.iter().for_each(|kept| self.screen.say(&format!("  stays listed for a while: {kept}"))),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "what has left may stay listed for a while"),
        }
    }

    /// The slots of a service that have a process, the latest where there are two.
    fn present(&self, service: &ServiceName) -> BTreeMap<u32, Key> {
        let slots = self.running.iter().filter_map(|(key, (kind, _))| match kind {
            Kind::Instance(slot) if slot.service == *service => Some((slot.number, *key)),
            Kind::Instance(_) | Kind::Registry | Kind::Gateway => None,
        });
        slots.collect()
    }

    fn first_slots(&self, name: &ServiceName) -> Vec<Slot> {
        let wanted = self.config.services.get(name).map_or(0, |service| service.scale);
        let numbers = plan::scale(&BTreeSet::new(), wanted).start;
        numbers.into_iter().map(|number| Slot { service: name.clone(), number }).collect()
    }

    fn stages(&self) -> Vec<Vec<ServiceName>> {
        let services = self.config.services.iter().map(|(name, it)| (name, it.needs.as_slice()));
        order::stages(services).expect("checked when the file was read")
    }
}

/// Waits, and tells how long it has lasted: after 5 s, and then each time it has lasted twice as long. A wait that ends within a telling ends after it.
async fn now_and_then<T>(mut wait: impl Future<Output = T> + Unpin, tell: impl AsyncFn(Duration)) -> T {
    let (began, mut lasted) = (Instant::now(), TOLD_AFTER);
    loop {
        match timeout_at(began + lasted, &mut wait).await {
            Ok(done) => return done,
            Err(_) => tell(lasted).await,
        }
        lasted *= 2;
    }
}

fn names(services: &[ServiceName]) -> String {
    services.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_told_of_within_seconds_and_then_ever_more_rarely() {
        let told_in = async |seconds| {
            let told = Mutex::new(Vec::new());
            let wait = Box::pin(tokio::time::sleep(Duration::from_secs(seconds)));
            now_and_then(wait, async |lasted| told.lock().unwrap().push(lasted.as_secs())).await;
            told.into_inner().unwrap()
        };
        assert!(told_in(3).await.is_empty());
        assert_eq!(told_in(59).await, [5, 10, 20, 40]);
    }
}
