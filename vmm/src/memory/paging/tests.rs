//! Pages of an image, without a guest.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::table::{Noted, Table};
use super::uffd::Userfaultfd;
use super::*;
use crate::memory::{Mapping, PAGE, RunsVcpu, sigbus, vcpu_threads};

/// A page source whose bytes name their page, which can be held up, and which has
/// no page beyond `end`.
struct Numbered {
    open: Mutex<bool>,
    opened: Condvar,
    reads: AtomicU64,
    end: u64,
}

impl Numbered {
    fn new(open: bool, end: u64) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::new(open),
            opened: Condvar::new(),
            reads: AtomicU64::new(0),
            end,
        })
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

impl PageSource for Numbered {
    fn read_page(&self, offset: u64, page: &mut [u8; PAGE as usize]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
        if offset >= self.end {
            return Err(io::Error::other("no such page"));
        }
        page.fill((offset / PAGE) as u8 + 1);
        Ok(())
    }
}

/// A pager, or `None` where userfaultfd cannot be had.
fn pager(source: Arc<Numbered>) -> Option<Arc<Pager>> {
    tried(Pager::new(source))
}

fn tried(pager: Result<Arc<Pager>, PagingError>) -> Option<Arc<Pager>> {
    match pager {
        Ok(pager) => Some(pager),
        Err(error @ PagingError::NotAllowed { .. }) => {
            crate::memory::not_tried("GRACEFAULT_REQUIRE_UFFD", &error);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn byte(mapping: &Mapping, at: u64) -> u8 {
    let mut byte = [0];
    mapping.read(at, &mut byte).unwrap();
    byte[0]
}

#[test]
fn each_page_is_the_image_s_and_is_read_once() {
    let source = Numbered::new(true, u64::MAX);
    let Some(pager) = pager(source.clone()) else {
        return;
    };
    let one = pager.map(8 * PAGE, 4 * PAGE).unwrap();
    let two = pager.map(0, 2 * PAGE).unwrap();
    for _ in 0..2 {
        assert_eq!(
            [0, 1, 2, 3].map(|n| byte(&one, n * PAGE + n)),
            [9, 10, 11, 12]
        );
        assert_eq!([0, 1].map(|n| byte(&two, n * PAGE)), [1, 2]);
    }
    assert_eq!(source.reads.load(Ordering::SeqCst), 6);
    assert_eq!(
        pager.counts(),
        PagerCounts {
            served: 6,
            failed: 0
        }
    );
    one.write(0, &[0xee]).unwrap();
    assert_eq!(byte(&one, 0), 0xee);
    one.unmap().unwrap();
    let again = pager.map(8 * PAGE, PAGE).unwrap();
    assert_eq!(byte(&again, 0), 9);
}

#[test]
fn many_threads_at_one_page_all_get_it() {
    let source = Numbered::new(false, u64::MAX);
    let Some(pager) = pager(source.clone()) else {
        return;
    };
    let mapping = pager.map(0, 4 * PAGE).unwrap();
    thread::scope(|scope| {
        for n in 0..16 {
            let mapping = &mapping;
            scope.spawn(move || assert_eq!(byte(mapping, n % 4 * PAGE), (n % 4) as u8 + 1));
        }
        while source.reads.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        source.open();
    });
}

const START: u64 = 1 << 40;

/// Its addresses can become another region's only when no handler is at it.
#[test]
fn a_region_goes_when_no_handler_is_at_it() {
    let table = Table::default();
    table.insert(START, 2 * PAGE, 0);
    for page in [PAGE, 0] {
        assert_eq!(table.note(START + page, 1), Noted::Done);
    }
    let (serving, more) = table.next().unwrap();
    assert_eq!((serving.offset, more), (PAGE, true));
    thread::scope(|scope| {
        let removal = scope.spawn(|| table.remove(START));
        // The page that no handler was at goes at once.
        while table.next().is_some() {
            table.note(START, 1);
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(20));
        assert!(!removal.is_finished(), "a handler is at it");
        drop(serving);
    });
    assert_eq!(table.note(START, 1), Noted::Done);
    assert!(table.next().is_none());
}

#[test]
fn a_page_is_brought_once_for_all_who_touch_it() {
    let table = Table::default();
    table.insert(START, 100 * PAGE, 0);
    let at = START + 70 * PAGE;
    for thread in [1, 2, 1] {
        assert_eq!(table.note(at, thread), Noted::Done);
    }
    let (serving, more) = table.next().unwrap();
    assert_eq!((serving.addr, more), (at, false));
    // A third comes while a handler is at it: that is no other handler's business.
    assert_eq!(table.note(at, 3), Noted::Done);
    assert!(table.next().is_none());
    serving.is_there();
    assert_eq!(table.note(at, 4), Noted::There);
    drop(serving);
    assert_eq!(table.note(at, 4), Noted::There);
    // One that was not brought is, at the next touch.
    table.note(at + PAGE, 1);
    drop(table.next().unwrap());
    table.note(at + PAGE, 1);
    assert!(table.next().is_some());
    // Not so in a region that takes its place.
    table.remove(START);
    table.insert(START, 100 * PAGE, 0);
    table.note(at, 1);
    assert!(table.next().is_some());
}

/// Who waits until KVM can go on waits for vCPUs, and for what was there when it began.
#[test]
fn waiting_for_pages_is_for_those_of_vcpus_and_of_a_range() {
    let table = Table::default();
    table.insert(START, 100 * PAGE, 0);
    let is_free = |range| table.wait_served(table.faults(), range, Instant::now());
    assert!(is_free(0..u64::MAX));
    // A thread that runs none: only where it would be unmapped under the handler.
    table.note(START, -1);
    assert!(is_free(0..0) && is_free(START + PAGE..u64::MAX));
    assert!(!is_free(START..START + PAGE));
    // One that runs one, and sleeps for the same page, and then for another.
    let runs = RunsVcpu::here();
    let here = vcpu_threads::this_thread();
    table.note(START, here);
    assert!(!is_free(0..0));
    // The first comes, and meanwhile the vCPU has touched another, which does not count.
    let before = table.faults();
    table.note(START + PAGE, here);
    let is_served = || table.wait_served(before, 0..0, Instant::now());
    assert!(!is_served());
    drop(table.next().unwrap());
    assert!(is_served());
    assert!(!is_free(0..0));
    // It has ended, and its page is nobody's.
    drop(runs);
    assert!(is_free(0..0));
}

/// A page that takes long does not hold up others, however many sleep for it.
#[test]
fn sleepers_at_one_page_take_one_handler() {
    struct OneSlow(Arc<Numbered>);
    impl PageSource for OneSlow {
        fn read_page(&self, offset: u64, page: &mut [u8; PAGE as usize]) -> io::Result<()> {
            match offset {
                0 => self.0.read_page(offset, page),
                _ => {
                    page.fill(9);
                    Ok(())
                }
            }
        }
    }
    let slow = Numbered::new(false, u64::MAX);
    let Some(pager) = tried(Pager::new(Arc::new(OneSlow(slow.clone())))) else {
        return;
    };
    let mapping = pager.map(0, 8 * PAGE).unwrap();
    thread::scope(|scope| {
        let mapping = &mapping;
        for _ in 0..8 {
            scope.spawn(move || assert_eq!(byte(mapping, 0), 1));
        }
        // All of them sleep, or will: none can have the page.
        thread::sleep(Duration::from_millis(50));
        for page in 1..8 {
            assert_eq!(byte(mapping, page * PAGE), 9);
        }
        assert_eq!(slow.reads.load(Ordering::SeqCst), 1);
        slow.open();
    });
}

/// A source that does not do what it should.
struct Panics;

impl PageSource for Panics {
    fn read_page(&self, offset: u64, page: &mut [u8; PAGE as usize]) -> io::Result<()> {
        assert!(offset != 0, "as the test wants it");
        page.fill(7);
        Ok(())
    }
}

#[test]
fn a_source_that_panics_has_failed_and_goes_on() {
    sigbus::install().unwrap();
    let Some(pager) = tried(Pager::new(Arc::new(Panics))) else {
        return;
    };
    // More often than there are handlers.
    let maps: Vec<_> = (0..9).map(|_| pager.map(0, 2 * PAGE).unwrap()).collect();
    for mapping in &maps {
        mapping.read(0, &mut [0; 8]).unwrap_err();
        assert_eq!(byte(mapping, PAGE), 7);
    }
}

#[test]
fn an_image_that_cannot_be_read_is_an_error_and_nobody_hangs() {
    sigbus::install().unwrap();
    let Some(pager) = pager(Numbered::new(true, PAGE)) else {
        return;
    };
    let mapping = pager.map(0, 3 * PAGE).unwrap();
    assert_eq!(byte(&mapping, 0), 1);
    // And the second touch is one as the first, whichever way.
    for page in [1, 2, 1, 2] {
        let mut bytes = [0; 8];
        mapping.read(page * PAGE, &mut bytes).unwrap_err();
        mapping.write(page * PAGE, &bytes).unwrap_err();
    }
    assert_eq!(
        pager.counts(),
        PagerCounts {
            served: 1,
            failed: 2
        }
    );
    assert_eq!(byte(&mapping, 0), 1);
    mapping.unmap().unwrap();
}

#[test]
fn who_may_not_have_it_is_told_what_to_do() {
    let refuse = |code| move || Err(io::Error::from_raw_os_error(code));
    let error = Userfaultfd::open_by(refuse(libc::EPERM), refuse(libc::ENOENT)).unwrap_err();
    let text = error.to_string();
    for word in [
        "/dev/userfaultfd",
        "CAP_SYS_PTRACE",
        "vm.unprivileged_userfaultfd=1",
        "No such file",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn dropping_everything_ends_the_handlers() {
    let source = Numbered::new(true, u64::MAX);
    let Some(pager) = pager(source.clone()) else {
        return;
    };
    let mapping = pager.map(0, PAGE).unwrap();
    drop(pager);
    // The mapping keeps it.
    assert_eq!(byte(&mapping, 0), 1);
    drop(mapping);
    assert_eq!(Arc::strong_count(&source), 1);
}
