//! Kernels: shader files compiled once, their entry points specialised by constants, and their arguments.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::buffers::Binding;
use super::cache::Cache;
use super::device::Refusal;
use super::{Gpu, GpuError};

/// A WGSL file of this crate.
#[derive(Debug, Clone, Copy)]
pub struct Shader {
    /// Its name, which errors and verdicts give.
    pub name: &'static str,
    /// Its text.
    pub wgsl: &'static str,
    /// Whether its threads add up what they have: its text then comes behind that of `subgroups.wgsl` or `threads.wgsl`.
    pub reduces: bool,
}

/// The same functions for devices with subgroups and without.
const SUBGROUPS: &str = include_str!("shaders/subgroups.wgsl");
const THREADS: &str = include_str!("shaders/threads.wgsl");

impl Shader {
    /// What comes before its text.
    pub(super) fn before(&self, subgroups: bool) -> &'static str {
        match (self.reduces, subgroups) {
            (false, _) => "",
            (true, false) => THREADS,
            (true, true) => SUBGROUPS,
        }
    }
}

/// How a kernel uses a buffer: `var<storage, read>` or `var<storage, read_write>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only reads.
    Read,
    /// Reads and writes.
    Write,
}

/// What a kernel is made of. The arguments are `@group(0) @binding(0), @binding(1), …` in the order of `access`; a kernel
/// with `params` has `@group(1) @binding(0) var<uniform>` of up to [`MAX_PARAMS`] bytes, given anew at each dispatch.
#[derive(Debug, Clone, Copy)]
pub struct KernelSpec<'a> {
    /// The file.
    pub shader: Shader,
    /// The entry point.
    pub entry: &'static str,
    /// The arguments.
    pub access: &'a [Access],
    /// Whether it takes parameters.
    pub params: bool,
    /// Values of `override` constants.
    pub constants: &'a [(&'static str, f64)],
}

/// Most bytes of parameters of a dispatch.
pub const MAX_PARAMS: usize = 256;

/// A compiled kernel. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Kernel {
    inner: Arc<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    name: String,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    arguments: usize,
    params: bool,
}

/// A kernel with its arguments, which can be dispatched any number of times. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Bound {
    pub(super) kernel: Kernel,
    pub(super) group: wgpu::BindGroup,
}

impl Kernel {
    /// File, entry point and constants, for errors and profiles.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub(super) fn pipeline(&self) -> &wgpu::ComputePipeline {
        &self.inner.pipeline
    }

    pub(super) fn takes_params(&self) -> bool {
        self.inner.params
    }

    /// Gives the kernel its arguments.
    ///
    /// # Errors
    /// [`GpuError::Limit`] for a part larger than the device can bind; [`GpuError::Command`] for one that is misaligned or
    /// not within its buffer; [`GpuError::DeviceLost`].
    ///
    /// # Panics
    /// If there are not as many arguments as the kernel has.
    pub fn bind(&self, gpu: &Gpu, arguments: &[Binding<'_>]) -> Result<Bound, GpuError> {
        assert_eq!(arguments.len(), self.inner.arguments, "arguments of {}", self.name());
        for argument in arguments {
            if argument.bytes > gpu.info().max_binding {
                let what = format!("an argument of {}", self.name());
                return Err(GpuError::Limit { what, needed: argument.bytes, max: gpu.info().max_binding });
            }
        }
        let entries: Vec<_> = (0..)
            .zip(arguments)
            .map(|(binding, argument)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: argument.buffer.raw(),
                    offset: argument.offset,
                    size: wgpu::BufferSize::new(argument.bytes),
                }),
            })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &self.inner.layout, entries: &entries };
        let group = gpu.scoped(
            || gpu.device().create_bind_group(&descriptor),
            |refusal| GpuError::Command { what: format!("arguments of {}", self.name()), reason: refusal.text() },
        )?;
        Ok(Bound { kernel: self.clone(), group })
    }
}

