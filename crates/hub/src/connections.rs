//! What the hub knows of each open connection, by slot: 16 bytes, and more only for one with
//! several topics.

use worker::{ConnectionId, Slot, SlotSet};

use crate::topics::TopicIndex;

/// All connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    /// Grown to the highest slot that was ever open.
    records: Vec<Connection>,
    open: SlotSet,
}

/// One connection.
#[derive(Debug, Default)]
pub(crate) enum Connection {
    /// Nobody is there.
    #[default]
    Vacant,
    /// Its messages go back to it.
    Echo { generation: u32 },
    /// A subscriber of one topic.
    Single { generation: u32, own: bool, topic: TopicIndex },
    /// A subscriber of several.
    Several(Box<Several>),
}

const _: () = assert!(size_of::<Connection>() == 16, "there may be a million");

/// A subscriber of several topics, in the order in which it named them.
#[derive(Debug)]
pub(crate) struct Several {
    generation: u32,
    own: bool,
    topics: Box<[TopicIndex]>,
}

impl Connections {
    /// Every open connection.
    pub(crate) fn open(&self) -> &SlotSet {
        &self.open
    }

    pub(crate) fn get(&self, slot: Slot) -> &Connection {
        self.records.get(slot as usize).unwrap_or(&Connection::Vacant)
    }

    /// Whether this very connection is open, and not another one in its slot.
    pub(crate) fn is_open(&self, connection: ConnectionId) -> bool {
        let generation = match self.get(connection.slot) {
            Connection::Vacant => return false,
            Connection::Echo { generation } | Connection::Single { generation, .. } => *generation,
            Connection::Several(several) => several.generation,
        };
        generation == connection.generation
    }

    pub(crate) fn insert(&mut self, slot: Slot, connection: Connection) {
        let index = slot as usize;
        if index >= self.records.len() {
            self.records.resize_with(index + 1, Connection::default);
        }
        self.records[index] = connection;
        self.open.insert(slot);
    }

    /// Takes out what is known of a slot.
    pub(crate) fn remove(&mut self, slot: Slot) -> Connection {
        self.open.remove(slot);
        self.records.get_mut(slot as usize).map(std::mem::take).unwrap_or_default()
    }
}

impl Connection {
    /// A subscriber of at least one topic.
    pub(crate) fn subscriber(generation: u32, own: bool, topics: &[TopicIndex]) -> Self {
        match *topics {
            [topic] => Self::Single { generation, own, topic },
            _ => Self::Several(Box::new(Several { generation, own, topics: topics.into() })),
        }
    }

    /// Its topics; none of an echo.
    pub(crate) fn topics(&self) -> &[TopicIndex] {
        match self {
            Self::Vacant | Self::Echo { .. } => &[],
            Self::Single { topic, .. } => std::slice::from_ref(topic),
            Self::Several(several) => &several.topics,
        }
    }

    /// Whether it gets its own messages.
    pub(crate) fn own(&self) -> bool {
        match self {
            Self::Vacant | Self::Echo { .. } => true,
            Self::Single { own, .. } => *own,
            Self::Several(several) => several.own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::Topics;

    #[test]
    fn a_connection_is_open_until_it_is_removed_and_is_not_its_successor() {
        let mut connections = Connections::default();
        let id = |generation| ConnectionId { slot: 70, generation };
        assert!(!connections.is_open(id(0)));
        connections.insert(70, Connection::Echo { generation: 4 });
        assert!(connections.is_open(id(4)));
        assert!(!connections.is_open(id(5)));
        assert!(!connections.is_open(ConnectionId { slot: 69, generation: 0 }));
        assert_eq!(connections.open().iter().collect::<Vec<_>>(), [70]);
        connections.remove(70);
        assert!(!connections.is_open(id(4)));
        connections.insert(70, Connection::Echo { generation: 5 });
        assert!(!connections.is_open(id(4)));
        assert!(connections.is_open(id(5)));
    }

    #[test]
    fn topics_keep_the_order_in_which_they_were_named() {
        let mut topics = Topics::new(0);
        let [a, b] = ["a", "b"].map(|name| topics.subscribe(name, 0));
        let single = Connection::subscriber(1, false, &[b]);
        assert!(matches!(single, Connection::Single { .. }));
        assert_eq!((single.topics(), single.own()), (&[b][..], false));
        let several = Connection::subscriber(1, true, &[b, a]);
        assert_eq!((several.topics(), several.own()), (&[b, a][..], true));
        assert_eq!(Connection::Vacant.topics(), []);
    }
}
