//! What the tests of the control plane share: facts, and a mesh whose workers hold no connection
//! but answer letters as real ones do.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, http::Request as HttpRequest};
use hub::{
    Access as ClientAccess, Epoch, Findings, Inquiry, Interest, Letter, Receipt, Refused, Removal,
    Reply, Roll,
};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use mesh::{Endpoint, Member};
use rustix::event::{EventfdFlags, eventfd};
use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use wire::DataOpcode;
use worker::{Limits, Publication, Report, Waker};

use super::{
    Access, Control, Exit, Journal, Line, Supervisor,
    client_tokens::ClientTokens,
    guest::{Guest, Request},
    routes,
    signals::Asked,
};
use crate::{
    config,
    facts::{Facts, Settings, WorkerEnd, WorkerFacts},
    token_files::TokenFiles,
};

/// Letters of each queue of the tests' meshes.
pub(super) const LETTERS_MAX: usize = 8;

/// A process of so many workers with 100 connections each.
pub(super) fn facts(number: u16) -> Arc<Facts> {
    let workers: Vec<_> = (0..number)
        .map(|worker| WorkerFacts {
            worker,
            core: usize::from(worker),
            pinned: true,
            connections_max: 105,
            fixed_bytes: 1 << 20,
            handshakes_max: 169,
            multishots_max: 10,
            limits: Limits::default(),
        })
        .collect();
    Arc::new(Facts {
        version: "1.2.3",
        kernel: "6.18.0".into(),
        engine: "ring",
        engine_reason: "chosen".into(),
        descriptors: "direct".into(),
        started_at: Instant::now(),
        data_addresses: vec![([127, 0, 0, 1], 9000).into(), ([127, 0, 0, 1], 9002).into()],
        proxy_addresses: vec![([127, 0, 0, 1], 9002).into()],
        connections_max: 100 * workers.len() as u64,
        interest: Arc::new(Interest::new(number, 1 << 10, 1)),
        workers,
    })
}

/// What a plane goes by.
pub(super) fn settings() -> Settings {
    Settings {
        limits: Limits::default(),
        flags: vec![("write_timeout_seconds", 10.0)],
        drain: Duration::from_millis(2_500),
        drain_delay: Duration::from_secs(3),
    }
}

/// Where clients' tokens are verified with the key in this file.
pub(super) fn token_files(path: &Path) -> TokenFiles {
    let flags = ["ringway", "serve", "--token-key-file"].map(OsString::from);
    let arguments: Vec<OsString> = flags.into_iter().chain([path.into()]).collect();
    let Ok(config::Request::Serve(configuration)) = config::read(&arguments) else {
        panic!("these flags are valid");
    };
    TokenFiles::new(&configuration.serve).unwrap().unwrap()
}

/// A control plane without a listener, whose workers do not run yet.
pub(super) struct Plane {
    pub(super) control: Arc<Control>,
    pub(super) guest: JoinHandle<Exit>,
    pub(super) workers: Vec<FakeWorker>,
    pub(super) signals: mpsc::Sender<Asked>,
    pub(super) lines: Arc<Mutex<Vec<Line>>>,
    service: TowerToHyperService<Router>,
}

/// A publication that a worker took: topic, payload, opcode.
pub(super) type Taken = (Option<String>, Vec<u8>, DataOpcode);

/// A worker that has subscribers by name only.
pub(super) struct FakeWorker {
    pub(super) endpoint: Endpoint<Letter>,
    /// Subscribers of each topic.
    pub(super) topics: BTreeMap<&'static str, u32>,
    /// In order.
    pub(super) taken: Arc<Mutex<Vec<Taken>>>,
    /// As of when its batches were posted, in order.
    pub(super) as_of: Arc<Mutex<Vec<Epoch>>>,
    /// What it was told to verify tokens with, in order.
    pub(super) accesses: Arc<Mutex<Vec<Arc<ClientAccess>>>>,
    /// Who it was told is blocked no longer, in order.
    pub(super) unblocked: Arc<Mutex<Vec<Arc<str>>>>,
    /// What it says to have closed whenever it is to close connections.
    pub(super) removal: Removal,
    /// What it says before the next report to have refused.
    pub(super) refused: Option<Box<Refused>>,
    /// What the next report is to hold.
    pub(super) report: Box<Report>,
    /// True exactly when it keeps its report, which [`Self::give_report`] gives back.
    pub(super) keeps_report: bool,
    kept_report: Option<Box<Report>>,
    /// True exactly when it answers reports and nothing else.
    pub(super) is_stuck: bool,
    waker: Arc<TestWaker>,
    wake_fd: OwnedFd,
    pub(super) ends: mpsc::Sender<WorkerEnd>,
}

