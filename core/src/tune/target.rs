//! Which modules an adapter changes.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::adapter::Names;
use crate::model::{LinearKind, Model};

use super::TuneError;

/// A module's name, and its outputs and inputs.
pub type NamedShape = (String, (usize, usize));

/// Linear layers by kind, in some layers or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// The kinds, in the order of [`LinearKind::ALL`]; `None` for every linear layer but the output head.
    kinds: Option<BTreeSet<LinearKind>>,
    /// The layers; `None` for all.
    layers: Option<LayerRanges>,
}

impl Default for Targets {
    /// Query and value of every layer, as the paper has it.
    fn default() -> Self {
        Self { kinds: Some([LinearKind::Q, LinearKind::V].into()), layers: None }
    }
}

impl Targets {
    /// What PEFT calls a target: `all-linear`, or endings of module names such as `q_proj`, separated by commas.
    ///
    /// # Errors
    /// [`TuneError::Target`].
    pub fn parse(text: &str) -> Result<Self, TuneError> {
        if text.eq_ignore_ascii_case("all-linear") {
            return Ok(Self { kinds: None, layers: None });
        }
        let kind = |name: &str| {
            let name = name.trim();
            let named = |kind: &LinearKind| kind.hf_name() == name || last(*kind) == name;
            LinearKind::ALL
                .into_iter()
                .find(named)
                .ok_or_else(|| TuneError::Target { found: name.to_owned(), known: LinearKind::ALL.map(last).to_vec() })
        };
        Ok(Self { kinds: Some(text.split(',').map(kind).collect::<Result<_, _>>()?), layers: None })
    }

    /// The same kinds in these layers only.
    pub fn in_layers(self, layers: LayerRanges) -> Self {
        Self { layers: Some(layers), ..self }
    }

    /// The modules in a model, each with its outputs and inputs.
    ///
    /// # Errors
    /// [`TuneError::Layer`] for a layer the model does not have; [`TuneError::Target`] for a kind it has nowhere.
    pub fn modules(&self, model: &Model) -> Result<Vec<NamedShape>, TuneError> {
        let count = model.decoder().layers.len();
        let layers: Vec<usize> = match &self.layers {
            None => (0..count).collect(),
            Some(ranges) => ranges.0.iter().copied().collect(),
        };
        if let Some(&found) = layers.iter().find(|layer| **layer >= count) {
            return Err(TuneError::Layer { found, last: count.saturating_sub(1) });
        }
        let mut modules = Vec::new();
        for kind in LinearKind::ALL.into_iter().filter(|kind| self.kinds.as_ref().is_none_or(|k| k.contains(kind))) {
            let before = modules.len();
            for layer in &layers {
                let name = format!("model.layers.{layer}.{}", kind.hf_name());
                if let Some(shape) = model.module_shape(&name) {
                    modules.push((name, shape));
                }
            }
            if modules.len() == before && self.kinds.is_some() {
                return Err(TuneError::Target { found: last(kind).to_owned(), known: Vec::new() });
            }
        }
        Ok(modules)
    }

    /// PEFT's `target_modules` and `layers_to_transform`.
    pub fn to_peft(&self) -> (Names, Option<Vec<i64>>) {
        let list =
            |kinds: &mut dyn Iterator<Item = LinearKind>| Names::List(kinds.map(|k| last(k).to_owned()).collect());
        let layers = self.layers.as_ref().map(|ranges| ranges.0.iter().map(|&layer| layer as i64).collect());
        let names = match (&self.kinds, &layers) {
            (Some(kinds), _) => list(&mut kinds.iter().copied()),
            (None, None) => Names::AllLinear,
            // PEFT takes layer numbers only beside a list of names.
            (None, Some(_)) => list(&mut LinearKind::ALL.into_iter()),
        };
        (names, layers)
    }
}

/// The module's own name, without that of the block it is in.
fn last(kind: LinearKind) -> &'static str {
    kind.hf_name().rsplit('.').next().unwrap_or_default()
}

/// Layer numbers, written `0-5,7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRanges(BTreeSet<usize>);

/// No model has as many layers.
const MAX_LAYER: usize = 10_000;

impl FromStr for LayerRanges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut layers = BTreeSet::new();
        for part in text.split(',').map(str::trim) {
            let number = |text: &str| match text.trim().parse::<usize>() {
                Ok(number) if number <= MAX_LAYER => Ok(number),
                _ => Err(format!("{part:?} is neither a layer number nor a range such as 0-5")),
            };
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (number(from)?, number(to)?);
            if from > to {
                return Err(format!("the range {part} has no layer"));
            }
            layers.extend(from..=to);
        }
        Ok(Self(layers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_numbers_and_ranges() {
        let parse = |text: &str| text.parse::<LayerRanges>().map(|l| l.0.into_iter().collect::<Vec<_>>());
        assert_eq!(parse("0-3,7, 2").unwrap(), [0, 1, 2, 3, 7]);
        assert_eq!(parse("5").unwrap(), [5]);
        for text in ["", "a", "3-1", "1-", "-1", "1,,2", "0-99999999999", "1-2-3"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn targets_are_said_as_peft_says_them() {
        let peft = |text: &str| Targets::parse(text).unwrap().to_peft();
        assert_eq!(peft("q_proj,v_proj"), Targets::default().to_peft());
        assert_eq!(peft("self_attn.v_proj, q_proj"), Targets::default().to_peft());
        assert_eq!(peft("all-linear"), (Names::AllLinear, None));
        let some = Targets::parse("all-linear").unwrap().in_layers("1-2".parse().unwrap());
        let names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        assert_eq!(some.to_peft(), (Names::List(names.map(str::to_owned).to_vec()), Some(vec![1, 2])));
        for text in ["", "qproj", "q_proj,", "lm_head"] {
            assert!(matches!(Targets::parse(text).unwrap_err(), TuneError::Target { .. }), "{text}");
        }
    }
}
