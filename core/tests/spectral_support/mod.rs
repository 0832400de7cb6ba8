//! Shared by the tests of `spectral` and `adapter`: the fixtures, and the spectral path in three calls.
// Each test takes what it needs, and one that includes two of these modules has the fixtures' place twice.
#![allow(dead_code, unused_imports, clippy::duplicate_mod)]

#[path = "../common/fixtures.rs"]
mod fixtures;

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use timbre::spectral::transform::{self, Held};
use timbre::spectral::{Complex32, Entries, Plan, RealFft, Transforms};

pub use fixtures::fixture_path as fixture;

/// One array of an `.npz`: shape and values, whatever their type, as f64.
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Array {
    pub fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|&v| v as f32).collect()
    }

    pub fn u32(&self) -> Vec<u32> {
        self.values.iter().map(|&v| v as u32).collect()
    }

    /// Rows of a two-dimensional array.
    pub fn rows(&self) -> Vec<Vec<f32>> {
        self.f32().chunks(self.shape[1]).map(<[f32]>::to_vec).collect()
    }
}

/// Every array of an `.npz` of little-endian `f4`, `i4` and `i8` arrays in C order.
pub fn read_npz(path: PathBuf) -> HashMap<String, Array> {
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut zip = zip::ZipArchive::new(file).unwrap();
    let mut arrays = HashMap::new();
    for i in 0..zip.len() {
        let mut member = zip.by_index(i).unwrap();
        let name = member.name().unwrap().trim_end_matches(".npy").to_owned();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        arrays.insert(name, read_npy(&bytes));
    }
    arrays
}

fn read_npy(bytes: &[u8]) -> Array {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + header_len]).unwrap();
    assert!(header.contains("'fortran_order': False"));
    let shape = header.split_once('(').unwrap().1.split_once(')').unwrap().0;
    let shape: Vec<usize> =
        shape.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect();
    let data = &bytes[10 + header_len..];
    let values = if header.contains("<f4") {
        data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    } else if header.contains("<i4") {
        data.chunks(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect()
    } else {
        assert!(header.contains("<i8"), "{header}");
        data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
    };
    Array { shape, values }
}

/// `‖a − b‖ / ‖b‖`, Frobenius; the absolute error where b is zero.
pub fn relative_error<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(&a, &b)| square(a.into() - b.into())).sum();
    let norm: f64 = b.iter().map(|&b| square(b.into())).sum();
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}

/// A module in the spectral domain, allocating where the engine would not.
pub struct Spectral {
    pub plan: Plan,
    pub stored: Box<[f32]>,
    pub alpha: f64,
    down: RealFft,
    across: RealFft,
}

impl Spectral {
    pub fn new(entries: Entries, coefficients: &[f32], alpha: f64) -> Self {
        let transforms = Transforms::new();
        let (down, across) = (transforms.real(entries.shape().rows()), transforms.real(entries.shape().cols()));
        let plan = Plan::new(Arc::new(entries));
        let stored = plan.to_stored(coefficients).unwrap();
        Self { plan, stored, alpha, down, across }
    }

    /// `ΔWx`.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut output = vec![Complex32::new(f32::NAN, f32::NAN); self.down.bins()];
        let x = spectrum(&self.across, x);
        transform::apply(&self.plan, &self.stored, self.alpha, &x, &mut output, Held::Nothing);
        real(&self.down, output)
    }

    /// `ΔWᵀg`.
    pub fn adjoint(&self, g: &[f32]) -> Vec<f32> {
        let mut output = vec![Complex32::new(f32::NAN, f32::NAN); self.across.bins()];
        let g = spectrum(&self.down, g);
        transform::adjoint(&self.plan, &self.stored, self.alpha, &g, &mut output, Held::Nothing);
        real(&self.across, output)
    }

    /// `∂L/∂c` over tokens, in entry order.
    pub fn gradient(&self, xs: &[Vec<f32>], gs: &[Vec<f32>]) -> Vec<f32> {
        let mut gradient = vec![0.0; self.plan.len()];
        for (x, g) in xs.iter().zip(gs) {
            let (x, g) = (spectrum(&self.across, x), spectrum(&self.down, g));
            transform::gradient(&self.plan, self.alpha, &x, &g, &mut gradient);
        }
        self.plan.to_entry_order(&gradient).unwrap()
    }
}

fn spectrum(fft: &RealFft, values: &[f32]) -> Vec<Complex32> {
    let mut spectrum = vec![Complex32::default(); fft.bins_and_conjugates()];
    fft.with_conjugate(values, &mut spectrum, &mut vec![Complex32::default(); fft.scratch_len()]);
    spectrum
}

fn real(fft: &RealFft, mut folded: Vec<Complex32>) -> Vec<f32> {
    let mut values = vec![0.0; fft.len()];
    fft.twice_real(&mut folded, &mut values, &mut vec![Complex32::default(); fft.scratch_len()]);
    values
}
