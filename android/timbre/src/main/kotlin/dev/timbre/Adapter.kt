package dev.timbre

import dev.timbre.ffi.NativeAdapter
import dev.timbre.internal.Handle
import dev.timbre.internal.native
import dev.timbre.internal.public
import dev.timbre.internal.typed
import dev.timbre.internal.using
import java.io.File

/**
 * What makes a shared model one person's: a few hundred kilobytes that change how it speaks.
 *
 * A value: it never changes, knows no model until a session uses it, and may be used by any number of them at once.
 */
public class Adapter internal constructor(native: NativeAdapter) : AutoCloseable {
    internal val handle = Handle(native, "adapter")

    /** What it is. */
    public val info: AdapterInfo = typed { native.info() }.public()

    /** What errors call it: its file's name, without the ending. */
    public val name: String get() = info.name

    /** This adapter and how much of it, for [Session.setAdapters]: `warm at 0.5f`. */
    public infix fun at(weight: Float): WeightedAdapter = WeightedAdapter(this, weight)

    /**
     * Returns if it goes with [model]. The work of a first use is done then, so that the first swap costs microseconds too.
     *
     * @throws TimbreException.IncompatibleAdapter with what does not fit
     */
    public suspend fun requireCompatible(model: Model): Unit = 
        native { handle.use { adapter -> model.handle.use { adapter.checkCompatible(it) } } }

    /** Why it does not go with [model], or `null` if it does. */
    public suspend fun incompatibility(model: Model): TimbreException.IncompatibleAdapter? =
        try {
            requireCompatible(model)
            null
        } catch (incompatible: TimbreException.IncompatibleAdapter) {
            incompatible
        }

    /**
     * Writes a single file where the name ends in `.safetensors`, else a directory that Hugging Face's PEFT loads. It appears
     * whole or not at all, whatever happens meanwhile.
     *
     * @param halfPrecision whether a single file holds 16-bit numbers, half the size
     */
    public suspend fun save(file: File, halfPrecision: Boolean = false): Unit =
        native { handle.use { it.save(file.path, halfPrecision) } }

    /** The bytes of a single file, for a place that is no file. */
    public suspend fun toByteArray(halfPrecision: Boolean = false): ByteArray =
        native { handle.use { it.toBytes(halfPrecision) } }

    override fun close(): Unit = handle.close()

    override fun toString(): String = "Adapter(${info.name}, ${info.parameters} parameters)"

    public companion object {
        /**
         * Reads a PEFT directory or a `.safetensors` file.
         *
         * @throws TimbreException.Io if it cannot be read
         * @throws TimbreException.CorruptFile if it is damaged
         * @throws TimbreException.IncompatibleAdapter if it uses a method, or an option of one, that this library does not do
         */
        public suspend fun load(file: File): Adapter = native { Adapter(NativeAdapter.load(file.path)) }

        /** Reads the bytes of a single file; [name] is what errors call it. */
        public suspend fun load(name: String, bytes: ByteArray): Adapter =
            native { Adapter(NativeAdapter.fromBytes(name, bytes)) }

        /** Reads the bytes of a PEFT directory's `adapter_config.json` and `adapter_model.safetensors`. */
        public suspend fun load(name: String, config: ByteArray, weights: ByteArray): Adapter =
            native { Adapter(NativeAdapter.fromPeftBytes(name, config, weights)) }

        /**
         * The weighted sum of adapters, an adapter again.
         *
         * @param model gives shapes where the adapters' positions differ and their files carry none
         */
        public suspend fun mix(name: String, parts: List<WeightedAdapter>, model: Model? = null): Adapter =
            native {
                parts.using { native ->
                    val mixed = when (model) {
                        null -> dev.timbre.ffi.mixAdapters(name, native, null)
                        else -> model.handle.use { dev.timbre.ffi.mixAdapters(name, native, it) }
                    }
                    Adapter(mixed)
                }
            }
    }
}

/**
 * An adapter and how much of it.
 *
 * @property adapter the adapter
 * @property weight 1 for the adapter as it is; any finite number
 */
public data class WeightedAdapter(val adapter: Adapter, val weight: Float = 1f)

/** What an adapter's changes are made of. */
public enum class AdapterKind {
    /** Coefficients of a sparse spectrum: FourierFT. */
    FOURIER,

    /** Two factors of low rank: LoRA. */
    LORA,
}

/**
 * What an adapter is.
 *
 * @property name what errors call it
 * @property kind its kind
 * @property baseModel name of the base model it was made for, where it says
 * @property baseFingerprint fingerprint of that model, where it says
 * @property parameters trainable numbers
 * @property bytes bytes of those numbers in memory
 * @property n coefficients of the first module; `null` for LoRA
 * @property rank rank of the first module; `null` for FourierFT
 * @property alpha α of the first module
 * @property modules paths of the modules it changes
 */
public data class AdapterInfo(
    val name: String,
    val kind: AdapterKind,
    val baseModel: String?,
    val baseFingerprint: String?,
    val parameters: Long,
    val bytes: Long,
    val n: Int?,
    val rank: Int?,
    val alpha: Double?,
    val modules: List<String>,
)
