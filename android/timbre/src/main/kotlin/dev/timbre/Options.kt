package dev.timbre

import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds

/** Which kernels compute. */
public enum class Kernels {
    /** The fastest the processor runs. */
    AUTO,

    /** Floating-point arithmetic, slow, for comparing. */
    REFERENCE,

    /** Portable integer arithmetic. */
    SCALAR,

    /** x86-64 with AVX2. */
    AVX2,

    /** x86-64 with AVX-512 and VNNI. */
    AVX512,

    /** AArch64, with its dot-product and matrix instructions where there are any. */
    NEON,
}

/** How the processor rounds activations before they meet quantised weights. */
public enum class Activations {
    /** To 15 bits: results next to those of floating-point arithmetic. */
    INT15,

    /** To 8 bits, as other runtimes do: faster, above all in reading prompts, and less exact. */
    INT8,
}

/** Where a model runs. */
public enum class Backend {
    /** The processor. */
    CPU,

    /** The GPU; [TimbreException.GpuUnavailable] where there is none that computes right. See [Timbre.keepGpuCache]. */
    GPU,

    /** A GPU with memory of its own where there is one that computes right, else the processor, which on a phone is as fast. */
    AUTO,
}

/** How a session stores the keys and values of its context. */
public enum class KvPrecision {
    /** 16 bits a number. */
    F16,

    /** 8.5 bits a number: half the memory, a little less exact. */
    Q8,
}

/**
 * How a model is opened.
 *
 * @property threads threads that compute; `null` for one for each fast core, which is best on nearly every phone
 * @property kernels which kernels
 * @property activations how the processor rounds activations
 * @property backend where it runs
 * @property warmUp whether the whole file is read while opening, so that the first reply does not wait for storage
 */
public data class ModelOptions(
    val threads: Int? = null,
    val kernels: Kernels = Kernels.AUTO,
    val activations: Activations = Activations.INT15,
    val backend: Backend = Backend.CPU,
    val warmUp: Boolean = false,
)

/**
 * How a session is set up.
 *
 * @property instructions what the model is told before the conversation
 * @property context tokens it holds; `null` for the model's context or 4096, whichever is less
 * @property kv how keys and values are stored
 */
public data class SessionOptions(
    val instructions: String? = null,
    val context: Int? = null,
    val kv: KvPrecision = KvPrecision.F16,
)

/**
 * How a reply is generated.
 *
 * @property maxTokens most tokens to generate
 * @property temperature 0 always takes the likeliest token; higher is more varied
 * @property topK keeps this many likeliest tokens; 0 keeps all
 * @property topP keeps the fewest likeliest tokens whose probabilities reach this sum; 1 keeps all
 * @property minP keeps tokens at least this fraction as probable as the likeliest; 0 keeps all
 * @property repeatPenalty divides the scores of recent tokens; 1 does nothing
 * @property seed the same seed, options and history give the same reply
 * @property stop texts that end the reply and are not part of it
 * @property gather how long a stream may collect text before it hands it on. The first piece is handed on at once. Each piece
 *   costs a call into the native library and a switch of threads, some tens of microseconds against the milliseconds of a
 *   token, so nothing needs to be gathered for their sake; a frame's 16 ms spares a user interface that lays text out anew
 *   for every piece
 */
public data class GenerationOptions(
    val maxTokens: Int = 256,
    val temperature: Float = 0f,
    val topK: Int = 40,
    val topP: Float = 0.95f,
    val minP: Float = 0.05f,
    val repeatPenalty: Float = 1f,
    val seed: Long = 0,
    val stop: List<String> = emptyList(),
    val gather: Duration = 0.milliseconds,
)

/** What a swap of adapters does with what the previous ones have read. */
public enum class SwapPolicy {
    /** The history is read anew under the new adapters at the next reply, which is what they alone would have said. */
    RECOMPUTE,

    /** The history stays as the old adapters read it: the next token comes at once. */
    KEEP,
}

/** How much memory a session gives back. */
public enum class TrimLevel {
    /** Buffers, which are made again in a millisecond. */
    BUFFERS,

    /** Buffers, keys and values: the next reply reads the history anew. */
    ALL,
}
