//! What a set of adapters changes, linear by linear: its numbers, and the form they have.

use std::sync::Arc;

use crate::adapter::LoraDelta;
use crate::spectral::Plan;

use super::super::weights::LinearKind;
use super::super::{ActiveAdapters, Decoder, ModelError};

/// Coefficients in stored order, and what multiplies them.
pub(super) type Scaled<'a> = (&'a [f32], f64);

/// The changes of one linear in a set of adapters: those with the same positions are one, their coefficients added up.
pub(super) struct Gathered<'a> {
    /// Positions, and each change's coefficients in stored order with what multiplies them.
    pub plans: Vec<(&'a Arc<Plan>, Vec<Scaled<'a>>)>,
    pub lora: Vec<(&'a LoraDelta, f32)>,
}

/// The form of the changes of one linear.
#[derive(Debug)]
pub(super) struct Form {
    pub plans: Vec<Arc<Plan>>,
    pub ranks: Vec<usize>,
}

impl Gathered<'_> {
    /// Whether it is of this form.
    pub fn has(&self, form: Option<&Form>) -> bool {
        let Some(form) = form else { return self.plans.is_empty() && self.lora.is_empty() };
        self.plans.len() == form.plans.len()
            && self.lora.len() == form.ranks.len()
            && self.plans.iter().zip(&form.plans).all(|((a, _), b)| Arc::ptr_eq(a, b))
            && self.lora.iter().zip(&form.ranks).all(|((lora, _), rank)| lora.rank() == *rank)
    }

    /// Its form; none without a change.
    pub fn form(&self) -> Option<Form> {
        let plans: Vec<_> = self.plans.iter().map(|(plan, _)| Arc::clone(plan)).collect();
        let ranks: Vec<_> = self.lora.iter().map(|(lora, _)| lora.rank()).collect();
        (!plans.is_empty() || !ranks.is_empty()).then_some(Form { plans, ranks })
    }
}

/// The changes of every linear, per layer and by [`LinearKind`].
pub(super) fn gather<'a>(
    decoder: &Decoder,
    adapters: &'a ActiveAdapters,
) -> Result<Vec<[Gathered<'a>; LinearKind::ALL.len()]>, ModelError> {
    let mut layers = Vec::with_capacity(decoder.layers.len());
    for layer in 0..decoder.layers.len() {
        let mut linears = LinearKind::ALL.map(|_| Gathered { plans: Vec::new(), lora: Vec::new() });
        for kind in LinearKind::ALL {
            let Gathered { plans, lora } = &mut linears[kind as usize];
            for (bound, weight) in adapters.list() {
                let Some(delta) = bound.delta(layer, kind) else { continue };
                if let Some(fourier) = delta.as_fourier() {
                    let numbers = (fourier.stored(), fourier.alpha() * f64::from(*weight));
                    match plans.iter_mut().find(|(plan, _)| Arc::ptr_eq(plan, fourier.plan())) {
                        Some((_, changes)) => changes.push(numbers),
                        None => plans.push((fourier.plan(), vec![numbers])),
                    }
                } else if let Some(delta) = delta.as_lora() {
                    lora.push((delta, *weight));
                } else {
                    return Err(ModelError::GpuAdapter { adapter: bound.name().to_owned() });
                }
            }
        }
        layers.push(linears);
    }
    Ok(layers)
}
