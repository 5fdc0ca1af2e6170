//! Queues on one thread counted by hand, and three threads that post, take and park for real.
#![expect(clippy::disallowed_methods, reason = "threads are what the queues are between")]

use std::thread;

use super::*;

/// Members that all have room for four letters from each other.
fn members(count: u16) -> Vec<Endpoint<u32>> {
    join(count, |_, _| 4)
}

/// Posts each letter and forgets whom to wake.
fn post_all(endpoint: &mut Endpoint<u32>, to: u16, letters: &[u32]) {
    for letter in letters {
        endpoint.post(Member(to), *letter, 0).expect("there is room");
    }
    while endpoint.poll_wake().is_some() {}
}

/// Who the next letter is from, and what it is.
fn next(endpoint: &mut Endpoint<u32>) -> Option<(u16, u32)> {
    endpoint.take().map(|delivery| (delivery.from.0, delivery.letter))
}

#[test]
fn an_element_is_the_letter_and_its_stamp() {
    assert_eq!(size_of::<Posted<[u64; 2]>>(), 24);
}

#[test]
fn the_memory_of_a_member_is_that_of_the_queues_to_it() {
    // Two queues of 8 elements of 24 bytes, each with the stamp of its slot, and what stands
    // beside the slots: four places alone on 128 bytes, and one of the queue's own numbers.
    let endpoints = join::<[u64; 2]>(3, |_, to| if to == Member(0) { 8 } else { 1 });
    assert_eq!(endpoints[0].memory_bytes(), 2 * (8 * 32 + 5 * 128));
    assert_eq!(endpoints[1].memory_bytes(), 2 * (32 + 5 * 128));
}

#[test]
fn an_endpoint_goes_to_another_thread_when_its_letters_do() {
    fn is_send<T: Send>() {}
    is_send::<Endpoint<Box<u32>>>();
}

#[test]
fn an_endpoint_knows_its_place() {
    let endpoints = join::<u32>(3, |from, to| usize::from(10 * from.0 + to.0));
    let last = &endpoints[2];
    assert_eq!((last.member(), last.members()), (Member(2), 3));
    assert_eq!([0, 1, 2, 3].map(|to| last.room(Member(to))), [20, 21, 0, 0]);
    assert_eq!([0, 1, 2, 3].map(|from| last.letters_max(Member(from))), [2, 12, 0, 0]);
    assert_eq!(format!("{last:?}"), "Endpoint { member: Member(2), members: 3, .. }");
}

#[test]
fn letters_of_one_member_arrive_in_order_with_their_stamps() {
    let mut endpoints = members(2);
    endpoints[0].post(Member(1), 7, 100).unwrap();
    endpoints[0].post(Member(1), 8, 101).unwrap();
    assert_eq!(endpoints[1].waiting(), 2);
    let expected = |letter, posted_at| Some(Delivery { from: Member(0), letter, posted_at });
    assert_eq!(endpoints[1].take(), expected(7, 100));
    assert_eq!(endpoints[1].waiting(), 1);
    assert_eq!(endpoints[1].take(), expected(8, 101));
    assert_eq!(endpoints[1].take(), None);
    assert_eq!(endpoints[1].waiting(), 0);
}

#[test]
fn a_full_queue_gives_the_letter_back_and_has_room_again_when_one_is_taken() {
    let mut endpoints = join(2, |_, _| 2);
    post_all(&mut endpoints[0], 1, &[1, 2]);
    assert_eq!(endpoints[0].room(Member(1)), 0);
    assert_eq!(endpoints[0].post(Member(1), 3, 0), Err(Full(3)));
    assert_eq!(next(&mut endpoints[1]), Some((0, 1)));
    assert_eq!(endpoints[0].room(Member(1)), 1);
    assert_eq!(endpoints[0].post(Member(1), 3, 0), Ok(()));
    assert_eq!(endpoints[0].post(Member(1), 4, 0), Err(Full(4)));
    assert_eq!(next(&mut endpoints[1]), Some((0, 2)));
    assert_eq!(next(&mut endpoints[1]), Some((0, 3)));
    assert_eq!(next(&mut endpoints[1]), None);
}

#[test]
fn a_letter_to_oneself_to_nobody_or_where_no_queue_is_comes_back() {
    let mut endpoints = join(3, |from, to| usize::from(from.0 + to.0 != 2));
    assert_eq!(endpoints[0].post(Member(0), 1, 0), Err(Full(1)));
    assert_eq!(endpoints[0].post(Member(2), 2, 0), Err(Full(2)));
    assert_eq!(endpoints[0].post(Member(3), 3, 0), Err(Full(3)));
    assert_eq!(endpoints[0].post(Member(1), 4, 0), Ok(()));
    assert!(endpoints[0].poll_wake().is_none());
}

