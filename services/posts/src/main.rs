//! The `posts` service of the example shop.
//!
//! Lives here: putting store, users and service into a process. Does not: anything else; `weft::serve` does what every service does.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use weft_posts::{Authors, Store, services};

fn main() -> ExitCode {
    weft::serve("posts", |app| async move {
        let store = Store::open(&weft_store::Place::of(&app)?).await?;
        Ok(services(store, Authors::new(app.channel("users"))))
    })
}
