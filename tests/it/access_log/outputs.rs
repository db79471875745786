//! Outputs that are real and misbehave: full disks, slow pipes, peers that stall, vanish and return.

use std::{
    fs,
    future::IntoFuture,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use evenkeel::access_log::{Format, Lines, Output, Rotation, Syslog};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::*;

type Body = evenkeel::access_log::RequestBody<evenkeel::server::Body>;

/// Writes lines that carry a number each.
struct Numbered {
    layer: AccessLogLayer,
    conn: ConnInfo,
}

impl Numbered {
    fn new(sink: &Lines) -> Self {
        Self {
            layer: AccessLogLayer::new(sink.clone()),
            conn: ConnInfo::new(Peer::Unknown, Peer::Unknown),
        }
    }

    fn record(&self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let (conn, none) = (self.conn.clone(), Duration::ZERO);
            let detail = number.to_string();
            let event = ConnectionEvent::new(conn, ConnectionEventKind::Io, detail, none);
            self.layer.connection_ended(&event);
        }
    }
}

/// Returns the number of a line.
fn number(line: impl AsRef<[u8]>) -> u64 {
    let line: Value = serde_json::from_slice(line.as_ref()).expect("a line is whole");
    line["detail"].as_str().unwrap().parse().unwrap()
}

fn numbers(file: &Path) -> Vec<u64> {
    let text = fs::read_to_string(file).unwrap();
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "{file:?} ends within a line"
    );
    text.lines().map(number).collect()
}

/// Returns `path` and what rotations made of it, from the oldest.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = (1..)
        .map(|number| PathBuf::from(format!("{}.{number}", path.display())))
        .take_while(|file| file.exists())
        .collect();
    files.reverse();
    files.push(path.to_owned());
    files
}

/// Sends requests, one after another, through `evenkeel::serve` with this log; returns when all are
/// answered.
async fn serve_requests(sink: impl Sink, count: usize) {
    let service = service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = AccessLogLayer::new(sink).layer(service);
    let serving = tokio::spawn(evenkeel::serve(listener, service).into_future());
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    for _ in 0..count {
        let head = b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            let read = stream.read_buf(&mut answer).await.unwrap();
            assert!(read > 0, "the server must answer");
        }
    }
    drop(stream);
    serving.abort();
}

#[test]
fn rotations_by_size_lose_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.jsonl");
    let rotation = Rotation::new().size(4_096).unwrap().keep(99).unwrap();
    let sink = Lines::new(Format::Json, Output::rotated_file(&path, rotation)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let lines = Numbered::new(&sink);
            scope.spawn(move || lines.record(thread * 250..(thread + 1) * 250));
        }
    });
    assert!(sink.flush());
    assert_eq!((sink.written(), sink.dropped()), (1_000, 0));
    let files = rotated(&path);
    assert!(files.len() > 10, "{files:?}");
    let mut seen: Vec<u64> = files.iter().flat_map(|file| numbers(file)).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..1_000), "each line once");
    for file in files {
        assert!(fs::metadata(&file).unwrap().len() <= 4_096, "{file:?}");
    }
}

#[test]
fn as_many_files_are_kept_as_were_asked_for_and_they_are_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.jsonl");
    for run in 0..2 {
        // The second run goes on where the first ended.
        let rotation = Rotation::new().size(1_024).unwrap().keep(2).unwrap();
        let sink = Lines::new(Format::Json, Output::rotated_file(&path, rotation)).unwrap();
        Numbered::new(&sink).record(run * 50..(run + 1) * 50);
    }
    let files = rotated(&path);
    assert_eq!(files.len(), 3, "{files:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    let seen: Vec<u64> = files.iter().flat_map(|file| numbers(file)).collect();
    let newest = 100 - seen.len() as u64..100;
    assert!(
        seen.len() > 10 && seen.iter().copied().eq(newest),
        "{seen:?}"
    );
}

