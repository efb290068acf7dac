use std::os::unix::net::UnixDatagram;

use super::*;

const LINES: &[u8] = b"{\"seq\":1,\"at\":\"2026-11-23T00:01:23.250Z\",\"action\":\"started\"}\n\
                       {\"seq\":2,\"at\":\"2026-11-23T00:01:23.251Z\",\"action\":\"token\"}\n";

fn received(daemon: &UnixDatagram) -> String {
    let mut datagram = [0; 4096];
    let length = daemon.recv(&mut datagram).expect("a datagram");
    String::from_utf8(datagram[..length].to_vec()).expect("text")
}

#[test]
fn the_names_are_those_of_the_configuration() {
    for (sink, name) in [
        (AuditSink::File("/a/b".into()), "/a/b"),
        (AuditSink::Stdout, "stdout"),
        (AuditSink::Stderr, "stderr"),
        (AuditSink::Syslog(SYSLOG.into()), "syslog"),
        (AuditSink::Syslog("/a/b".into()), "syslog:/a/b"),
        (AuditSink::Journald(JOURNALD.into()), "journald"),
        (AuditSink::Journald("/a/b".into()), "journald:/a/b"),
    ] {
        assert_eq!(sink.to_string(), name);
    }
}

#[test]
fn a_syslog_daemon_gets_rfc_5424() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let daemon = UnixDatagram::bind(&path).expect("bound");
    let mut sink = AuditSink::Syslog(path).open().expect("open");
    sink.write(LINES).expect("sent");
    for line in std::str::from_utf8(LINES).expect("text").lines() {
        let message = received(&daemon);
        // PRI and VERSION, TIMESTAMP, HOSTNAME, APP-NAME, PROCID, MSGID, STRUCTURED-DATA, MSG
        let fields: Vec<&str> = message.splitn(8, ' ').collect();
        assert_eq!((fields[0], fields[2].is_empty(), fields[3]), ("<86>1", false, "tokenward-audit"));
        assert_eq!(fields[1], &line[15..39]);
        assert_eq!(fields[4].parse(), Ok(std::process::id()));
        assert_eq!(&fields[5..], ["audit", "-", line]);
    }
    assert_eq!(sink.last_chain(), None);
}

#[test]
fn journald_gets_its_own_protocol() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let daemon = UnixDatagram::bind(&path).expect("bound");
    AuditSink::Journald(path).open().expect("open").write(LINES).expect("sent");
    for line in std::str::from_utf8(LINES).expect("text").lines() {
        let fields =
            format!("PRIORITY=6\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=tokenward-audit\nMESSAGE={line}\n");
        assert_eq!(received(&daemon), fields);
    }
}

#[test]
fn a_daemon_that_goes_and_comes_back_gets_what_comes_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let mut sink = AuditSink::Syslog(path.clone()).open().expect("a daemon may come later");
    assert_eq!(sink.write(LINES).expect_err("there is none").kept, 0);
    for _ in 0..3 {
        let daemon = UnixDatagram::bind(&path).expect("bound");
        sink.write(LINES).expect("sent");
        assert!(received(&daemon).contains("\"seq\":1,") && received(&daemon).contains("\"seq\":2,"));
        drop(daemon);
        assert_eq!(sink.write(LINES).expect_err("it is gone").kept, 0);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(sink.write(LINES).expect_err("its socket, too").kept, 0);
    }
}

#[test]
fn a_daemon_that_does_not_read_gets_what_its_queue_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let daemon = UnixDatagram::bind(&path).expect("bound");
    let mut sink = AuditSink::Syslog(path).open().expect("open");
    let (mut lines, mut wholes) = (Vec::new(), vec![0]);
    for seq in 0..5000 {
        lines.extend_from_slice(format!("{{\"seq\":{seq},\"at\":\"\"}}\n").as_bytes());
        wholes.push(lines.len());
    }
    let failed = sink.write(&lines).expect_err("its queue is bounded");
    assert_eq!(failed.error.kind(), io::ErrorKind::TimedOut, "{}", failed.error);
    assert!(failed.kept > 0 && wholes.contains(&failed.kept), "{}", failed.kept);
    let sent = wholes.iter().position(|end| *end == failed.kept).expect("a line's end");
    daemon.set_nonblocking(true).expect("set");
    let mut datagram = [0; 4096];
    assert_eq!(std::iter::repeat_with(|| daemon.recv(&mut datagram)).take_while(Result::is_ok).count(), sent);
}

#[test]
fn a_failed_write_keeps_whole_lines_only() {
    let lines = b"ab\ncd\nef\n";
    for (bytes, kept) in [(0, 0), (2, 0), (3, 3), (5, 3), (6, 6), (9, 9)] {
        assert_eq!(Failed::after(lines, bytes, io::ErrorKind::Other.into()).kept, kept, "{bytes}");
    }
}

#[test]
fn a_full_disk_leaves_no_half_a_line() {
    let mut sink = AuditSink::File("/dev/full".into()).open().expect("open");
    let failed = sink.write(LINES).expect_err("full");
    assert_eq!((failed.kept, failed.error.kind()), (0, io::ErrorKind::StorageFull));
}