#[test]
fn a_letter_to_all_goes_to_nobody_while_one_has_no_room() {
    let mut endpoints = members(3);
    let to_all = |endpoint: &mut Endpoint<u32>, letter| {
        let others = [Member(1), Member(2)];
        let has_room = others.iter().all(|to| endpoint.room(*to) > 0);
        for to in others.iter().filter(|_| has_room) {
            endpoint.post(*to, letter, 0).unwrap();
        }
        has_room
    };
    post_all(&mut endpoints[0], 2, &[0, 0, 0]);
    assert!(to_all(&mut endpoints[0], 1));
    assert!(!to_all(&mut endpoints[0], 2));
    assert_eq!(endpoints[1].waiting(), 1);
    assert_eq!(next(&mut endpoints[2]), Some((0, 0)));
    assert!(to_all(&mut endpoints[0], 3));
    assert_eq!(next(&mut endpoints[1]), Some((0, 1)));
    assert_eq!(next(&mut endpoints[1]), Some((0, 3)));
    assert_eq!(next(&mut endpoints[1]), None);
}

#[test]
fn letters_are_taken_from_one_sender_after_the_other() {
    let mut endpoints = members(4);
    post_all(&mut endpoints[0], 3, &[1, 2, 3]);
    post_all(&mut endpoints[1], 3, &[11]);
    post_all(&mut endpoints[2], 3, &[21, 22]);
    let taken: Vec<_> = std::iter::from_fn(|| next(&mut endpoints[3])).collect();
    assert_eq!(taken, [(0, 1), (1, 11), (2, 21), (0, 2), (2, 22), (0, 3)]);
}

#[test]
fn a_sender_that_always_has_mail_does_not_hold_up_another() {
    let mut endpoints = members(3);
    post_all(&mut endpoints[0], 2, &[0, 1, 2]);
    assert_eq!(next(&mut endpoints[2]), Some((0, 0)));
    post_all(&mut endpoints[1], 2, &[100]);
    post_all(&mut endpoints[0], 2, &[3, 4]);
    let before = std::iter::from_fn(|| next(&mut endpoints[2])).take_while(|next| next.0 != 1);
    assert!(before.count() <= 2);
}

#[test]
fn mail_is_found_beyond_the_first_word_of_senders() {
    let mut endpoints = members(131);
    for from in [0_u16, 63, 64, 127, 128, 130] {
        post_all(&mut endpoints[usize::from(from)], 5, &[u32::from(from)]);
    }
    let taken: Vec<_> = std::iter::from_fn(|| next(&mut endpoints[5])).collect();
    assert_eq!(taken, [(0, 0), (63, 63), (64, 64), (127, 127), (128, 128), (130, 130)]);
}

#[test]
fn only_who_is_parked_is_woken_and_once_per_parking() {
    let mut endpoints = members(4);
    assert!(endpoints[1].park());
    assert!(endpoints[3].park());
    for to in [1, 1, 2, 3] {
        endpoints[0].post(Member(to), 0, 0).unwrap();
    }
    assert_eq!(endpoints[0].poll_wake(), Some(Member(1)));
    assert_eq!(endpoints[0].poll_wake(), Some(Member(3)));
    assert_eq!(endpoints[0].poll_wake(), None);
    // A second batch, and another sender: the wake is under way already.
    endpoints[0].post(Member(1), 0, 0).unwrap();
    assert_eq!(endpoints[0].poll_wake(), None);
    endpoints[2].post(Member(1), 0, 0).unwrap();
    assert_eq!(endpoints[2].poll_wake(), None);
    while endpoints[1].take().is_some() {}
    assert!(endpoints[1].park());
    endpoints[0].post(Member(1), 0, 0).unwrap();
    assert_eq!(endpoints[0].poll_wake(), Some(Member(1)));
}

#[test]
fn a_member_with_letters_does_not_park() {
    let mut endpoints = members(2);
    post_all(&mut endpoints[0], 1, &[1]);
    assert!(!endpoints[1].park());
    // It is not parked: nobody wakes it.
    endpoints[0].post(Member(1), 2, 0).unwrap();
    assert_eq!(endpoints[0].poll_wake(), None);
    assert_eq!(next(&mut endpoints[1]), Some((0, 1)));
    assert!(!endpoints[1].park());
    assert_eq!(next(&mut endpoints[1]), Some((0, 2)));
    assert!(endpoints[1].park());
}

