//! Weight rows repacked for the products with many activation rows, and the view of the activations they read.
//!
//! A panel is [`PANEL_ROWS`] weight rows over at most [`CHUNK`] columns, unpacked to one byte an element and turned round so
//! that a vector's lanes are weight rows, beside a scale and, where products read one, an offset for each row and group of columns. It is filled from
//! the mapped blocks, used for every activation row of the batch, and filled again with the next rows; a worker keeps one of
//! a fixed size and nothing else is copied. The order of its elements is between the two functions of a kernel: AVX-512 has
//! unsigned bytes, column by column in fours, `[columns / 4][PANEL_ROWS][4]`, NEON signed ones in halves of the rows, and AVX2
//! words of 16 bits in pairs of columns, `[columns / 2][PANEL_ROWS][2]`, of correspondingly fewer columns.

use super::Aligned;

/// Weight rows of a panel.
pub const PANEL_ROWS: usize = 32;
/// Columns of a panel, at most: with the activations of a few rows it stays in the second-level cache.
pub const CHUNK: usize = 2048;
/// Finest group of columns that share a scale.
const GROUP: usize = super::formats::GROUP;

/// One worker's repacked weights, which start on cache lines that the vectors' loads then do not cross.
pub struct Panel {
    lanes: Aligned,
    scales: Aligned,
    offsets: Aligned,
}

impl Panel {
    /// A panel of [`PANEL_ROWS`] × [`CHUNK`].
    pub fn new() -> Self {
        let groups = || Aligned::new(PANEL_ROWS * (CHUNK / GROUP));
        Self { lanes: Aligned::new(PANEL_ROWS * CHUNK / size_of::<f32>()), scales: groups(), offsets: groups() }
    }

    /// Lanes, [`PANEL_ROWS`] · [`CHUNK`] bytes.
    pub fn lanes(&mut self) -> *mut u8 {
        self.lanes.as_mut_ptr().cast()
    }

    /// Scales, [`PANEL_ROWS`] for each group of 16 or 32 columns as the format has them.
    pub fn scales(&mut self) -> *mut f32 {
        self.scales.as_mut_ptr()
    }

    /// Offsets, as the scales.
    pub fn offsets(&mut self) -> *mut f32 {
        self.offsets.as_mut_ptr()
    }
}

/// Activation rows in int8 as the panel products read them; every plane is row-major.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// Rows.
    pub rows: usize,
    /// Bytes of a row in both planes.
    pub stride: usize,
    /// The coarse plane.
    pub lanes: &'a [i8],
    /// The fine plane.
    pub fine: &'a [i8],
    /// Scale of each group of 16: one fine step, or one coarse step where the fine plane is zero.
    pub scales: &'a [f32],
    /// Scaled sum of each group of 16.
    pub sums: &'a [f32],
    /// Scaled sum of each block of 32.
    pub block_sums: &'a [f32],
    /// Minus the sum of each group of 16 in fine steps: where the integer sums of lanes around [`COARSE`](super::activations::COARSE)
    /// start.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub starts: &'a [i32],
    /// The same of each block of 32.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub block_starts: &'a [i32],
    /// Both planes in one, in steps that the scales are of, row-major; only where the tier's kernels read it.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub words: &'a [i16],
}

/// Where a panel's products go: `out[t · stride + r]` for activation row `t` and the panel's weight row `r`.
#[derive(Clone, Copy)]
pub struct Target {
    /// The output of the first activation row and the panel's first weight row.
    pub out: *mut f32,
    /// Outputs of an activation row.
    pub stride: usize,
    /// Weight rows of the panel that exist.
    pub rows: usize,
    /// Whether the products are added to what is there: every chunk of columns but the first, and that one too if the output holds a
    /// sum.
    pub accumulate: bool,
}

/// Unpacks columns `start..start + cols` of the weight rows in the first argument, each as many bytes long as the second
/// says, into the panel. `start` is a multiple of 256, `cols` at most [`CHUNK`]; what the panel holds beyond the columns and
/// the rows does not change their products.
///
/// # Safety
/// The CPU must run the tier. The bytes must be 1 to [`PANEL_ROWS`] rows of the kernel's storage format, and
/// the columns must lie inside a row.
pub type UnpackFn = unsafe fn(&[u8], usize, usize, usize, &mut Panel);

/// Multiplies the panel with columns `start..start + cols` of every activation row.
///
/// # Safety
/// The CPU must run the tier. The panel must hold as many columns of the kernel's storage format, the activations as many more
/// from `start` on, padded to whole blocks of 256; the target must be the caller's alone.
pub type MultiplyFn = unsafe fn(&mut Panel, usize, usize, &Batch<'_>, Target);
