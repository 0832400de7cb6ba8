package dev.timbre

import dev.timbre.ffi.NativeModel
import dev.timbre.ffi.NativeSession
import dev.timbre.ffi.NativeTuner
import dev.timbre.internal.Handle
import dev.timbre.internal.Progress
import dev.timbre.internal.native
import dev.timbre.internal.public
import dev.timbre.internal.toNative
import dev.timbre.internal.typed
import dev.timbre.internal.using
import java.io.File

/**
 * A model file, mapped into memory once and shared, read-only, by all its sessions.
 *
 * Opening costs milliseconds and next to no memory: weights stay in the file, and the system keeps of them what it has
 * room for. [close] gives this object's hold on the file back; sessions and tuners that were made of it go on working.
 *
 * ```kotlin
 * Model.open(File(filesDir, "smollm2.gguf")).use { model ->
 *     model.session().use { println(it.respond("Hello!").text) }
 * }
 * ```
 */
public class Model private constructor(native: NativeModel) : AutoCloseable {
    internal val handle = Handle(native, "model")

    /** What it is. */
    public val info: ModelInfo = typed { native.info() }.public()

    /** Its identity, which adapters made for it name. */
    public val fingerprint: String get() = info.fingerprint

    /**
     * A conversation with it, or any text it is to continue.
     *
     * @throws TimbreException.OutOfMemory if the keys and values of a full context do not fit into memory
     */
    public suspend fun session(options: SessionOptions = SessionOptions()): Session =
        Session(native { handle.use { NativeSession(it, options.toNative()) } })

    /**
     * A fine-tune of an adapter for it, prepared but not begun.
     *
     * @param name what the adapter will be called
     * @throws TimbreException.InvalidArgument for options out of range and data with nothing to learn
     */
    public suspend fun tuner(
        data: TuningData,
        options: TuningOptions = TuningOptions(),
        name: String = "tuned",
    ): Tuner {
        val examples = data.toNative()
        val prepared = native {
            handle.use { model -> options.using { NativeTuner(model, examples, it, name) } }
        }
        return Tuner(prepared)
    }

    /** Tokens of a text, without any that the model puts around it. */
    public suspend fun tokenCount(text: String): Int = native { handle.use { it.tokenCount(text).toInt() } }

    /** What a session of it would take. */
    public suspend fun memoryEstimate(context: Int? = null, kv: KvPrecision = KvPrecision.F16): MemoryEstimate =
        native { handle.use { it.memoryEstimate(context.toNative("context"), kv.toNative()) } }.public()

    /**
     * Submits nothing to the GPU until [resumeGpu], and returns when it has nothing of this model's left to do; sessions go on
     * on the processor. Does nothing for a model that runs there anyway.
     */
    public suspend fun suspendGpu(): Unit = native { handle.use { it.suspendGpu() } }

    /** Lets sessions use the GPU again. */
    public suspend fun resumeGpu(): Unit = native { handle.use { it.resumeGpu() } }

    override fun close(): Unit = handle.close()

    public companion object {
        /**
         * Maps a GGUF file.
         *
         * @param onProgress hears of done and total bytes while [ModelOptions.warmUp] reads the file, on a thread of the library's
         * @throws TimbreException.Io if the file cannot be read
         * @throws TimbreException.CorruptFile if it is damaged
         * @throws TimbreException.UnsupportedModel if it is of a kind that cannot be run
         */
        public suspend fun open(
            file: File,
            options: ModelOptions = ModelOptions(),
            onProgress: ((done: Long, total: Long) -> Unit)? = null,
        ): Model {
            val progress = Progress(onProgress)
            return native(onCancel = progress::stop) {
                progress.rethrowing { Model(NativeModel.open(file.path, options.toNative(), progress)) }
            }
        }

        /** What a model and one session of it would take, from the header of its file alone. */
        public suspend fun memoryEstimate(
            file: File,
            context: Int? = null,
            kv: KvPrecision = KvPrecision.F16,
        ): MemoryEstimate =
            native { dev.timbre.ffi.estimateMemory(file.path, context.toNative("context"), kv.toNative()) }.public()
    }
}

/**
 * What a model is.
 *
 * @property name its name, or its file's
 * @property architecture `llama` or `gemma3`
 * @property fingerprint the identity that adapters name
 * @property parameters weights, in numbers
 * @property fileBytes length of the file
 * @property layers decoder layers
 * @property hidden residual width
 * @property vocabulary vocabulary size
 * @property context tokens of context it was trained for
 * @property chat whether it has a chat template, without which it holds no conversation
 * @property kernels name of the kernels that run it
 * @property activations how the processor rounds activations
 * @property threads threads that run it
 */
public data class ModelInfo(
    val name: String,
    val architecture: String,
    val fingerprint: String,
    val parameters: Long,
    val fileBytes: Long,
    val layers: Int,
    val hidden: Int,
    val vocabulary: Int,
    val context: Int,
    val chat: Boolean,
    val kernels: String,
    val activations: Activations,
    val threads: Int,
)

/**
 * Memory that a model and one session take, in bytes.
 *
 * @property file the mapped file, which the system can drop and read again
 * @property keysAndValues keys and values of a full context, taken as it fills
 * @property buffers buffers and tables
 * @property anonymous what is counted against the process: all but the file
 * @property available what the system could give now, 0 where it does not say
 */
public data class MemoryEstimate(
    val file: Long,
    val keysAndValues: Long,
    val buffers: Long,
    val anonymous: Long,
    val available: Long,
) {
    /** Whether it fits into what the system could give now, or the system does not say. */
    public val fits: Boolean get() = available == 0L || anonymous <= available
}
