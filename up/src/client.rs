//! The other end of the control socket, for `weft ps` and its like.
//!
//! Lives here: finding and dialling the socket of the mesh in this directory or above. Does not: what is asked (`weft-cli`).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::transport::{Channel, Endpoint, Uri};
use weft_proto::weft::up::v1::{StatusRequest, up_client::UpClient};

use crate::{config, place};

/// Why there is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no `weft.toml`, so no mesh either.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// There is one, and it is stopped or hangs.
    #[error(
        "`weft up` of {} does not answer within {}s: it is stopped (Ctrl-Z; `fg` brings it back) or hangs",
        .file.display(), ANSWER.as_secs()
    )]
    Silent {
        /// The file.
        file: PathBuf,
    },
    /// No `weft up` runs beside the file.
    #[error("no mesh runs beside {}; start it with `weft up`", .file.display())]
    NoMesh {
        /// The file.
        file: PathBuf,
    },
}

/// How long it may take to say how it is.
const ANSWER: Duration = Duration::from_secs(5);

/// A connected control socket.
pub type Client = UpClient<Channel>;

/// Connects to the `weft up` that runs `file`, or the first `weft.toml` in `dir` and the directories above it.
pub async fn connect(file: Option<&Path>, dir: &Path) -> Result<Client, ConnectError> {
    let file = config::locate(file, dir)?;
    let socket = place::socket(file.parent().unwrap_or(Path::new("/")));
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The name is never looked up: the connector knows where to go.
    let channel = Endpoint::from_static("http://up.weft").connect_with_connector(connector).await;
    let Ok(channel) = channel else { return Err(ConnectError::NoMesh { file }) };
    let mut client = UpClient::new(channel);
    // The kernel lets anybody in for a process that is stopped; what is asked for may take long, and this does not.
    match timeout(ANSWER, client.status(StatusRequest {})).await {
        Ok(_) => Ok(client),
        Err(_elapsed) => Err(ConnectError::Silent { file }),
    }
}
