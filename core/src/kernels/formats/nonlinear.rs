//! IQ4_NL: 32 nibbles that index a fixed table of 16 unevenly spaced levels.

use super::{Format, Lanes, f16_at};
use crate::gguf::GgmlType;

/// f16 scale, 16 bytes of nibbles laid out as in Q4_0; `d · LEVELS[q]`.
pub struct Iq4Nl;

/// The levels a nibble stands for (`kvalues_iq4nl` of the format).
pub(crate) const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl Format for Iq4Nl {
    const TYPE: GgmlType = GgmlType::Iq4Nl;

    #[inline(always)]
    fn unpack(block: &[u8], lanes: &mut Lanes) {
        let (low_lanes, high_lanes) = lanes.q[..32].split_at_mut(16);
        let both = low_lanes.iter_mut().zip(high_lanes);
        for (&byte, (low, high)) in block[2..18].iter().zip(both) {
            *low = LEVELS[usize::from(byte & 0x0f)];
            *high = LEVELS[usize::from(byte >> 4)];
        }
        lanes.set_uniform(f16_at(block, 0), 0.0);
    }
}
