//! The kernel tiers, their names, and which of them this CPU runs.

use std::fmt;
use std::str::FromStr;

use super::KernelError;

/// One implementation of the matrix products. They differ in speed and in rounding, not in what they compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Weights dequantised to f32 and f32 arithmetic: no rounding of the activations.
    Reference,
    /// Portable int8 arithmetic.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
    /// AArch64 with NEON, and its dot-product instructions where the CPU has them.
    Neon,
}

impl Tier {
    /// Every tier, slowest first.
    pub const ALL: [Tier; 5] = [Self::Reference, Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon];

    /// The name used on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// Whether this CPU runs the tier.
    pub fn is_available(self) -> bool {
        match self {
            Self::Reference | Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tier {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.name() == name)
            .ok_or_else(|| KernelError::UnknownTier { name: name.to_owned() })
    }
}

/// Which tier to compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KernelChoice {
    /// The fastest one this CPU runs.
    #[default]
    Auto,
    /// This one; an error where the CPU cannot.
    Only(Tier),
}

impl KernelChoice {
    /// The tier this choice means on this CPU.
    ///
    /// # Errors
    /// [`KernelError::TierUnavailable`] if the CPU cannot run the tier asked for.
    pub fn resolve(self) -> Result<Tier, KernelError> {
        match self {
            Self::Auto => Ok(Tier::ALL.into_iter().rfind(|tier| tier.is_available()).unwrap_or(Tier::Scalar)),
            Self::Only(tier) if tier.is_available() => Ok(tier),
            Self::Only(tier) => Err(KernelError::TierUnavailable { tier }),
        }
    }
}

impl fmt::Display for KernelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(tier) => tier.fmt(f),
        }
    }
}

impl FromStr for KernelChoice {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        match name {
            "auto" => Ok(Self::Auto),
            _ => name.parse().map(Self::Only),
        }
    }
}

/// The tiers this CPU runs, slowest first.
pub fn detected_tiers() -> Vec<Tier> {
    Tier::ALL.into_iter().filter(|tier| tier.is_available()).collect()
}

/// The instruction-set extensions of this CPU that matter to the kernels, present or future.
pub fn cpu_features() -> Vec<&'static str> {
    macro_rules! present {
        ($detect:ident: $($feature:tt),*) => {
            [$(($feature, std::arch::$detect!($feature))),*]
        };
    }
    #[cfg(target_arch = "x86_64")]
    let features = present!(is_x86_feature_detected:
        "sse4.1", "avx", "f16c", "fma", "avx2", "avxvnni", "avx512f", "avx512bw", "avx512vl", "avx512dq",
        "avx512vbmi", "avx512vnni", "avx512bf16", "gfni");
    #[cfg(target_arch = "aarch64")]
    let features = present!(is_aarch64_feature_detected:
        "neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features: [(&'static str, bool); 0] = [];
    features.into_iter().filter_map(|(name, present)| present.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_are_refused() {
        for tier in Tier::ALL {
            assert_eq!(tier.to_string().parse::<Tier>().unwrap(), tier);
            assert_eq!(tier.name().parse::<KernelChoice>().unwrap(), KernelChoice::Only(tier));
        }
        assert_eq!("auto".parse::<KernelChoice>().unwrap(), KernelChoice::Auto);
        assert!(matches!(
            "sse9".parse::<KernelChoice>(),
            Err(KernelError::UnknownTier { name }) if name == "sse9"
        ));
    }

    #[test]
    fn portable_tiers_are_always_there_and_foreign_ones_never() {
        let tiers = detected_tiers();
        assert!(tiers.contains(&Tier::Reference) && tiers.contains(&Tier::Scalar));
        let foreign = if cfg!(target_arch = "x86_64") { Tier::Neon } else { Tier::Avx512 };
        assert!(matches!(
            KernelChoice::Only(foreign).resolve(),
            Err(KernelError::TierUnavailable { tier }) if tier == foreign
        ));
        assert_eq!(Some(&KernelChoice::Auto.resolve().unwrap()), tiers.last());
    }
}
