//! The lease table tick by tick, with a clock of its own.

use super::*;

/// A lease table with a clock, driven tick by tick as the catalog does.
struct World {
    leases: Leases,
    now: Instant,
    wall: SystemTime,
    alive: BTreeMap<InstanceId, ServiceName>,
    gone: Vec<InstanceId>,
    doubt: Doubt,
    next: u8,
}

const STREAM: StreamId = StreamId(1000);

fn users() -> ServiceName {
    "users".parse().unwrap()
}

impl World {
    /// Starts past the freeze of a fresh start.
    fn warm() -> Self {
        let mut world = Self::cold();
        world.pass(Duration::from_secs(21));
        world
    }

    fn cold() -> Self {
        let (now, wall) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let (alive, gone, doubt) = (BTreeMap::new(), Vec::new(), Doubt::default());
        Self { leases: Leases::new(now, wall), now, wall, alive, gone, doubt, next: 0 }
    }

    fn grant(&mut self, zone: &str) -> InstanceId {
        self.next += 1;
        let id = InstanceId::from_bytes([self.next; 16]);
        let (epoch, ttl) = (Epoch(self.next.into()), LeaseTtl::DEFAULT);
        self.leases.apply(LeaseChange::Granted { id, epoch, ttl, service: users(), zone: zone.into() }, self.now);
        self.alive.insert(id, users());
        self.beat(&[id], StreamId(self.next.into()));
        id
    }

    fn move_to(&mut self, zone: &str, id: InstanceId) {
        let (epoch, ttl) = (Epoch(1), LeaseTtl::DEFAULT);
        self.leases.apply(LeaseChange::Granted { id, epoch, ttl, service: users(), zone: zone.into() }, self.now);
    }

    fn grant_many(&mut self, count: usize) -> Vec<InstanceId> {
        (0..count).map(|_| self.grant("")).collect()
    }

    fn beat(&mut self, ids: &[InstanceId], stream: StreamId) {
        for id in ids {
            assert_eq!(self.leases.renew(*id, stream, self.now), Renewal::Renewed, "{id}");
        }
    }