#[test]
fn a_file_of_an_earlier_day_is_rotated_before_the_first_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.jsonl");
    fs::write(&path, "yesterday's").unwrap();
    let yesterday = std::time::SystemTime::now() - Duration::from_secs(86_400);
    let file = fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(yesterday).unwrap();
    let day = Duration::from_secs(86_400);
    let rotation = Rotation::new().every(day).unwrap();
    let sink = Lines::new(Format::Json, Output::rotated_file(&path, rotation)).unwrap();
    Numbered::new(&sink).record(0..3);
    drop(sink);
    let files = rotated(&path);
    assert_eq!(files.len(), 2);
    assert_eq!(fs::read_to_string(&files[0]).unwrap(), "yesterday's");
    assert_eq!(numbers(&path), [0, 1, 2]);
}

#[test]
fn a_file_that_another_program_moves_or_truncates_is_not_rotated_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.jsonl");
    let rotation = Rotation::new().size(2_048).unwrap().keep(1).unwrap();
    let sink = Lines::new(Format::Json, Output::rotated_file(&path, rotation)).unwrap();
    let lines = Numbered::new(&sink);
    lines.record(0..5);
    assert!(sink.flush());
    // logrotate with `create`, before it sends the signal.
    let moved = folder.path().join("access.jsonl-20250131");
    fs::rename(&path, &moved).unwrap();
    fs::write(&path, "").unwrap();
    lines.record(5..25);
    assert!(sink.flush());
    let files = rotated(&path);
    assert_eq!(
        files,
        std::slice::from_ref(&path),
        "the new file was not full"
    );
    let mut seen = numbers(&moved);
    seen.extend(numbers(&path));
    assert!(seen.into_iter().eq(0..25));

    // logrotate with `copytruncate`.
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    fs::File::create(&path).unwrap();
    lines.record(25..35);
    assert!(sink.flush());
    assert_eq!(
        rotated(&path),
        std::slice::from_ref(&path),
        "the file has room again"
    );
    assert!(numbers(&path).into_iter().eq(25..35), "and no hole");

    // A directory in the place of the next file: the rotation fails, and the lines go on.
    fs::create_dir_all(folder.path().join("access.jsonl.1/x")).unwrap();
    lines.record(35..99);
    assert!(sink.flush());
    assert!(numbers(&path).into_iter().eq(25..99));
    assert_eq!(sink.dropped(), 0);
}

#[test]
fn a_line_that_a_crash_cut_does_not_spoil_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.jsonl");
    fs::write(&path, "{\"time\":\"20").unwrap();
    let sink = Lines::file(&path).unwrap();
    Numbered::new(&sink).record([7]);
    drop(sink);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().next(), Some("{\"time\":\"20"));
    assert_eq!(number(text.lines().nth(1).unwrap()), 7);
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_no_request() {
    let sink = Lines::file("/dev/full").unwrap();
    serve_requests(sink.clone(), 50).await;
    assert!(sink.flush());
    assert_eq!((sink.written(), sink.dropped()), (0, 50));
}

#[tokio::test]
async fn a_pipe_whose_reader_stalls_costs_lines_and_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    // Opened for both, so that neither end waits for the other here.
    let both = fs::File::options().read(true).write(true).open(&path);
    let reader = both.unwrap();
    let sink = Lines::file(&path).unwrap();
    // More than the queue and the pipe hold.
    Numbered::new(&sink).record(0..30_000);
    serve_requests(sink.clone(), 50).await;
    assert!(sink.dropped() > 10_000, "{sink:?}");
    let reading = std::thread::spawn(move || {
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        lines.find(|line| line.contains("last")).unwrap();
    });
    while !sink.flush() {}
    let (written, dropped) = (sink.written(), sink.dropped());
    assert_eq!(written + dropped, 30_050);
    let last = AccessLogLayer::new(sink).node("last");
    let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
    let event = ConnectionEvent::new(conn, ConnectionEventKind::Io, "", Duration::ZERO);
    last.connection_ended(&event);
    reading.join().unwrap();
}