#[derive(Debug, Default)]
struct TestWaker(Notify);

impl Waker for TestWaker {
    fn wake(&self) {
        self.0.notify_one();
    }
}

impl Plane {
    /// A plane of so many workers, with the guest running.
    pub(super) fn new(workers: u16, access: Access) -> Self {
        Self::with(workers, access, None, Supervisor::default())
    }

    /// As [`Plane::new`], with tokens of clients and someone who wants to know how it is.
    pub(super) fn with(
        workers: u16,
        access: Access,
        tokens: Option<ClientTokens>,
        supervisor: Supervisor,
    ) -> Self {
        let wake_fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let mut endpoints = mesh::join(workers + 1, |_, _| LETTERS_MAX);
        let guest_endpoint = endpoints.pop().unwrap();
        let (ends, worker_ends) = mpsc::channel(usize::from(workers));
        let workers: Vec<_> = endpoints
            .into_iter()
            .map(|endpoint| FakeWorker {
                endpoint,
                topics: BTreeMap::new(),
                taken: Arc::default(),
                as_of: Arc::default(),
                accesses: Arc::default(),
                unblocked: Arc::default(),
                removal: Removal::default(),
                refused: None,
                report: Box::default(),
                keeps_report: false,
                kept_report: None,
                is_stuck: false,
                waker: Arc::default(),
                wake_fd: wake_fd.try_clone().unwrap(),
                ends: ends.clone(),
            })
            .collect();
        let wakers =
            workers.iter().map(|worker| Arc::clone(&worker.waker) as Arc<dyn Waker>).collect();
        let lines = Arc::<Mutex<Vec<Line>>>::default();
        let journal = {
            let lines = Arc::clone(&lines);
            Journal::new(move |line| lines.lock().unwrap().push(line.clone()))
        };
        let facts = facts(u16::try_from(workers.len()).unwrap());
        let (control, requests): (_, mpsc::Receiver<Request>) =
            Control::new(facts, settings(), access, journal);
        let (signals, asked) = mpsc::channel(4);
        let guest = Guest::new(
            Arc::clone(&control),
            guest_endpoint,
            wakers,
            wake_fd,
            tokens,
            supervisor,
            None,
        )
        .unwrap();
        let guest = tokio::spawn(guest.run(requests, worker_ends, asked));
        let service = TowerToHyperService::new(routes::admin(&control));
        Self { control, guest, workers, signals, lines, service }
    }

    /// A worker has so many subscribers of a topic from now on.
    pub(super) fn subscribe(&mut self, worker: usize, topic: &'static str, subscribers: u32) {
        let worker = &mut self.workers[worker];
        worker.topics.insert(topic, subscribers);
        let interest = &self.control.facts.interest;
        interest.announce(interest.hash(topic.as_bytes()), worker.endpoint.member());
    }

    /// Lets all workers run.
    pub(super) fn start(&mut self) {
        for worker in self.workers.drain(..) {
            tokio::spawn(worker.run());
        }
    }

    /// Lets the guest and the workers come to rest, without the clock.
    pub(super) async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// Moves the paused clock on, and lets everything that becomes due come to rest on the way.
    pub(super) async fn pass(&self, span: Duration) {
        let end = tokio::time::Instant::now() + span;
        while tokio::time::Instant::now() < end {
            tokio::time::advance(Duration::from_millis(100)).await;
            self.settle().await;
        }
    }

    /// One request from this machine; the status, `Retry-After`, and the body as JSON, or as a
    /// JSON string where it is none.
    pub(super) async fn send(&self, method: &str, target: &str, body: impl Into<Body>) -> Answered {
        self.send_as(method, target, &[("host", "localhost:9001")], body).await
    }

    /// One request with headers.
    pub(super) async fn send_as(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answered {
        let mut request = HttpRequest::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.service.call(request.body(body.into()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&body)
            .unwrap_or_else(|_| String::from_utf8(body.to_vec()).unwrap().into());
        Answered { status, headers, body }
    }

    /// The texts of the lines so far.
    pub(super) fn texts(&self) -> Vec<&'static str> {
        self.lines.lock().unwrap().iter().map(|line| line.text).collect()
    }
}

/// A response.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) headers: axum::http::HeaderMap,
    pub(super) body: Value,
}