    fn look(&mut self) {
        let alive = &self.alive;
        let population = |s: &ServiceName| alive.values().filter(|of| *of == s).count();
        let (ended, doubt) = self.leases.expire(self.now, self.wall, &population);
        self.doubt = doubt;
        for (id, _) in ended {
            self.alive.remove(&id);
            self.gone.push(id);
            self.leases.apply(LeaseChange::Ended { id, why: RemovalReason::Expired }, self.now);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.pass_beating(time, &[]);
    }

    /// Lets time pass while these instances beat every 5 s, from now on.
    fn pass_beating(&mut self, time: Duration, beating: &[InstanceId]) {
        let ticks = time.as_millis() / TICK.as_millis();
        for tick in 0..ticks {
            if tick % 25 == 0 {
                self.beat(beating, STREAM);
            }
            (self.now, self.wall) = (self.now + TICK, self.wall + TICK);
            self.look();
        }
    }

    fn break_stream(&mut self, id: InstanceId) {
        let stream = self.leases.leases[&id].stream().unwrap();
        self.leases.broken(stream, self.now);
    }
}

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

#[test]
fn a_silent_lease_ends_after_its_ttl() {
    let mut world = World::warm();
    let ids = world.grant_many(2);
    world.pass_beating(secs(14.8), &ids[1..]);
    assert_eq!(world.gone, []);
    world.pass(secs(0.6));
    assert_eq!(world.gone, ids[..1]);
}

#[test]
fn beats_keep_a_lease_for_ever() {
    let mut world = World::warm();
    let ids = world.grant_many(2);
    world.pass_beating(secs(120.0), &ids);
    assert_eq!(world.gone, []);
}

#[test]
fn a_broken_stream_leaves_five_seconds() {
    let mut world = World::warm();
    let ids = world.grant_many(2);
    world.break_stream(ids[0]);
    world.pass_beating(secs(4.8), &ids[1..]);
    assert_eq!(world.gone, []);
    world.pass(secs(0.4));
    assert_eq!(world.gone, ids[..1]);
}

#[test]
fn a_beat_on_another_stream_within_the_grace_loses_nothing() {
    let mut world = World::warm();
    let ids = world.grant_many(2);
    world.break_stream(ids[0]);
    world.pass_beating(secs(4.0), &ids[1..]);
    world.pass_beating(secs(60.0), &ids);
    assert_eq!(world.gone, []);
}

#[test]
fn the_end_of_an_old_stream_does_not_touch_what_a_new_one_renews() {
    let mut world = World::warm();
    let ids = world.grant_many(2);
    let old = world.leases.leases[&ids[0]].stream().unwrap();
    world.beat(&ids, STREAM);
    world.leases.broken(old, world.now);
    world.pass(secs(8.0));
    assert_eq!(world.gone, []);
}

#[test]
fn one_of_two_expires_and_the_last_one_stays() {
    let mut world = World::warm();
    let ids = world.grant_many(2);
    world.break_stream(ids[0]);
    world.pass_beating(secs(6.0), &ids[1..]);
    assert_eq!(world.gone, ids[..1]);
    world.break_stream(ids[1]);
    world.pass(secs(60.0));
    assert_eq!(world.gone, ids[..1], "a set becomes empty only by word");
    assert!(world.doubt.suspended[&users()].contains("last instance"), "{:?}", world.doubt);
}

#[test]
fn a_kept_last_instance_goes_when_another_takes_its_place() {
    let mut world = World::warm();
    let old = world.grant("");
    world.pass(secs(30.0));
    assert_eq!(world.gone, []);
    let new = world.grant("");
    world.pass_beating(secs(1.0), &[new]);
    assert_eq!(world.gone, [old]);
    assert_eq!(world.doubt, Doubt::default());
}

#[test]
fn losing_more_than_the_believed_share_at_once_suspends_expiry() {
    let mut world = World::warm();
    let ids = world.grant_many(10);
    for id in &ids[..4] {
        world.break_stream(*id);
    }
    world.pass_beating(secs(60.0), &ids[4..]);
    assert_eq!(world.gone, []);
    assert!(world.doubt.suspended[&users()].contains("4 of 10"), "{:?}", world.doubt);
    world.beat(&ids[..1], STREAM); // one comes back: three of ten are believed
    world.pass_beating(secs(1.0), &ids[4..]);
    assert_eq!(world.gone.len(), 3);
    assert_eq!(world.doubt, Doubt::default());
}

#[test]
fn losses_that_trickle_within_one_ttl_count_together() {
    let mut world = World::warm();
    let ids = world.grant_many(6);
    for lost in 0..5 {
        world.break_stream(ids[lost]);
        let alive: Vec<_> = ids[lost + 1..].to_vec();
        world.pass_beating(secs(1.0), &alive);
        // Beats moved everyone to one stream; give each its own again, so that one can break.
        for (n, id) in alive.iter().enumerate() {
            world.beat(&[*id], StreamId(100 + n as u64));
        }
    }
    world.pass_beating(secs(10.0), &ids[5..]);
    assert!(world.gone.len() <= 2, "{:?}", world.gone);
    assert!(!world.doubt.suspended.is_empty());
}

#[test]
fn zones_are_judged_apart() {
    let mut world = World::warm();
    let east: Vec<_> = (0..4).map(|_| world.grant("east")).collect();
    let west: Vec<_> = (0..4).map(|_| world.grant("west")).collect();
    east.iter().for_each(|id| world.break_stream(*id));
    world.break_stream(west[0]);
    world.pass_beating(secs(6.0), &west[1..]);
    assert_eq!(world.gone, west[..1], "one of four in the west is believed, four of four in the east are not");
}

#[test]
fn a_loss_made_good_by_new_registrations_is_believed() {
    let mut world = World::warm();
    let old = world.grant_many(4);
    old.iter().for_each(|id| world.break_stream(*id));
    world.pass(secs(1.0));
    let new = world.grant_many(4);
    world.pass_beating(secs(5.0), &new);
    assert_eq!(world.gone.len(), 4);
}

#[test]
fn nothing_expires_after_a_start_until_everyone_had_a_chance_to_beat() {
    let mut world = World::cold();
    let ids = world.grant_many(2);
    ids.iter().for_each(|id| world.break_stream(*id));
    world.pass(secs(19.0));
    assert_eq!(world.gone, []);
    assert!(world.doubt.frozen.is_some());
    world.pass(secs(2.0));
    assert_eq!(world.gone.len(), 1, "the last one stays");
    assert_eq!(world.doubt.frozen, None);
}

#[test]
fn a_clock_jump_freezes_expiry() {
    for (by_clock, by_wall) in [(30.0, 30.0), (0.2, 3600.0)] {
        let mut world = World::warm();
        let ids = world.grant_many(3);
        (world.now, world.wall) = (world.now + secs(by_clock), world.wall + secs(by_wall));
        world.look();
        assert!(world.doubt.frozen.is_some(), "{by_clock} {by_wall}");
        world.pass_beating(secs(60.0), &ids);
        assert_eq!(world.gone, []);
    }
}

#[test]
fn a_beat_for_a_lease_that_is_on_its_way_out_is_gone() {
    let mut world = World::warm();
    let ids = world.grant_many(2);
    world.break_stream(ids[0]);
    world.now += secs(5.2);
    world.leases.looked = (world.now, world.wall); // no clock jump: the catalog looked in between
    let (ended, _) = world.leases.expire(world.now, world.wall, &|_| 2);
    assert_eq!(ended.len(), 1);
    assert_eq!(world.leases.renew(ids[0], STREAM, world.now), Renewal::Gone);
    world.leases.expiry_failed();
    assert_eq!(world.leases.renew(ids[0], STREAM, world.now), Renewal::Renewed);
}

#[test]
fn a_zone_that_nobody_is_in_is_forgotten() {
    let mut world = World::warm();
    let stays = world.grant("stays");
    for zone in 0..100 {
        let id = world.grant(&zone.to_string());
        match zone % 3 {
            0 => world.leases.apply(LeaseChange::Ended { id, why: RemovalReason::Deregistered }, world.now),
            1 => world.leases.withdraw(&id),
            _ => world.move_to("stays", id),
        }
    }
    assert_eq!((world.leases.groups.len(), world.leases.vacant.len()), (1, 0));
    assert!(world.leases.groups.values().all(|it| it.ids.contains(&stays) && it.ids.len() == 34));
}

#[test]
fn what_a_zone_lost_counts_for_one_ttl_after_everyone_left_it() {
    let mut world = World::warm();
    let west: Vec<_> = (0..3).map(|_| world.grant("west")).collect();
    let mut east: Vec<_> = (0..2).map(|_| world.grant("east")).collect();
    east.iter().for_each(|id| world.break_stream(*id));
    world.pass_beating(secs(6.0), &west);
    assert_eq!(world.gone, east);
    east.push(world.grant("east"));
    world.break_stream(east[2]);
    world.pass_beating(secs(6.0), &west);
    assert_eq!(world.gone, east[..2], "three losses within one ttl are not believed: {:?}", world.doubt);
    world.pass_beating(secs(10.0), &west);
    assert_eq!(world.gone, east, "the first two are longer ago");
    assert_eq!(world.leases.groups.len(), 2);
    world.pass_beating(secs(16.0), &west);
    assert_eq!((world.leases.groups.len(), world.leases.vacant.len()), (1, 0));
}

#[test]
fn only_so_many_zones_are_remembered_for_their_losses() {
    let mut leases = Leases::new(Instant::now(), SystemTime::UNIX_EPOCH);
    let now = leases.began;
    for number in 0..=VACANT {
        let id = InstanceId::from_bytes((number as u128 + 1).to_be_bytes());
        let (epoch, ttl, zone) = (Epoch(1), LeaseTtl::DEFAULT, number.to_string());
        leases.apply(LeaseChange::Granted { id, epoch, ttl, service: users(), zone }, now);
        leases.apply(LeaseChange::Ended { id, why: RemovalReason::Expired }, now);
    }
    assert_eq!((leases.groups.len(), leases.vacant.len()), (VACANT, VACANT));
}

#[test]
fn a_lease_is_small() {
    assert!(size_of::<Lease>() <= 56);
}
