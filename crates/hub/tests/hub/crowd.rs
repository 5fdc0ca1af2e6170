//! Searches among so many connections that it takes long to move them all after every turn.

use ringway_hub::{Findings, Roll, Selection};

use crate::{
    rig::{Rig, Setting},
    roll::{find, of_topic, page, slots},
};

#[test]
fn a_search_for_few_among_many_takes_as_many_turns_as_there_are_many() {
    let mut rig = Rig::new(Setting::PLAIN);
    for slot in 0..8_200 {
        rig.connect(0, slot, if slot == 8_100 { "/ws/b" } else { "/ws/a" });
    }
    let of_address =
        Selection { address: Some(([10, 0, 0, 1].into(), None)), ..Selection::default() };
    let (found, turns) = find(&mut rig, 0, page(of_address, None, 10));
    assert_eq!((found, turns), (Findings::Connections(Roll::default()), 2));
    let (found, turns) = find(&mut rig, 0, page(of_topic("b"), None, 10));
    assert!(matches!(found, Findings::Connections(roll) if slots(&roll) == [8_100]));
    assert_eq!(turns, 1, "only the topic's subscribers are visited");
}
