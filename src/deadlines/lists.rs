//! Lists that one can leave from anywhere in them.

/// How many lists there are; they come round after so many. More than there are spans in a limit.
const COUNT: usize = 128;

/// Everybody is in one list at most. Each list is a ring of nodes that begins and ends at a node of its
/// own; those are the first nodes, and the others are the keys'.
#[derive(Debug)]
pub(super) struct Lists {
    nodes: Vec<Node>,
    /// Which lists have somebody in them, a bit for each.
    occupied: u128,
}

/// The neighbours in the list; a node itself where it is alone, or in none.
#[derive(Debug, Clone, Copy)]
struct Node {
    previous: u32,
    next: u32,
}

impl Default for Lists {
    fn default() -> Self {
        let mut lists = Lists {
            nodes: Vec::new(),
            occupied: 0,
        };
        lists.make_room_for(COUNT - 1);
        lists
    }
}

impl Lists {
    /// The number, from the first one on, of the last list that is not the first again.
    pub(super) const LAST: u64 = COUNT as u64 - 1;

    /// Puts somebody at the end of the list with this number, and out of any other.
    pub(super) fn put(&mut self, key: usize, number: u64) {
        self.make_room_for(COUNT + key);
        self.remove(key);
        let (node, list) = (COUNT + key, index(number));
        let end = self.nodes[list].previous as usize;
        self.join(end, node);
        self.join(node, list);
        self.occupied |= 1 << list;
    }

    pub(super) fn remove(&mut self, key: usize) {
        let node = COUNT + key;
        let Some(&Node { previous, next }) = self.nodes.get(node) else {
            return;
        };
        self.join(previous as usize, next as usize);
        self.join(node, node);
        // Only a list's own node is its own neighbour on both sides.
        let next = next as usize;
        if previous as usize == next && next < COUNT {
            self.occupied &= !(1 << next);
        }
    }

    /// Takes the first out of the list with this number.
    pub(super) fn take(&mut self, number: u64) -> Option<usize> {
        let first = self.nodes[index(number)].next as usize;
        let key = first.checked_sub(COUNT)?;
        self.remove(key);
        Some(key)
    }

    pub(super) fn contain(&self, key: usize) -> bool {
        let node = COUNT + key;
        self.nodes
            .get(node)
            .is_some_and(|it| it.next as usize != node)
    }

    /// The number of the first list, from this one on, that somebody is in.
    pub(super) fn first_from(&self, number: u64) -> Option<u64> {
        let ahead = self.occupied.rotate_right(short(index(number)));
        (ahead != 0).then(|| number + u64::from(ahead.trailing_zeros()))
    }

    fn join(&mut self, previous: usize, next: usize) {
        self.nodes[previous].next = short(next);
        self.nodes[next].previous = short(previous);
    }

    fn make_room_for(&mut self, node: usize) {
        let alone = |node: usize| Node {
            previous: short(node),
            next: short(node),
        };
        self.nodes.extend((self.nodes.len()..=node).map(alone));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
fn index(number: u64) -> usize {
    (number % COUNT as u64) as usize
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "there are a billion connections at the most"
)]
fn short(node: usize) -> u32 {
    node as u32
}