impl Refusal {
    pub(super) fn text(self) -> String {
        match self {
            Self::Memory => "out of memory".to_owned(),
            Self::Reason(reason) => reason,
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    file: &'static str,
    subgroups: bool,
    entry: &'static str,
    access: Vec<Access>,
    params: bool,
    constants: Vec<(&'static str, u64)>,
}

/// What has been compiled on a device.
#[derive(Debug)]
pub(super) struct Pipelines {
    /// By name, and whether they use subgroups.
    modules: Mutex<HashMap<(&'static str, bool), wgpu::ShaderModule>>,
    /// Shaders that are right on this device without subgroups only.
    plain: Mutex<HashSet<&'static str>>,
    kernels: Mutex<HashMap<Key, Kernel>>,
    /// Of group 1.
    params: wgpu::BindGroupLayout,
    /// Opened before the first kernel is compiled.
    pub(super) cache: OnceLock<Option<Cache>>,
}

impl Pipelines {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        let params = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("parameters"),
            entries: &[wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Uniform,
                    has_dynamic_offset: true,
                    min_binding_size: None,
                },
                count: None,
            }],
        });
        Self {
            modules: Mutex::default(),
            plain: Mutex::default(),
            kernels: Mutex::default(),
            params,
            cache: OnceLock::new(),
        }
    }

    pub(super) fn params_layout(&self) -> &wgpu::BindGroupLayout {
        &self.params
    }
}

impl Gpu {
    /// Whether kernels of this shader use subgroups here: where the device has them, unless they were found to be wrong.
    pub fn uses_subgroups(&self, shader: &Shader) -> bool {
        let plain = || self.pipelines.plain.lock().unwrap_or_else(PoisonError::into_inner).contains(shader.name);
        shader.reduces && self.info().subgroup.is_some() && !plain()
    }

    /// Makes kernels of these shaders without subgroups from now on. Whether any of them used subgroups.
    pub(super) fn go_without_subgroups(&self, shaders: &[Shader]) -> bool {
        let using = |shader: &&Shader| self.uses_subgroups(shader);
        let names: Vec<_> = shaders.iter().filter(using).map(|shader| shader.name).collect();
        self.pipelines.plain.lock().unwrap_or_else(PoisonError::into_inner).extend(&names);
        !names.is_empty()
    }

    /// The kernel of `spec`, compiled the first time it is asked for.
    ///
    /// # Errors
    /// [`GpuError::Shader`] if the driver refuses it, [`GpuError::DeviceLost`].
    pub fn kernel(&self, spec: &KernelSpec<'_>) -> Result<Kernel, GpuError> {
        let subgroups = self.uses_subgroups(&spec.shader);
        let key = Key {
            file: spec.shader.name,
            subgroups,
            entry: spec.entry,
            access: spec.access.to_vec(),
            params: spec.params,
            constants: spec.constants.iter().map(|(name, value)| (*name, value.to_bits())).collect(),
        };
        let known = |kernels: &HashMap<Key, Kernel>| kernels.get(&key).cloned();
        if let Some(kernel) = known(&self.pipelines.kernels.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(kernel);
        }
        let kernel = self.compile(spec, subgroups)?;
        let mut kernels = self.pipelines.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kernels.entry(key).or_insert(kernel).clone())
    }

    fn module(&self, shader: Shader, subgroups: bool) -> Result<wgpu::ShaderModule, GpuError> {
        let mut modules = self.pipelines.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (shader.name, subgroups);
        if let Some(module) = modules.get(&key) {
            return Ok(module.clone());
        }
        let source = wgpu::ShaderSource::Wgsl([shader.before(subgroups), shader.wgsl].concat().into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(shader.name), source };
        let module = self.scoped(
            || self.device().create_shader_module(descriptor),
            |refusal| GpuError::Shader { kernel: shader.name.to_owned(), reason: refusal.text() },
        )?;
        modules.insert(key, module.clone());
        Ok(module)
    }

    fn compile(&self, spec: &KernelSpec<'_>, subgroups: bool) -> Result<Kernel, GpuError> {
        let module = self.module(spec.shader, subgroups)?;
        let values: Vec<_> = spec.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let name = format!("{}:{}({})", spec.shader.name, spec.entry, values.join(","));
        let entry = |(binding, access): (u32, &Access)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: *access == Access::Read },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = (0..).zip(spec.access).map(entry).collect();
        let device = self.device();
        let cache = self.cache();
        let make = || {
            let layout =
                device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
            let groups = [Some(&layout), Some(self.pipelines.params_layout())];
            let groups = if spec.params { &groups[..] } else { &groups[..1] };
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&name),
                layout: Some(&device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                    label: None,
                    bind_group_layouts: groups,
                    immediate_size: 0,
                })),
                module: &module,
                entry_point: Some(spec.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: spec.constants,
                    // Every kernel here writes its workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: cache.map(Cache::raw),
            });
            (pipeline, layout)
        };
        let (pipeline, layout) =
            self.scoped(make, |refusal| GpuError::Shader { kernel: name.clone(), reason: refusal.text() })?;
        if let Some(cache) = cache {
            cache.grow();
        }
        let compiled = Compiled { name, pipeline, layout, arguments: spec.access.len(), params: spec.params };
        Ok(Kernel { inner: Arc::new(compiled) })
    }
}
