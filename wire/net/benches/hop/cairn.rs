//! Two hosts on loopback. Each end builds the frame that it sends, as a stage does.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use cairn_net::{Config, CreditGuard, Event, Identity, Mdns, Net, Secret, Thread, start};
use cairn_wire::data::Rows;
use cairn_wire::id::{BootId, NodeId};
use cairn_wire::{DataFrame, RowsFrame};

use crate::{Contender, rows};

/// What both ends send.
struct Template {
    rows: Rows,
    payload: Vec<f32>,
}

impl Template {
    fn new(kib: usize) -> Self {
        let (rows, payload) = rows(kib);
        Self { rows, payload }
    }

    fn frame(&self) -> DataFrame {
        DataFrame::Rows(RowsFrame::build(&self.rows, &self.payload))
    }

    fn check(&self, frame: &DataFrame) {
        let DataFrame::Rows(rows) = frame else {
            panic!("rows were answered with something else");
        };
        assert_eq!(rows.payload().len(), self.payload.len());
    }
}

/// From a thread that computes to another such and back: what a stage waits for.
pub(crate) struct Callers {
    near: Net,
    far: NodeId,
    arrived: Receiver<Arrived>,
    template: Template,
}

struct Arrived {
    peer: NodeId,
    frame: DataFrame,
    _guard: CreditGuard,
}

impl Callers {
    pub(crate) fn new(kib: usize) -> Self {
        let (near_linked, linked) = channel();
        let (near, arrived) = queued(1, near_linked);
        let (far_linked, _) = channel();
        let (far, far_arrived) = queued(2, far_linked);
        let (id, address) = (far.id(), far.listening()[0]);
        let template = Template::new(kib);
        std::thread::spawn(move || {
            while let Ok(Arrived { peer, frame, .. }) = far_arrived.recv() {
                template.check(&frame);
                far.offer(peer, template.frame())
                    .expect("one frame is under way");
            }
        });
        near.dial(address, Some(id));
        linked.recv().expect("the two link");
        Self {
            near,
            far: id,
            arrived,
            template: Template::new(kib),
        }
    }
}

impl Contender for Callers {
    fn round_trips(&mut self, count: usize) -> Vec<Duration> {
        (0..count)
            .map(|_| {
                let begun = Instant::now();
                self.near
                    .offer(self.far, self.template.frame())
                    .expect("one frame is under way");
                let Arrived { frame, .. } = self.arrived.recv().expect("the far end answers");
                self.template.check(&frame);
                begun.elapsed()
            })
            .collect()
    }
}

/// From one network thread to another and back: the sink answers by itself.
pub(crate) struct Threads {
    near: Arc<OnceLock<Net>>,
    _far: Arc<OnceLock<Net>>,
    far: NodeId,
    job: Arc<Mutex<Job>>,
    done: Receiver<Vec<Duration>>,
}

/// Round trips that the near end still has to make.
struct Job {
    template: Template,
    begun: Instant,
    took: Vec<Duration>,
    count: usize,
}

impl Threads {
    pub(crate) fn new(kib: usize) -> Self {
        let (near, far): (Arc<OnceLock<Net>>, Arc<OnceLock<Net>>) = Default::default();
        let job = Arc::new(Mutex::new(Job {
            template: Template::new(kib),
            begun: Instant::now(),
            took: Vec::new(),
            count: 0,
        }));
        let (hand_in, done) = channel();
        let (linked, is_linked) = channel();
        let (own, own_job) = (Arc::clone(&near), Arc::clone(&job));
        let near_net = host(1, move |event| match event {
            Event::Connected { .. } => linked.send(()).expect("the bench waits for it"),
            Event::Data { peer, frame, .. } => {
                let net = own.get().expect("set before anybody dials");
                let mut job = own_job.lock().expect("no panic");
                if let Some(took) = job.step(net, peer, &frame) {
                    hand_in.send(took).expect("the bench waits for it");
                }
            }
            _ => {}
        });
        let echo = Arc::clone(&far);
        let template = Template::new(kib);
        let far_net = host(2, move |event| {
            if let Event::Data { peer, frame, .. } = event {
                template.check(&frame);
                let net = echo.get().expect("set before anybody dials");
                net.offer(peer, template.frame())
                    .expect("one frame is under way");
            }
        });
        let (id, address) = (far_net.id(), far_net.listening()[0]);
        assert!(near.set(near_net).is_ok() && far.set(far_net).is_ok());
        near.get().expect("just set").dial(address, Some(id));
        is_linked.recv().expect("the two link");
        Self {
            near,
            _far: far,
            far: id,
            job,
            done,
        }
    }
}

impl Contender for Threads {
    fn round_trips(&mut self, count: usize) -> Vec<Duration> {
        let frame = {
            let mut job = self.job.lock().expect("no panic");
            job.begun = Instant::now();
            // The first is sent from here and is not counted.
            job.count = count + 1;
            job.template.frame()
        };
        let near = self.near.get().expect("set in new()");
        near.offer(self.far, frame).expect("one frame is under way");
        let mut took = self.done.recv().expect("the far end answers");
        took.remove(0);
        took
    }
}

impl Job {
    /// Takes a frame that came back, and sends the next or hands in the times.
    fn step(&mut self, net: &Net, peer: NodeId, frame: &DataFrame) -> Option<Vec<Duration>> {
        self.template.check(frame);
        self.took.push(self.begun.elapsed());
        if self.took.len() == self.count {
            return Some(std::mem::take(&mut self.took));
        }
        self.begun = Instant::now();
        net.offer(peer, self.template.frame())
            .expect("one frame is under way");
        None
    }
}

/// A host whose frames wait for whoever asks.
fn queued(number: u8, linked: Sender<()>) -> (Net, Receiver<Arrived>) {
    let (arrive, arrived) = channel();
    let net = host(number, move |event| match event {
        // Only one end waits for the link.
        Event::Connected { .. } => drop(linked.send(())),
        Event::Data { peer, frame, guard } => {
            let arrival = Arrived {
                peer,
                frame,
                _guard: guard,
            };
            // The bench may be over.
            drop(arrive.send(arrival));
        }
        _ => {}
    });
    (net, arrived)
}

fn host(number: u8, sink: impl Fn(Event) + Send + Sync + 'static) -> Net {
    let config = Config {
        identity: Identity::from_seed([number; 32]),
        boot: BootId(1),
        cluster: "bench".to_owned(),
        secret: Secret::from_bytes(*b"bench"),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        mdns: Mdns::Off,
        version: "bench".to_owned(),
    };
    let thread = Thread::start(|| ()).expect("a thread");
    start(thread, config, Arc::new(sink)).expect("loopback can be listened on")
}
