//! A place for a service's rows on each engine there is, so that one test runs on all of them.
//!
//! Lives here: the places, and the macro that makes a test per engine. Does not: opening a database (`weft-store`).

use std::path::Path;

use tempfile::TempDir;

/// A place for rows, of one test alone.
#[derive(Debug)]
pub struct Rows {
    dir: TempDir,
    url: Option<String>,
}

impl Rows {
    /// In a file.
    pub fn in_a_file() -> Self {
        Self { dir: TempDir::new().expect("a temporary directory can be made"), url: None }
    }

    /// In a database of PostgreSQL. None where that is missing; the test named then skips loudly.
    pub fn in_postgres(test: &str) -> Option<Self> {
        let url = crate::postgres::database(test)?;
        Some(Self { url: Some(url), ..Self::in_a_file() })
    }

    /// The directory, for the file.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `DATABASE_URL`; none for a file.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }
}

/// Makes two tests of each function named, `sqlite::NAME` and `postgres::NAME`; it takes the [`Rows`] it works on.
#[macro_export]
macro_rules! on_each_engine {
    ($($rule:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $rule() {
                super::$rule($crate::database::Rows::in_a_file()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $rule() {
                let path = concat!(module_path!(), "::", stringify!($rule));
                let test = path.split_once("::").map_or(path, |(_crate, test)| test); // as cargo prints it
                if let Some(rows) = $crate::database::Rows::in_postgres(test) {
                    super::$rule(rows).await;
                }
            })+
        }
    };
}
