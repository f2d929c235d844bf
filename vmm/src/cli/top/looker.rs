//! The thread that looks at the VM, so that one that does not answer does not keep the
//! keys from working.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use gracefault::api::model::Live;
use gracefault::api::{Client, ClientError};

/// How long a look may take before that is said.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is told to the thread.
enum Told {
    /// The time from one look to the next.
    Delay(Duration),
    /// To look now.
    Now,
}

/// Looks at the VM now and then. The thread ends soon after this is dropped.
pub(super) struct Looker {
    tell: Sender<Told>,
    looks: Receiver<Result<Box<Live>, ClientError>>,
}

/// A client for one look, or many.
pub(super) fn client(socket: &Path) -> std::io::Result<Client> {
    Ok(Client::new(socket)?.with_patience(PATIENCE))
}

impl Looker {
    /// Begins to look; the first time after `delay`.
    pub(super) fn start(client: Client, delay: Duration) -> std::io::Result<Self> {
        let (tell, told) = mpsc::channel();
        let (put, looks) = mpsc::channel();
        let look = move || run(&client, delay, &told, &put);
        thread::Builder::new()
            .name("looker".to_owned())
            .spawn(look)?;
        Ok(Self { tell, looks })
    }

    /// Another time from one look to the next, from now on.
    pub(super) fn set_delay(&self, delay: Duration) {
        let _ = self.tell.send(Told::Delay(delay));
    }

    /// Looks as soon as it can.
    pub(super) fn look_now(&self) {
        let _ = self.tell.send(Told::Now);
    }

    /// The next look that has been taken, if there is one.
    pub(super) fn next(&self) -> Option<Result<Box<Live>, ClientError>> {
        self.looks.try_recv().ok()
    }
}

fn run(
    client: &Client,
    mut delay: Duration,
    told: &Receiver<Told>,
    put: &Sender<Result<Box<Live>, ClientError>>,
) {
    loop {
        match told.recv_timeout(delay) {
            Ok(Told::Delay(new)) => {
                delay = new;
                continue;
            }
            Ok(Told::Now) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if put.send(client.live(None).map(Box::new)).is_err() {
            return;
        }
    }
}
