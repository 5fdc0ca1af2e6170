//! The kernel's settings for TCP.

use super::{Subject, UNTOLD};
use crate::doctor::report::{Check, Severity, bytes};

pub(super) fn checks(subject: &Subject) -> Vec<Check> {
    vec![
        backlog(subject),
        syn_backlog(subject),
        ports(subject),
        tcp_memory(subject),
        buffers(subject),
        not_sent(subject),
        buckets(subject),
        conntrack(subject),
        migrate(subject),
    ]
}

fn backlog(subject: &Subject) -> Check {
    let key = "net.core.somaxconn";
    subject.at_least(
        Severity::Advice,
        key,
        subject.wanted.number(key).max(subject.listen_backlog.into()),
        "the kernel silently shortens listen_backlog to it; who finds the queue full tries again \
         after a second",
    )
}

fn syn_backlog(subject: &Subject) -> Check {
    let key = "net.ipv4.tcp_max_syn_backlog";
    let cookies = subject.root.setting("net.ipv4.tcp_syncookies").map(|values| values[0] != 0);
    let check = subject.at_least(
        Severity::Advice,
        key,
        subject.wanted.number(key),
        "the kernel drops SYNs beyond three quarters of it, but only where \
         net.ipv4.tcp_syncookies is 0",
    );
    let cookies_in_words = match cookies {
        Some(true) => ", SYN cookies on",
        Some(false) => ", SYN cookies off",
        None => "",
    };
    Check {
        holds: if cookies == Some(true) { Some(true) } else { check.holds },
        value: format!("{}{cookies_in_words}", check.value),
        ..check
    }
}

/// One address can connect to one address and port as often as there are ports.
fn ports(subject: &Subject) -> Check {
    let key = "net.ipv4.ip_local_port_range";
    let range = subject.root.setting(key);
    let count = match range.as_deref() {
        Some([first, last]) => u64::try_from(last - first + 1).ok().filter(|count| *count > 0),
        _ => None,
    };
    let wanted = count.map(|count| u64::from(subject.connections).div_ceil(count));
    Check {
        name: key,
        severity: Severity::Advice,
        holds: None,
        value: count.map_or(UNTOLD.to_owned(), |count| format!("{count} ports")),
        wanted: wanted.map_or(UNTOLD.to_owned(), |addresses| {
            format!("{addresses} addresses for a load generator or proxy")
        }),
        why: "a gateway accepts and needs none; who connects to it from this machine needs a port \
              for each connection"
            .to_owned(),
        how: "more source addresses, or sysctl -w net.ipv4.ip_local_port_range='10000 65000' with \
              all listeners below"
            .to_owned(),
    }
}

fn tcp_memory(subject: &Subject) -> Check {
    let key = "net.ipv4.tcp_mem";
    let wanted = subject.wanted.numbers(key);
    let value = subject.root.setting(key);
    let in_words = |values: Vec<String>| values.join(" ");
    let holds = value.as_ref().map(|values| {
        let pairs = values.iter().zip(wanted);
        values.len() == wanted.len()
            && pairs.into_iter().all(|(is, wanted)| is.unsigned_abs() >= *wanted)
    });
    let wanted = in_words(wanted.iter().map(ToString::to_string).collect());
    let value = value.map(|values| in_words(values.iter().map(ToString::to_string).collect()));
    Check {
        name: key,
        severity: Severity::Advice,
        holds,
        value: value.unwrap_or_else(|| format!("{UNTOLD}: set outside of this network namespace")),
        why: "pages of all socket buffers: beyond the second number windows shrink, beyond the \
              third sends are refused and connections reset"
            .to_owned(),
        how: format!("sysctl -w {key}='{wanted}'"),
        wanted: format!("at least {wanted}"),
    }
}

fn buffers(subject: &Subject) -> Check {
    let text = |key: &str| {
        let values = subject.root.setting(key)?;
        Some(values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    let value = text("net.ipv4.tcp_rmem").zip(text("net.ipv4.tcp_wmem"));
    Check {
        name: "tcp_rmem, tcp_wmem",
        severity: Severity::Advice,
        holds: None,
        value: value.map_or(UNTOLD.to_owned(), |(receive, send)| format!("{receive}; {send}")),
        wanted: "as the kernel has them".to_owned(),
        why:
            "an idle connection holds none of it, and TCP_NOTSENT_LOWAT bounds what a stalled one \
              holds; a smaller SO_SNDBUF refuses healthy peers with a long round trip"
                .to_owned(),
        how: "--socket-send-buffer-bytes, where it must be".to_owned(),
    }
}

fn not_sent(subject: &Subject) -> Check {
    let value = subject.root.number("proc/sys/net/ipv4/tcp_notsent_lowat");
    Check {
        name: "tcp_notsent_lowat",
        severity: Severity::Advice,
        holds: None,
        value: value.map_or(UNTOLD.to_owned(), |value| value.to_string()),
        wanted: "anything".to_owned(),
        why: format!(
            "each listener sets {} for its connections, whatever this is (unsent_bytes_max)",
            bytes(subject.unsent_bytes_max.into())
        ),
        how: "nothing to change".to_owned(),
    }
}

fn buckets(subject: &Subject) -> Check {
    let key = "net.ipv4.tcp_ehash_entries";
    let wanted = subject.wanted.number(key);
    let check = subject.at_least(
        Severity::Advice,
        key,
        wanted,
        "the kernel finds the socket of each packet here, and walks a chain where there are fewer \
         buckets than sockets",
    );
    Check {
        how: format!(
            "boot with thash_entries={0}; or sysctl -w net.ipv4.tcp_child_ehash_entries={0}, and \
             run in a network namespace made afterwards",
            wanted.next_power_of_two()
        ),
        ..check
    }
}

fn conntrack(subject: &Subject) -> Check {
    let key = "net.netfilter.nf_conntrack_max";
    let used = subject.root.number("proc/sys/net/netfilter/nf_conntrack_count");
    let used = used.unwrap_or(0);
    let check = subject.at_least(
        Severity::Advice,
        key,
        subject.wanted.number(key) + used,
        &format!("beyond it packets of new connections are dropped; {used} are tracked now"),
    );
    match check.holds {
        Some(_) => check,
        None => Check { holds: Some(true), value: "not loaded".to_owned(), ..check },
    }
}

fn migrate(subject: &Subject) -> Check {
    let key = "net.ipv4.tcp_migrate_req";
    let wanted = subject.wanted.number(key);
    let check = subject.at_least(
        Severity::Advice,
        key,
        wanted,
        "at 0, who is connecting while a process of two ends waits a second, and who needs longer \
         than 500 ms for a round trip is reset",
    );
    Check { wanted: wanted.to_string(), ..check }
}
