//! Where a model runs.

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// On the CPU.
    #[default]
    Cpu,
    /// On a GPU; an error where there is none, or it cannot run the model.
    Gpu,
    /// On a discrete GPU where there is one that can run the model, whose memory is several times as fast as the CPU's; else on
    /// the CPU.
    Auto,
}

impl Backend {
    /// The name the command line uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Auto => "auto",
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Backend {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Cpu, Self::Gpu, Self::Auto]
            .into_iter()
            .find(|backend| backend.name() == s)
            .ok_or_else(|| format!("{s:?} is not a backend, expected cpu, gpu or auto"))
    }
}
