//! The `users` service of the example shop.
//!
//! Lives here: putting store and service into a process. Does not: anything else; `weft::serve` does what every service does.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use weft_users::{Store, services};

fn main() -> ExitCode {
    weft::serve("users", |app| async move {
        let store = Store::open(&weft_store::Place::of(&app)?).await?;
        Ok(services(store))
    })
}