impl FakeWorker {
    /// Takes what has come and answers it. `true` when it was told to drain.
    pub(super) fn turn(&mut self) -> bool {
        let mut drained = false;
        let guest = Member(self.endpoint.members() - 1);
        while let Some(delivery) = self.endpoint.take() {
            assert_eq!(delivery.from, guest);
            let answer = match delivery.letter {
                Letter::Report(report) if self.keeps_report => {
                    self.kept_report = Some(report);
                    None
                }
                Letter::Report(report) => Some(self.answer_report(report)),
                Letter::Drain(_) => {
                    drained = true;
                    None
                }
                _ if self.is_stuck => None,
                Letter::Access(access) => {
                    self.accesses.lock().unwrap().push(access);
                    None
                }
                Letter::Unblock(subjects) => {
                    self.unblocked.lock().unwrap().extend(subjects.iter().cloned());
                    None
                }
                Letter::Batch(batch) => {
                    self.as_of.lock().unwrap().push(batch.as_of);
                    let receivers =
                        batch.publications.iter().map(|publication| self.publish(publication));
                    let receivers = receivers.collect();
                    Some(Letter::Receipt(Box::new(Receipt { id: batch.id, receivers })))
                }
                Letter::Ask(question) => {
                    let findings = self.find(&question.inquiry);
                    Some(Letter::Tell(Box::new(Reply { id: question.id, findings })))
                }
                letter => panic!("no letter for a worker: {letter:?}"),
            };
            if let Some(answer) = answer {
                self.endpoint.post(guest, answer, 0).expect("the guest keeps room for answers");
            }
        }
        self.wake_guest();
        drained
    }

    /// Gives back the report that it has kept.
    pub(super) fn give_report(&mut self) {
        let kept = self.kept_report.take().expect("it was asked for one");
        let answer = self.answer_report(kept);
        let guest = Member(self.endpoint.members() - 1);
        self.endpoint.post(guest, answer, 0).expect("the guest keeps room for answers");
        self.wake_guest();
    }

    fn answer_report(&mut self, mut report: Box<Report>) -> Letter {
        assert!(report.closes.is_empty() && report.opened == 0, "it comes empty");
        std::mem::swap(&mut report, &mut self.report);
        if let Some(refused) = self.refused.take() {
            let guest = Member(self.endpoint.members() - 1);
            let posted = self.endpoint.post(guest, Letter::Refused(refused), 0);
            posted.expect("the tests leave room for what was refused");
        }
        Letter::Report(report)
    }

    fn wake_guest(&mut self) {
        while let Some(member) = self.endpoint.poll_wake() {
            assert_eq!(member, Member(self.endpoint.members() - 1));
            rustix::io::write(&self.wake_fd, &1_u64.to_ne_bytes()).unwrap();
        }
    }

    pub(super) async fn run(mut self) {
        let worker = self.endpoint.member().0;
        loop {
            if self.turn() {
                self.ends.send(WorkerEnd { worker, outcome: Ok(()) }).await.unwrap();
                return;
            }
            if self.endpoint.park() {
                self.waker.0.notified().await;
            }
            self.endpoint.unpark();
        }
    }

    fn publish(&self, publication: &Publication) -> u32 {
        let topic = publication.topic().map(|topic| std::str::from_utf8(topic).unwrap());
        self.taken.lock().unwrap().push((
            topic.map(str::to_owned),
            publication.payload().to_vec(),
            publication.opcode(),
        ));
        match topic {
            Some(topic) => self.topics.get(topic).copied().unwrap_or(0),
            None => self.topics.values().sum(),
        }
    }

    fn find(&self, inquiry: &Inquiry) -> Findings {
        let all = self.topics.iter().map(|(topic, count)| (Box::from(*topic), *count));
        match inquiry {
            Inquiry::Topics { after, entries_max } => Findings::Topics(
                all.filter(|(topic, _)| after.as_ref().is_none_or(|after| topic > after))
                    .take(*entries_max)
                    .collect(),
            ),
            Inquiry::Topic(wanted) => {
                Findings::Topics(all.filter(|(topic, _)| topic == wanted).collect())
            }
            Inquiry::Connections { .. } => Findings::Connections(Roll::default()),
            Inquiry::Remove(_) => Findings::Removed(self.removal),
        }
    }
}
