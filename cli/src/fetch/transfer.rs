//! One file over HTTP, resumed where it broke off and checked against its digest.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{Response, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::FetchError;
use super::digest::Digest;
use crate::progress::Progress;

/// What to transfer and how far to go for it.
pub struct Transfer<'a> {
    /// The file's address.
    pub url: &'a str,
    /// Where its bytes gather; kept when the transfer fails, and continued by the next.
    pub part: &'a Path,
    /// Its SHA-256 in lower-case hexadecimal, if known.
    pub sha256: Option<&'a str>,
    /// The most bytes it can have.
    pub limit: u64,
    /// How long to wait after the first failure in a row; each further one waits twice as long.
    pub pause: Duration,
}

/// Failures in a row, none of which brought a byte, before giving up.
const PATIENCE: u32 = 5;
/// A server silent for this long is not going to answer.
const SILENCE: Duration = Duration::from_secs(60);
const BUFFER: usize = 1 << 16;

/// A client that trusts what this machine trusts: the file `PIP_CERT` names, else the system's certificates
/// (`SSL_CERT_FILE` and `SSL_CERT_DIR` included on Linux). Proxies are taken from the environment.
///
/// # Errors
/// [`FetchError::Certificates`], [`FetchError::Io`].
pub fn agent() -> Result<Agent, FetchError> {
    let roots = match std::env::var_os("PIP_CERT").filter(|path| !path.is_empty()) {
        Some(path) => certificates(&PathBuf::from(path))?,
        None => RootCerts::PlatformVerifier,
    };
    Ok(Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .http_status_as_error(false)
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .build()
        .into())
}

fn certificates(path: &Path) -> Result<RootCerts, FetchError> {
    let pem = std::fs::read(path).map_err(FetchError::io("read", path))?;
    let found: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(FetchError::Certificates { path: path.to_owned() });
    }
    Ok(RootCerts::from(found))
}

/// How one request ended, short of a final failure.
enum End {
    /// The server sent all there is.
    Complete,
    /// The connection broke; what came is kept.
    Cut(ureq::Error),
    /// What is kept does not fit what the server has.
    Restart,
}

impl Transfer<'_> {
    /// Brings the file to its `part` path, whole and checked.
    ///
    /// # Errors
    /// [`FetchError::Checksum`] and [`FetchError::TooLong`], which remove the part; [`FetchError::Status`],
    /// [`FetchError::Transfer`] and [`FetchError::Io`], which keep it.
    pub fn run(&self, agent: &Agent, progress: &Progress) -> Result<(), FetchError> {
        let mut part = PartFile::open(self.part)?;
        let mut inherited = part.len > 0;
        if inherited && self.sha256.is_some_and(|expected| expected == part.digest.hex()) {
            return Ok(());
        }
        let mut failures = 0;
        loop {
            let before = part.len;
            match self.request(agent, &mut part, progress)? {
                End::Complete => match self.check(&part) {
                    // The beginning came from an earlier run: perhaps it alone was wrong.
                    Err(_) if inherited => part.clear()?,
                    Err(error) => return Err(part.discard(error)),
                    Ok(()) => return part.sync(),
                },
                End::Restart if part.len > 0 => part.clear()?,
                End::Restart => return Err(FetchError::Status { file: self.name(), status: 416 }),
                End::Cut(source) => {
                    failures = if part.len > before { 1 } else { failures + 1 };
                    if failures == PATIENCE {
                        part.sync()?;
                        let (file, received) = (self.name(), part.len);
                        return Err(FetchError::Transfer { file, received, source: Box::new(source) });
                    }
                    std::thread::sleep(self.pause * (1 << (failures - 1)));
                    continue;
                }
            }
            inherited = false;
        }
    }

    /// The name to call the file in an error.
    fn name(&self) -> String {
        self.part.file_name().unwrap_or_default().to_string_lossy().trim_end_matches(".part").to_owned()
    }

    fn check(&self, part: &PartFile) -> Result<(), FetchError> {
        let found = part.digest.hex();
        match self.sha256 {
            Some(expected) if expected != found => {
                Err(FetchError::Checksum { file: self.name(), expected: expected.to_owned(), found })
            }
            _ => Ok(()),
        }
    }

    /// Asks for what is missing and appends what comes.
    fn request(&self, agent: &Agent, part: &mut PartFile, progress: &Progress) -> Result<End, FetchError> {
        let mut request = agent.get(self.url).header(header::ACCEPT_ENCODING, "identity");
        if part.len > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", part.len));
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(End::Cut(error)),
        };
        match response.status().as_u16() {
            206 if range_start(&response) == Some(part.len) => {}
            206 | 416 => return Ok(End::Restart),
            200 => part.clear()?,
            // Worth asking again in a moment.
            status @ (408 | 429 | 500..=599) => return Ok(End::Cut(ureq::Error::StatusCode(status))),
            status => return Err(FetchError::Status { file: self.name(), status }),
        }
        let total = response.body().content_length().map(|rest| part.len.saturating_add(rest));
        if let Some(total) = total {
            if total > self.limit {
                return Err(part.discard(FetchError::TooLong { file: self.name(), limit: self.limit }));
            }
            progress.set_total(total);
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            progress.set(part.len);
            match body.read(&mut buffer) {
                Ok(0) if total.is_some_and(|total| part.len < total) => {
                    return Ok(End::Cut(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
                }
                Ok(0) => return Ok(End::Complete),
                Ok(count) => {
                    part.append(&buffer[..count])?;
                    if part.len > self.limit {
                        return Err(part.discard(FetchError::TooLong { file: self.name(), limit: self.limit }));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(End::Cut(error.into())),
            }
        }
    }
}

/// The first byte a partial answer holds: `Content-Range: bytes 100-199/200`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// A file that grows at its end, with the digest of all it holds.
struct PartFile {
    path: PathBuf,
    file: File,
    len: u64,
    digest: Digest,
}

impl PartFile {
    /// Opens it, reading what an earlier run left.
    fn open(path: &Path) -> Result<Self, FetchError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(FetchError::io("open", path))?;
        let mut digest = Digest::default();
        let len = io::copy(&mut file, &mut digest).map_err(FetchError::io("read", path))?;
        Ok(Self { path: path.to_owned(), file, len, digest })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(bytes).map_err(FetchError::io("write", &self.path))?;
        self.digest.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Back to an empty file.
    fn clear(&mut self) -> Result<(), FetchError> {
        self.file.set_len(0).map_err(FetchError::io("truncate", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(FetchError::io("rewind", &self.path))?;
        (self.len, self.digest) = (0, Digest::default());
        Ok(())
    }

    fn sync(&self) -> Result<(), FetchError> {
        self.file.sync_all().map_err(FetchError::io("flush", &self.path))
    }

    /// Removes the file, whose bytes are of no use, because of `error`.
    fn discard(&self, error: FetchError) -> FetchError {
        // The error at hand says more than a failure to tidy up after it.
        let _ = std::fs::remove_file(&self.path);
        error
    }
}
