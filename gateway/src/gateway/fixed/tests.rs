//! Static mode, looked at by hand: which table is published, and how often a problem is told.

use std::{fs, io::Write, os::fd::AsRawFd, thread};

use weft_proto::descriptors::{SHOP_USERS, TESTKIT};

use super::*;
use crate::edge::policies::tests::compiler;

/// Where a gateway would publish.
struct Stage {
    worlds: Worlds,
    published: ArcSwapOption<Table>,
    board: watch::Sender<Arc<Board>>,
    meters: Meters,
    edge: Compiler,
}

impl Stage {
    fn new() -> Self {
        Self {
            worlds: Worlds::new(weft_traffic::Metrics::default()).0,
            published: ArcSwapOption::empty(),
            board: watch::Sender::default(),
            meters: Meters::new(&weft_runtime::Metrics::default()),
            edge: compiler(),
        }
    }

    fn places(&mut self) -> Places<'_> {
        let Self { worlds, published, board, meters, edge } = self;
        Places { worlds, published, board, meters, edge }
    }

    fn open(&mut self, files: DescriptorFiles) -> Fixed {
        Fixed::open(files, Vec::new(), Vec::new(), &Outside::default(), &mut self.places()).unwrap()
    }

    fn table(&self) -> Arc<Table> {
        self.published.load_full().expect("it is published before anything is followed")
    }
}

#[tokio::test]
async fn a_problem_is_told_once_for_as_long_as_it_lasts_and_the_table_before_stays() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    put("users.binpb", SHOP_USERS);
    let mut stage = Stage::new();
    let mut fixed = stage.open(DescriptorFiles::Path(dir.path().to_owned()));
    let first = stage.table();
    for (bytes, told) in [(&b"no descriptor set"[..], 1), (&b""[..], 2)] {
        put("echo.binpb", bytes);
        for _ in 0..3 {
            fixed.look(&mut stage.places()).await;
            assert_eq!(stage.meters.sets_refused.get(), told);
            assert!(!fixed.told.is_empty() && Arc::ptr_eq(&stage.table(), &first));
        }
    }
    fs::remove_file(dir.path().join("echo.binpb")).unwrap();
    fixed.look(&mut stage.places()).await;
    assert!(fixed.told.is_empty() && Arc::ptr_eq(&stage.table(), &first), "all is as it was");
    put("echo.binpb", b"no descriptor set");
    fixed.look(&mut stage.places()).await;
    assert_eq!(stage.meters.sets_refused.get(), 3, "it is another time");
    put("echo.binpb", TESTKIT);
    fixed.look(&mut stage.places()).await;
    assert!(fixed.told.is_empty() && stage.table().len() > first.len());
    let second = stage.table();
    fixed.look(&mut stage.places()).await;
    assert!(Arc::ptr_eq(&stage.table(), &second), "nothing has changed");
}

#[test]
fn a_pipe_is_not_followed() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let writing = thread::spawn(move || writer.write_all(SHOP_USERS).unwrap());
    let mut stage = Stage::new();
    let fixed = stage.open(DescriptorFiles::Path(format!("/dev/fd/{}", reader.as_raw_fd()).into()));
    writing.join().unwrap();
    assert!(!fixed.is_followed() && stage.table().len() > 0);
}
