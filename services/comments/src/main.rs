//! The `comments` service of the example shop.
//!
//! Lives here: putting store, the services it asks, and its own into a process. Does not: anything else; `weft::serve` does what every
//! service does.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use weft_comments::{Others, Store, services};

fn main() -> ExitCode {
    weft::serve("comments", |app| async move {
        let store = Store::open(&weft_store::Place::of(&app)?).await?;
        Ok(services(store, Others::new(app.channel("posts"), app.channel("users"))))
    })
}
