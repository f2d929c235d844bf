//! What others read in an entry.

use loom::sync::Arc;
use loom::thread;

use crate::mm::entry::{Entry, State};

/// Who asks who holds an address is not told of a hold of one address and a walk to the
/// next as of a hold of the next.
#[test]
fn a_hold_is_not_told_with_the_address_of_a_later_walk() {
    loom::model(|| {
        let entry = Arc::new(Entry::new());
        let reader = thread::spawn({
            let entry = entry.clone();
            move || {
                entry.walk(1);
                entry.hold();
                entry.clear();
                entry.walk(2);
                entry.clear();
            }
        });
        let (state, addr) = entry.load_whole();
        assert!((state, addr) != (State::Hold, 2), "{addr} was never held");
        reader.join().unwrap();
    });
}
