//! Records of this crate to and from the core's.

use timbre::adapter::{AdapterSummary, ChangeSummary};
use timbre::memory;
use timbre::model::{Backend as CoreBackend, Model, ModelOptions as CoreOptions};
use timbre::session::{ChatTemplate, Finish as CoreFinish, GenerateOptions, Message, SamplerOptions, Session, Stats};

use crate::adapter::{AdapterInfo, AdapterKind};
use crate::failure::available;
use crate::generation::{Finish, GenerationOptions, GenerationStats};
use crate::model::{MemoryEstimate, ModelInfo, ModelOptions};
use crate::session::ChatMessage;

pub(crate) fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(crate) fn model_options(options: &ModelOptions) -> CoreOptions {
    CoreOptions {
        kernels: options.kernels.choice(),
        activations: options.activations.choice(),
        threads: options.threads.map(|threads| threads as usize),
    }
}

pub(crate) fn model_info(model: &Model) -> ModelInfo {
    let info = model.info();
    ModelInfo {
        name: info.name,
        architecture: info.architecture,
        fingerprint: info.fingerprint,
        parameters: info.parameters as u64,
        file_bytes: info.file_bytes as u64,
        layers: small(info.layers),
        hidden: small(info.hidden),
        vocabulary: small(info.vocab),
        context: small(info.context),
        chat: ChatTemplate::from_gguf(model.gguf()).is_ok(),
        kernels: model.compute().tier().name().to_owned(),
        activations: model.compute().activations().into(),
        threads: small(model.compute().threads()),
    }
}

pub(crate) fn estimate(estimate: &timbre::model::MemoryEstimate) -> MemoryEstimate {
    MemoryEstimate {
        file_bytes: estimate.file_bytes as u64,
        kv_bytes: estimate.kv_bytes as u64,
        buffer_bytes: (estimate.buffer_bytes + estimate.vocabulary_bytes) as u64,
        anon_bytes: estimate.anon_bytes() as u64,
        available_bytes: available(),
    }
}

pub(crate) fn adapter_info(name: &str, summary: AdapterSummary) -> AdapterInfo {
    let first = summary.modules.first().map(|module| &module.change);
    let (n, rank, alpha) = match first {
        Some(ChangeSummary::Fourier { n, alpha, .. }) => (Some(small(*n)), None, Some(*alpha)),
        Some(ChangeSummary::Lora { rank, alpha, .. }) => (None, Some(small(*rank)), Some(*alpha)),
        None => (None, None, None),
    };
    AdapterInfo {
        name: name.to_owned(),
        kind: match summary.kind {
            "lora" => AdapterKind::Lora,
            _ => AdapterKind::Fourier,
        },
        base_model: summary.base_model,
        base_fingerprint: summary.base,
        parameters: summary.parameters as u64,
        bytes: summary.bytes as u64,
        n,
        rank,
        alpha,
        modules: summary.modules.into_iter().map(|module| module.name).collect(),
    }
}

pub(crate) fn generate_options(options: &GenerationOptions) -> GenerateOptions {
    GenerateOptions {
        max_tokens: options.max_tokens as usize,
        sampler: SamplerOptions {
            temperature: options.temperature,
            top_k: options.top_k as usize,
            top_p: options.top_p,
            min_p: options.min_p,
            repeat_penalty: options.repeat_penalty,
            seed: options.seed,
            ..SamplerOptions::default()
        },
        stop: options.stop.clone(),
        stop_at_end_token: true,
    }
}

pub(crate) fn finish(finish: CoreFinish) -> Finish {
    match finish {
        CoreFinish::EndToken => Finish::EndToken,
        CoreFinish::StopText => Finish::StopText,
        CoreFinish::Length => Finish::Length,
        CoreFinish::ContextFull => Finish::ContextFull,
        CoreFinish::Cancelled | CoreFinish::Failed => Finish::Cancelled,
    }
}

/// What a reply of `session` cost, which has just ended.
pub(crate) fn stats(stats: &Stats, session: &Session) -> GenerationStats {
    GenerationStats {
        prompt_tokens: small(stats.prompt_tokens),
        cached_tokens: small(stats.cached_tokens),
        prefill_tokens: small(stats.prefill_tokens),
        generated_tokens: small(stats.generated_tokens),
        ttft_ms: stats.ttft_ms,
        prefill_ms: stats.prefill_ms,
        decode_ms: stats.decode_ms,
        prefill_tokens_per_second: stats.prefill_rate(),
        decode_tokens_per_second: stats.decode_rate(),
        swap_us: stats.swap_us,
        kv_bytes: session.kv_bytes() as u64,
        anon_bytes: memory::anon_bytes().ok(),
        gpu: session.gpu_name().filter(|_| session.backend() == CoreBackend::Gpu).map(str::to_owned),
    }
}

pub(crate) fn message(message: &Message) -> ChatMessage {
    ChatMessage { role: message.role.clone(), content: message.content.clone() }
}

pub(crate) fn core_message(message: &ChatMessage) -> Message {
    Message::new(message.role.clone(), message.content.clone())
}
