//! Open connections shown and closed over the control plane, against the real binary with clients on
//! both workers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeSet, io::Write, net::TcpStream, time::Instant};

use common::{
    Gateway, PATIENCE,
    raw::{exchange, frame, open, read_close, read_frame, upgrade},
    sum,
};
use serde_json::{Value, json};

/// A gateway of two workers, without pings: nobody here answers any, however long a test takes.
fn start(flags: &[&str]) -> Gateway {
    Gateway::start(&[&["--workers", "2", "--ping-interval", "0"], flags].concat())
}

fn connect(gateway: &Gateway, target: &str) -> TcpStream {
    let stream = gateway.connect();
    open(&stream, target);
    stream
}

/// As many clients of a topic as it takes until each worker has at least `min` of them.
fn connect_to_both(gateway: &Gateway, topic: &str, min: usize) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    loop {
        clients.extend((0..min).map(|_| connect(gateway, &format!("/ws/{topic}"))));
        let all = list(gateway, &format!("topic={topic}"), 1000);
        let on = |worker: u64| all.iter().filter(|it| it["worker"] == worker).count();
        if on(0) >= min && on(1) >= min {
            return clients;
        }
    }
}

/// All connections of which the query holds, in pages of `limit`.
fn list(gateway: &Gateway, query: &str, limit: usize) -> Vec<Value> {
    let mut http = gateway.http();
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page = http.get(&format!("/connections?{query}&limit={limit}&after={after}"));
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        let entries = page["connections"].as_array().unwrap();
        assert!(entries.len() <= limit);
        all.extend(entries.iter().cloned());
        match page["next"].as_str() {
            None => return all,
            Some(next) => next.clone_into(&mut after),
        }
    }
}

fn remove(gateway: &Gateway, query: &str) -> Value {
    let response = gateway.http().delete(&format!("/connections?{query}"));
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["closed"].clone()
}

fn is_removed(stream: &TcpStream) -> bool {
    read_close(stream) == (1008, "removed".to_owned())
}

/// Says something and hears it back, alone in its topic: the connection is still there.
fn is_alive(stream: &TcpStream) -> bool {
    (&*stream).write_all(&frame(0x81, b"here")).unwrap();
    read_frame(stream) == Some((0x81, b"here".to_vec()))
}