#[tokio::test]
async fn a_tcp_peer_that_stalls_costs_lines_and_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let sink = Lines::new(Format::Json, Output::tcp(address)).unwrap();
    let lines = Numbered::new(&sink);
    lines.record([0]);
    let (stream, _) = listener.accept().unwrap();
    // More than the queue and the buffers of the connection hold.
    let mut next = 1;
    while sink.dropped() == 0 {
        lines.record(next..next + 10_000);
        next += 10_000;
    }
    serve_requests(sink.clone(), 50).await;
    let reading = std::thread::spawn(move || {
        let lines = BufReader::new(stream).lines().map(Result::unwrap);
        let whole =
            lines.map(|line| serde_json::from_str::<Value>(&line).expect("a line is whole"));
        whole.take_while(|line| line["detail"] != "4711000").count() as u64
    });
    while !sink.flush() {}
    let (written, dropped) = (sink.written(), sink.dropped());
    assert_eq!(written + dropped, next + 50);
    lines.record([4_711_000]);
    let read = reading.join().unwrap();
    assert_eq!(read, written, "nothing is lost but what was counted");
}

#[test]
fn the_shutdown_does_not_wait_for_a_peer_that_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let sink = Lines::new(Format::Logfmt, Output::tcp(address)).unwrap();
    let lines = Numbered::new(&sink);
    while sink.dropped() == 0 {
        lines.record(0..10_000);
    }
    let began = Instant::now();
    drop((lines, sink));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "2 s, and what a busy machine adds"
    );
}

/// Reads lines from a connection until the one with this number, and returns them.
fn read_until(stream: &mut BufReader<TcpStream>, last: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "{seen:?}");
        seen.push(number(line));
    }
    seen
}

#[test]
fn lines_wait_for_a_tcp_peer_that_is_down_and_go_to_it_when_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let sink = Lines::new(Format::Json, Output::tcp(address.to_string())).unwrap();
    let lines = Numbered::new(&sink);
    lines.record(0..100);
    // The peer starts after the first lines.
    let listener = TcpListener::bind(address).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    assert!(read_until(&mut stream, 99).into_iter().eq(0..100));
    assert!(sink.flush());

    // It closes the connection in order.
    drop(stream);
    lines.record(100..200);
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    assert!(read_until(&mut stream, 199).into_iter().eq(100..200));
    assert!(sink.flush());
    assert_eq!((sink.written(), sink.dropped()), (200, 0));
}

#[test]
fn a_line_that_broke_off_is_sent_again_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let sink = Lines::new(Format::Json, Output::tcp(address)).unwrap();
    let lines = Numbered::new(&sink);
    let mut next = 0;
    while sink.dropped() == 0 {
        lines.record(next..next + 10_000);
        next += 10_000;
    }
    let (mut stream, _) = listener.accept().unwrap();
    // The connection is reset with a part of a line read, and more in its buffers.
    stream.read_exact(&mut [0; 1_003]).unwrap();
    drop(stream);
    listener.set_nonblocking(true).unwrap();
    let stream = loop {
        if let Ok((stream, _)) = listener.accept() {
            break stream;
        }
        // The sink connects again when it has a line, and the kernel may have taken all.
        lines.record([next]);
        next += 1;
        std::thread::yield_now();
    };
    stream.set_nonblocking(false).unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    // The order holds, so that nothing is sent twice.
    let mut last = number(&line);
    let reading = std::thread::spawn(move || {
        for line in stream.lines() {
            let number = number(line.unwrap());
            assert!(number > last, "{number} after {last}");
            last = number;
        }
    });
    while !sink.flush() {}
    drop((lines, sink));
    reading.join().unwrap();
}

