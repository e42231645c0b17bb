//! What is done to the mesh: start it, scale, restart and stop services, stop it. One action at a time.
//!
//! Lives here: the order of steps and what is waited for between them; `process`, one process's; `file`, what `weft.toml` says by then; `told`, what somebody
//! hears of it. Does not: deciding which slots (`plan`), what is started with what (`launch`), what runs (`board`), keeping it running (`weft-supervise`).
//! A replacement serves before the instance it replaces is asked to leave; an instance leaves by SIGTERM to its sidecar, which drains.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task,
    time::Instant,
};
use weft_discovery::Registries;
use weft_model::ServiceName;
use weft_supervise::{Control, Handle};

use crate::{
    board::{Key, Kind, Row, View},
    config::Config,
    launch::Launch,
    order,
    place::Place,
    plan::{self, Slot, Target},
    probe::{self, Reach},
    screen::{Screen, seconds},
};

mod file;
mod process;
mod told;

use told::Steps;
pub(crate) use told::{Failed, Order, Step};

/// How long a process may take to serve before a start is called failed.
const START_LIMIT: Duration = Duration::from_secs(60);
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
        if !plan.start.is_empty() {
            self.reread(service, steps).await?;
        }
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
        self.reread(&service, steps).await?;
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
        self.reread_role(kind, steps).await;
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

fn names(services: &[ServiceName]) -> String {
    services.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