#[test]
fn pages_show_every_connection_of_both_workers_once() {
    let gateway = start(&[]);
    let clients = connect_to_both(&gateway, "a/b", 3);
    let expected: BTreeSet<String> =
        clients.iter().map(|client| client.local_addr().unwrap().to_string()).collect();
    for limit in [1, 2, 1000] {
        let all = list(&gateway, "", limit);
        let addresses: BTreeSet<String> =
            all.iter().map(|it| it["address"].as_str().unwrap().to_owned()).collect();
        assert_eq!((all.len(), &addresses), (clients.len(), &expected), "limit {limit}");
        let ids: BTreeSet<&str> = all.iter().map(|it| it["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), clients.len());
    }
    let one = &list(&gateway, "topic=a/b", 1000)[0];
    let id = one["id"].as_str().unwrap();
    assert!(id.starts_with(&format!("{}-", one["worker"])), "{one}");
    assert_eq!(one["topics"], json!(["a/b"]));
    assert_eq!(one["send_queue_bytes"], 0);
    assert!(one.get("sub").is_none(), "nobody has a token");
    for moment in ["opened", "last_heard"] {
        let text = one[moment].as_str().unwrap();
        assert!(text.starts_with("20") && text.ends_with('Z') && text.len() == 24, "{text}");
    }
    assert!(one["opened"].as_str() <= one["last_heard"].as_str(), "{one}");
    let address = one["address"].as_str().unwrap();
    let found = list(&gateway, &format!("address={address}"), 1000);
    assert_eq!(found.iter().map(|it| &it["id"]).collect::<Vec<_>>(), [&one["id"]]);
    assert_eq!(list(&gateway, &format!("id={id}&topic=a%2Fb"), 1000).len(), 1);
    assert!(list(&gateway, "topic=nobody", 1000).is_empty());
    assert!(list(&gateway, "address=127.0.0.2", 1000).is_empty());
}

#[test]
fn a_topic_is_removed_on_both_workers_and_nobody_else() {
    let gateway = start(&[]);
    let removed = connect_to_both(&gateway, "a", 3);
    let stays = [connect(&gateway, "/ws/b"), connect(&gateway, "/ws/c")];
    assert_eq!(remove(&gateway, "topic=a"), removed.len());
    assert!(removed.iter().all(is_removed));
    assert_eq!(remove(&gateway, "topic=a"), 0, "they are gone already");
    assert!(stays.iter().all(is_alive));
    let stats = gateway.stats_until(|stats| stats["connections"] == 2);
    assert_eq!(sum(&stats, &["closed", "removed"]), removed.len() as u64);
    let back = connect(&gateway, "/ws/a");
    assert!(is_alive(&back), "who has no token may come back");
}

#[test]
fn a_connection_is_removed_by_the_id_of_the_list_and_the_log() {
    let mut gateway = start(&[]);
    let first = connect(&gateway, "/ws/a");
    let second = connect(&gateway, "/ws/b");
    let id = list(&gateway, "topic=a", 10)[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(remove(&gateway, &format!("id={id}")), 1);
    assert!(is_removed(&first));
    let line = gateway.line(|line| line["message"] == "connection closed");
    assert_eq!((line["id"].as_str(), line["reason"].as_str()), (Some(&*id), Some("removed")));
    assert_eq!(line["code"], "1008");
    assert!(is_alive(&second));
    // Its slot is used again, and the id does not name who has it then.
    drop(first);
    gateway.stats_until(|stats| stats["connections"] == 1);
    let others = connect_to_both(&gateway, "c", 1);
    assert_eq!(remove(&gateway, &format!("id={id}")), 0);
    assert_eq!(list(&gateway, "topic=c", 10).len(), others.len());
}

#[test]
fn an_address_is_that_of_the_client_behind_its_proxy() {
    let proxies = ["--listen", "127.0.0.1:0,proxy", "--trusted-proxy", "127.0.0.0/8"];
    let proxies = [&proxies[..], &["--client-publish", "on"]].concat();
    let gateway = start(&proxies);
    let is_data = |line: &&Value| line["message"] == "listening" && line["plane"] == "data";
    let proxy = gateway.start_lines.iter().filter(is_data).nth(1).unwrap()["address"].as_str();
    // PROXY version 2, IPv4 over TCP, of 192.0.2.7 and port 4660.
    let header =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0\0\x02\x07\xC6\x33\x64\x01\x12\x34\x01\xBB";
    let announced = TcpStream::connect(proxy.unwrap()).unwrap();
    announced.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = [&header[..], upgrade("/ws/a", "").as_bytes()].concat();
    assert_eq!(exchange(&announced, &request).status, 101);
    let forwarded = gateway.connect();
    let request = upgrade("/ws/b", "X-Forwarded-For: 192.0.2.7, 2001:db8::9\r\n");
    assert_eq!(exchange(&forwarded, request.as_bytes()).status, 101);
    let direct = connect(&gateway, "/ws/c");

    let address = |query: &str| {
        let all = list(&gateway, query, 10);
        let addresses = all.iter().map(|it| it["address"].as_str().unwrap().to_owned());
        addresses.collect::<Vec<_>>()
    };
    assert_eq!(address("topic=a"), ["192.0.2.7:4660"]);
    assert_eq!(address("topic=b"), ["[2001:db8::9]:0"]);
    assert_eq!(address("address=192.0.2.7"), ["192.0.2.7:4660"]);
    assert_eq!(remove(&gateway, "address=192.0.2.7:4661"), 0, "another port of it");
    assert_eq!(remove(&gateway, "address=192.0.2.7"), 1);
    assert!(is_removed(&announced));
    assert_eq!(remove(&gateway, "address=2001:db8::9"), 1);
    assert!(is_removed(&forwarded));
    assert!(is_alive(&direct));
    assert_eq!(remove(&gateway, "address=127.0.0.1"), 1);
    assert!(is_removed(&direct));
}

#[test]
fn what_is_queued_for_a_connection_is_shown() {
    let gateway = start(&["--slow-consumer", "drop-oldest", "--write-timeout", "10m"]);
    let deaf = connect(&gateway, "/ws/flood");
    let reads = connect(&gateway, "/ws/calm");
    let queued = |topic: &str| {
        let all = list(&gateway, &format!("topic={topic}"), 10);
        all[0]["send_queue_bytes"].as_u64().unwrap()
    };
    let body = vec![b'x'; 60_000];
    let mut http = gateway.http();
    let until = Instant::now() + PATIENCE;
    while queued("flood") < body.len() as u64 {
        assert!(Instant::now() < until, "the kernel takes everything");
        assert_eq!(http.post("/publish/flood", "", &body).status, 200);
    }
    assert!(queued("flood") <= 256 * 1024);
    assert_eq!(queued("calm"), 0);
    assert_eq!(remove(&gateway, "topic=flood"), 1, "who does not read can be removed too");
    drop(deaf);
    assert!(is_alive(&reads));
}

#[test]
fn what_names_no_connection_is_a_bad_request_and_closes_nobody() {
    let gateway = start(&[]);
    let client = connect(&gateway, "/ws/a");
    let bad = [
        "",
        "limit=1",
        "topic=",
        "topic=*",
        "topic=%zz",
        "id=",
        "id=1",
        "id=1-2-3-4",
        "address=",
        "address=everyone",
        "sub=",
        "sub=%FF",
        "topic=a&address=127.0.0.1",
        "sub=x&id=0-0-0",
    ];
    let mut http = gateway.http();
    for query in bad {
        let response = http.delete(&format!("/connections?{query}"));
        assert_eq!(response.status, 400, "{query}: {response:?}");
        assert!(response.json()["error"].is_string());
    }
    for query in ["limit=0", "limit=x", "after=x", "topic=*", "address=x", "id=x"] {
        assert_eq!(http.get(&format!("/connections?{query}")).status, 400, "{query}");
    }
    assert!(is_alive(&client));
}