#[tokio::test]
async fn a_unix_socket_gets_a_datagram_a_line_and_stalls_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let sink = Lines::new(Format::Json, Output::unix(&path)).unwrap();
    let lines = Numbered::new(&sink);
    // The receiver starts later than the first lines.
    lines.record(0..3);
    let receiver = UnixDatagram::bind(&path).unwrap();
    lines.record(3..30_000);
    serve_requests(sink.clone(), 50).await;
    assert!(sink.dropped() > 10_000, "{sink:?}");

    let long = AccessLogLayer::new(sink.clone()).node("x".repeat(1_000_000));
    let reading = std::thread::spawn(move || {
        let (mut buffer, mut count, mut last) = (vec![0; 65_536], 0, None);
        loop {
            let len = receiver.recv(&mut buffer).unwrap();
            let line: Value = serde_json::from_slice(&buffer[..len]).unwrap();
            assert!(buffer[len - 1] == b'}', "without its newline");
            let Some(number) = line["detail"].as_str() else {
                count += 1;
                continue;
            };
            let number: u64 = number.parse().unwrap();
            if number == u64::MAX {
                return (receiver, count);
            }
            assert!(last < Some(number), "in order");
            (last, count) = (Some(number), count + 1);
        }
    });
    while !sink.flush() {}
    let (written, dropped) = (sink.written(), sink.dropped());
    assert_eq!(written + dropped, 30_050);

    // A line that no datagram can hold is lost alone.
    let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
    let event = ConnectionEvent::new(conn, ConnectionEventKind::Io, "", Duration::ZERO);
    long.connection_ended(&event);
    lines.record([u64::MAX]);
    let (receiver, count) = reading.join().unwrap();
    assert_eq!(count, written);
    assert!(sink.flush());
    assert_eq!((sink.written(), sink.dropped()), (written + 1, dropped + 1));

    // The receiver is restarted at the same path.
    drop(receiver);
    fs::remove_file(&path).unwrap();
    let receiver = UnixDatagram::bind(&path).unwrap();
    lines.record([5]);
    let mut buffer = [0; 4_096];
    let len = receiver.recv(&mut buffer).unwrap();
    assert_eq!(number(&buffer[..len]), 5);
}

#[test]
fn what_udp_reports_as_refused_is_counted() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = receiver.local_addr().unwrap();
    let sink = Lines::new(Format::Json, Output::udp(address.to_string())).unwrap();
    let lines = Numbered::new(&sink);
    lines.record(0..5);
    let mut buffer = [0; 4_096];
    for wanted in 0..5 {
        let len = receiver.recv(&mut buffer).unwrap();
        assert_eq!(number(&buffer[..len]), wanted);
    }
    assert!(sink.flush());
    assert_eq!((sink.written(), sink.dropped()), (5, 0));
    drop(receiver);
    // The answer to the first datagram comes with the second.
    let mut recorded = 5;
    while sink.dropped() == 0 {
        lines.record([recorded]);
        recorded += 1;
        assert!(sink.flush());
    }
    assert_eq!(sink.written() + sink.dropped(), recorded);
    let receiver = UdpSocket::bind(address).unwrap();
    lines.record([1_000]);
    let mut number_received = 0;
    while number_received != 1_000 {
        let len = receiver.recv(&mut buffer).unwrap();
        number_received = number(&buffer[..len]);
    }
}

#[test]
fn messages_over_tcp_are_preceded_by_their_length() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let syslog = Syslog::tcp(address).app_name("shop").unwrap();
    let sink = Lines::new(Format::Json, Output::syslog(syslog)).unwrap();
    Numbered::new(&sink).record(0..500);
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    for wanted in 0..500 {
        let mut len = Vec::new();
        stream.read_until(b' ', &mut len).unwrap();
        let len = std::str::from_utf8(&len).unwrap().trim_end();
        let mut message = vec![0; len.parse().unwrap()];
        stream.read_exact(&mut message).unwrap();
        let message = String::from_utf8(message).unwrap();
        let (head, line) = message.split_once(" - ").unwrap();
        let head: Vec<_> = head.split(' ').collect();
        assert_eq!((head[0], head[3], head[5]), ("<134>1", "shop", "access"));
        assert_eq!(number(line), wanted);
    }
}

#[test]
fn an_output_that_cannot_be_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let new = |output| Lines::new(Format::Json, output).map(drop);
    assert!(new(Output::file(folder.path())).is_err());
    for address in ["collector.example", "192.0.2.1:0", "192.0.2.1:x", ""] {
        assert!(new(Output::tcp(address)).is_err(), "{address}");
        assert!(
            new(Output::syslog(Syslog::udp(address))).is_err(),
            "{address}"
        );
    }
}
