//! The same question to many at once: so many at a time, and none after the end of the run.
//!
//! Lives here: both bounds. Does not: what is asked, how long one may take to answer.

use std::sync::Arc;

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout_at},
};

/// Questions under way at once: a mesh of thousands must not cost this program its descriptors, nor the mesh a burst.
const AT_ONCE: usize = 32;

/// Asks everybody and returns the answers in the order of `whom`; none from those for whom no time was left.
pub(crate) async fn ask<T, A, F>(whom: Vec<T>, end: Instant, question: impl Fn(T) -> F) -> Vec<(T, Option<A>)>
where
    T: Clone + Send + 'static,
    A: Send + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let (mut asked, room) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for (place, who) in whom.into_iter().enumerate() {
        let (answer, room) = (question(who.clone()), Arc::clone(&room));
        asked.spawn(async move {
            let answer = async {
                let _room = room.acquire_owned().await; // never closed
                // Those who are cut off at the end make room, which is for nobody any more.
                if Instant::now() < end { Some(answer.await) } else { None }
            };
            (place, who, timeout_at(end, answer).await.ok().flatten())
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(place, ..)| *place);
    answers.into_iter().map(|(_, who, answer)| (who, answer)).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_that_hang_are_asked_so_many_at_once_and_no_longer_than_to_the_end() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let hang = |who: usize| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                sleep(Duration::from_secs(3)).await;
                now.fetch_sub(1, Ordering::Relaxed);
                who
            }
        };
        let began = Instant::now();
        let answers = ask((0..5 * AT_ONCE).collect(), began + Duration::from_secs(7), hang).await;
        assert_eq!((began.elapsed(), most.load(Ordering::Relaxed)), (Duration::from_secs(7), AT_ONCE));
        let (answered, left): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, answer)| answer.is_some());
        assert_eq!((answered.len(), left.len()), (2 * AT_ONCE, 3 * AT_ONCE));
        assert!(answered.iter().all(|(who, answer)| *answer == Some(*who)) && answered.is_sorted());
    }
}
