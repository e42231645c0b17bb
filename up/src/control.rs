//! The control socket of `weft up`: `weft.up.v1` on `.weft/up.sock`, for this user only.
//!
//! Lives here: the socket, the RPCs, their statuses. Does not: carrying anything out (`director`), knowing what runs (`board`), finding log
//! lines (`lines`).
//! One function maps each failure to a gRPC status: an unknown name is NOT_FOUND, a number out of range INVALID_ARGUMENT, an action
//! that did not succeed FAILED_PRECONDITION with what the process said, one that a stop of the mesh cut off ABORTED.

mod lines;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    net::UnixListener,
    sync::{
        broadcast::error::RecvError,
        mpsc::{self, error::TrySendError},
        watch,
    },
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, transport::Server};
use weft_model::ServiceName;
use weft_proto::weft::up::v1::{
    self as pb,
    up_server::{Up, UpServer},
};
use weft_runtime::{Shutdown, clock};

use crate::{
    board::{Kind, Row, View},
    config::{Config, MAX_SCALE},
    director::{Action, Failed, Order, Step},
    plan::Target,
    probe::Reach,
    screen::Screen,
    text, welcome,
};
use lines::Wanted;

/// Messages on their way to one client; a client that reads slowly slows its own stream down.
const QUEUE: usize = 64;
/// Steps of one action on their way.
const STEPS: usize = 16;
/// Lines from the past at most, as in `weft.up.v1`.
const MAX_TAIL: u32 = 10_000;
/// Bytes of a socket's path that every kernel takes, with its ending zero: sun_path of unix(7), 104 on macOS.
const MAX_PATH: usize = 103;

/// Binds the socket; whatever lies there is a dead owner's.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(io::Error::other(format!("the path is longer than {MAX_PATH} bytes, which no socket may be")));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?; // the directory is closed to others, so nobody gets in before the next line
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// What the socket answers with.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    pub(crate) config: Arc<Config>,
    pub(crate) board: View,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) screen: Screen,
    pub(crate) shutdown: Shutdown,
    /// Everything has been stopped.
    pub(crate) stopped: CancellationToken,
    pub(crate) started_at: SystemTime,
    /// How people reach the gateway; known when the mesh is ready.
    pub(crate) reach: watch::Receiver<Option<Reach>>,
    /// Streams under way; they end when their client or what they read from is gone.
    pub(crate) tasks: TaskTracker,
}

impl Control {
    /// Serves until everything has been stopped and the clients have heard of it.
    pub(crate) async fn serve(self, listener: UnixListener) -> Result<(), tonic::transport::Error> {
        let stopped = self.stopped.clone().cancelled_owned();
        let tasks = self.tasks.clone();
        let server = Server::builder().add_service(UpServer::new(self));
        let served = server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped).await;
        tasks.close();
        tasks.wait().await;
        served
    }

    fn service(&self, name: &str) -> Result<ServiceName, Status> {
        let name = name.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        if self.config.services.contains_key(&name) { Ok(name) } else { Err(self.unknown(&name.to_string())) }
    }

    fn unknown(&self, name: &str) -> Status {
        let known: Vec<_> = self.config.services.keys().map(ToString::to_string).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Status::not_found(format!("there is no service {name:?} here; services are: {known}"))
    }

    fn order(&self, action: Action) -> Result<Response<Steps>, Status> {
        let (steps, taken) = mpsc::channel(STEPS);
        self.orders.try_send(Order { action, steps }).map_err(|error| untaken(&error))?;
        let (send, receive) = mpsc::channel(QUEUE);
        self.tasks.spawn(relay(taken, send));
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    /// Stops the whole mesh; its lines are what the screen says meanwhile.
    fn stop(&self) -> Response<Steps> {
        let (mut said, stopped) = (self.screen.listen(), self.stopped.clone());
        let (send, receive) = mpsc::channel(QUEUE);
        self.shutdown.drain();
        self.tasks.spawn(async move {
            loop {
                let message = tokio::select! {
                    biased; // what was said is told before the end
                    line = said.recv() => match line {
                        Ok(message) => pb::Progress { message, done: false },
                        Err(RecvError::Lagged(_)) => continue,
                        Err(RecvError::Closed) => done(),
                    },
                    () = stopped.cancelled() => done(),
                };
                let last = message.done;
                if send.send(Ok(message)).await.is_err() || last {
                    return;
                }
            }
        });
        Response::new(ReceiverStream::new(receive))
    }
}

type Steps = ReceiverStream<Result<pb::Progress, Status>>;

/// Passes on the steps of one action. Steps that end without a last one belong to an action that was cut off.
async fn relay(mut taken: mpsc::Receiver<Result<Step, Failed>>, send: mpsc::Sender<Result<pb::Progress, Status>>) {
    loop {
        let (message, last) = match taken.recv().await {
            Some(Ok(Step::Said(message))) => (Ok(pb::Progress { message, done: false }), false),
            Some(Ok(Step::Done)) => (Ok(done()), true),
            Some(Err(failed)) => (Err(status(&failed)), true),
            None => (Err(Status::aborted("the mesh stops, and the action was cut off")), true),
        };
        if send.send(message).await.is_err() || last {
            return; // all is said, or who asked has gone
        }
    }
}

fn done() -> pb::Progress {
    pb::Progress { message: String::new(), done: true }
}

/// The one mapping of a failed action.
fn status(failed: &Failed) -> Status {
    Status::failed_precondition(failed.to_string())
}

/// Why an order was not even taken.
fn untaken(error: &TrySendError<Order>) -> Status {
    match error {
        TrySendError::Full(_) => Status::resource_exhausted("many actions wait already; try again when they are done"),
        TrySendError::Closed(_) => Status::unavailable("the mesh stops"),
    }
}