#[test]
fn a_member_that_goes_on_by_itself_is_not_woken() {
    let mut endpoints = members(2);
    assert!(endpoints[1].park());
    endpoints[1].unpark();
    endpoints[0].post(Member(1), 1, 0).unwrap();
    assert_eq!(endpoints[0].poll_wake(), None);
}

#[test]
fn posts_to_a_member_that_is_gone_go_on_until_full_and_wake_nobody() {
    let mut endpoints = join(2, |_, _| 2);
    let mut gone = endpoints.pop().unwrap();
    assert!(gone.park());
    drop(gone);
    assert_eq!(endpoints[0].post(Member(1), 1, 0), Ok(()));
    assert_eq!(endpoints[0].poll_wake(), None);
    assert_eq!(endpoints[0].post(Member(1), 2, 0), Ok(()));
    assert_eq!(endpoints[0].post(Member(1), 3, 0), Err(Full(3)));
}

#[test]
fn letters_of_a_member_that_is_gone_still_arrive() {
    let mut endpoints = members(2);
    post_all(&mut endpoints[1], 0, &[1, 2]);
    endpoints.truncate(1);
    assert_eq!(next(&mut endpoints[0]), Some((1, 1)));
    assert_eq!(next(&mut endpoints[0]), Some((1, 2)));
    assert!(endpoints[0].park());
}

#[test]
fn letters_that_nobody_takes_are_dropped_with_the_mesh() {
    let letter = Arc::new(());
    let mut endpoints = join(2, |_, _| 4);
    endpoints[0].post(Member(1), Arc::clone(&letter), 0).unwrap();
    endpoints[0].post(Member(1), Arc::clone(&letter), 0).unwrap();
    assert_eq!(Arc::strong_count(&letter), 3);
    drop(endpoints);
    assert_eq!(Arc::strong_count(&letter), 1);
}

/// Letters that each of three members posts to each other one.
const LETTERS: u32 = 100_000;
/// How far a member posts ahead of what it has heard from another. So a queue of twice as many is
/// never full, and members wait for letters, not for room.
const AHEAD: u32 = 4;

/// Posts and takes all letters of one member, parking whenever it can do neither.
fn exchange(endpoint: &mut Endpoint<u32>, wake: impl Fn(Member)) -> u32 {
    let own = endpoint.member();
    let others: Vec<Member> =
        (0..endpoint.members()).map(Member).filter(|other| *other != own).collect();
    let mut posted = [0; 3];
    let mut taken = [0; 3];
    let mut parkings = 0;
    while others.iter().any(|other| taken[usize::from(other.0)] < LETTERS) {
        for other in &others {
            let (posted, taken) = (&mut posted[usize::from(other.0)], taken[usize::from(other.0)]);
            while *posted < LETTERS.min(taken + AHEAD) {
                endpoint.post(*other, *posted, u64::from(*posted)).expect("there is room");
                *posted += 1;
            }
        }
        while let Some(member) = endpoint.poll_wake() {
            wake(member);
        }
        if let Some(Delivery { from, letter, posted_at }) = endpoint.take() {
            let expected = &mut taken[usize::from(from.0)];
            assert_eq!((letter, posted_at), (*expected, u64::from(*expected)));
            *expected += 1;
        } else if endpoint.park() {
            parkings += 1;
            thread::park();
            endpoint.unpark();
        }
    }
    assert_eq!((endpoint.take(), endpoint.waiting()), (None, 0));
    parkings
}

#[test]
fn three_members_on_threads_lose_no_letter_and_no_wake() {
    let mut endpoints = join(3, |_, _| 2 * AHEAD as usize);
    let mut third = endpoints.pop().unwrap();
    let mut second = endpoints.pop().unwrap();
    let mut first = endpoints.pop().unwrap();
    // Each thread knows the others before the first letter is posted.
    let (to_second, threads_of_second) = std::sync::mpsc::channel::<Vec<thread::Thread>>();
    let (to_third, threads_of_third) = std::sync::mpsc::channel::<Vec<thread::Thread>>();
    let run = |endpoint: &mut Endpoint<u32>, threads: Vec<thread::Thread>| {
        exchange(endpoint, |member| threads[usize::from(member.0)].unpark())
    };
    let parkings = thread::scope(|scope| {
        let second = scope.spawn(move || run(&mut second, threads_of_second.recv().unwrap()));
        let third = scope.spawn(move || run(&mut third, threads_of_third.recv().unwrap()));
        let threads = vec![thread::current(), second.thread().clone(), third.thread().clone()];
        to_second.send(threads.clone()).unwrap();
        to_third.send(threads.clone()).unwrap();
        let parkings = run(&mut first, threads);
        parkings + second.join().unwrap() + third.join().unwrap()
    });
    assert!(parkings > 0, "nobody ever waited: the test shows nothing");
}