#[tonic::async_trait]
impl Up for Control {
    type LogsStream = ReceiverStream<Result<pb::LogLine, Status>>;
    type ScaleStream = Steps;
    type RestartStream = Steps;
    type StopStream = Steps;

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let (rows, reach) = (self.board.rows(), *self.reach.borrow());
        Ok(Response::new(pb::StatusResponse {
            processes: rows.iter().map(process).collect(),
            urls: reach.map(|reach| welcome::urls(reach, &rows)).unwrap_or_default(),
            started_at_s: unix(self.started_at),
        }))
    }

    async fn logs(&self, request: Request<pb::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let pb::LogsRequest { name, tail, follow, trace } = request.into_inner();
        let trace = Some(trace).filter(|id| !id.is_empty()).map(|id| text::trace_id(&id)).transpose();
        let trace = trace.map_err(|wrong| Status::invalid_argument(format!("trace: {wrong}")))?;
        let outputs = self.board.outputs();
        let wanted = Wanted { name: name.clone(), trace, tail: tail.min(MAX_TAIL) as usize };
        let known = outputs.borrow().iter().any(|output| wanted.means(&output.kind));
        if outputs.borrow().is_empty() {
            return Err(Status::unavailable("`weft up` is still building; nothing runs yet that could write"));
        }
        if !known && self.service(&name).is_err() {
            let names: BTreeSet<_> = outputs.borrow().iter().map(|output| output.kind.name()).collect();
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Status::not_found(format!("nothing named {name:?} runs here; there are: {names}")));
        }
        let (send, receive) = mpsc::channel(QUEUE);
        match follow {
            true => self.tasks.spawn(lines::pump(outputs, wanted, send, self.stopped.clone())),
            false => {
                let meant = outputs.borrow().iter().filter(|it| wanted.means(&it.kind)).cloned().collect();
                self.tasks.spawn(lines::past(meant, wanted, send))
            }
        };
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn scale(&self, request: Request<pb::ScaleRequest>) -> Result<Response<Steps>, Status> {
        let pb::ScaleRequest { service, instances } = request.into_inner();
        if instances > MAX_SCALE {
            return Err(Status::invalid_argument(format!("instances: {instances} is more than {MAX_SCALE}")));
        }
        self.order(Action::Scale { service: self.service(&service)?, instances })
    }

    async fn restart(&self, request: Request<pb::RestartRequest>) -> Result<Response<Steps>, Status> {
        let name = request.into_inner().name;
        let target = Target::find(&name, |service| self.config.services.contains_key(service));
        self.order(Action::Restart(target.ok_or_else(|| self.unknown(&name))?))
    }

    async fn stop(&self, request: Request<pb::StopRequest>) -> Result<Response<Steps>, Status> {
        let service = request.into_inner().service;
        if service.is_empty() {
            return Ok(Control::stop(self));
        }
        self.order(Action::Stop(self.service(&service)?))
    }
}

fn process(row: &Row) -> pb::Process {
    let service = match &row.kind {
        Kind::Instance(slot) => slot.service.to_string(),
        Kind::Registry | Kind::Gateway => String::new(),
    };
    pb::Process {
        name: row.name(),
        service,
        state: row.state.name().to_owned(),
        pid: row.pid.unwrap_or(0),
        addresses: row.addresses.iter().map(|(proto, addr)| (proto.clone(), addr.to_string())).collect(),
        restarts: row.all_restarts().try_into().unwrap_or(u32::MAX),
        since_s: row.since.map_or(0, unix),
        reason: row.reason.clone(),
        instance_id: row.instance.map(|id| id.to_string()).unwrap_or_default(),
        app_pid: row.app.unwrap_or(0),
    }
}

fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// The moment a mesh starts.
pub(crate) fn now() -> SystemTime {
    clock::wall()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client is told of these steps, when whoever carries out the order drops it after them.
    async fn told(steps: impl IntoIterator<Item = Step>) -> Vec<Result<pb::Progress, tonic::Code>> {
        let (give, taken) = mpsc::channel(STEPS);
        for step in steps {
            give.try_send(Ok(step)).unwrap();
        }
        drop(give);
        let (send, mut receive) = mpsc::channel(QUEUE);
        relay(taken, send).await;
        let mut told = Vec::new();
        while let Some(message) = receive.recv().await {
            told.push(message.map_err(|status| status.code()));
        }
        told
    }

    fn said(message: &str) -> pb::Progress {
        pb::Progress { message: message.to_owned(), done: false }
    }

    #[tokio::test]
    async fn an_action_is_done_when_it_says_so() {
        let steps = [Step::Said("one".to_owned()), Step::Done];
        assert_eq!(told(steps).await, [Ok(said("one")), Ok(done())]);
    }

    #[tokio::test]
    async fn an_action_that_is_cut_off_is_aborted_and_never_done() {
        assert_eq!(told([Step::Said("one".to_owned())]).await, [Ok(said("one")), Err(tonic::Code::Aborted)]);
        assert_eq!(told([]).await, [Err(tonic::Code::Aborted)], "one that never began");
    }

    #[test]
    fn orders_that_wait_are_not_blamed_for_a_mesh_that_stops() {
        let order = || Order { action: Action::Stop("users".parse().unwrap()), steps: mpsc::channel(1).0 };
        let (orders, ordered) = mpsc::channel(1);
        orders.try_send(order()).unwrap();
        assert_eq!(untaken(&orders.try_send(order()).unwrap_err()).code(), tonic::Code::ResourceExhausted);
        drop(ordered);
        assert_eq!(untaken(&orders.try_send(order()).unwrap_err()).code(), tonic::Code::Unavailable);
    }
}
