package dev.timbre

import dev.timbre.internal.native
import dev.timbre.internal.public
import dev.timbre.internal.typed
import java.io.File

/** What is known without a model. */
public object Timbre {
    /** The version of the native library. */
    public val version: String get() = typed { dev.timbre.ffi.version() }

    /** The processor, as this library uses it. */
    public fun device(): DeviceInfo = typed { dev.timbre.ffi.deviceInfo() }.public()

    /**
     * Memory of the process now, about a millisecond's work, or `null` where the system does not say (anything but Linux and
     * Android).
     */
    public fun memory(): MemoryUsage? = typed { dev.timbre.ffi.memoryUsage() }?.public()

    /**
     * Keeps in [folder], which is made where there is none, what is found out about GPUs: which kernels compute right on them, and
     * what their drivers compile. Without it every process tries and compiles each kernel anew. What the system removes from the
     * folder is found out again. No other application may be able to write there, for what was compiled goes back to the driver.
     *
     * Holds for models that come to a GPU from then on, so call it before one is opened; a model that is on a GPU goes on as it
     * did. Of several calls the last counts, and one that fails changes nothing. On Android,
     * `Timbre.keepGpuCache(context)` of `dev.timbre.android` names the folder.
     *
     * @throws TimbreException.Io if the folder cannot be made or written to
     * @throws TimbreException.InvalidArgument for an empty path
     */
    public suspend fun keepGpuCache(folder: File): Unit = native { dev.timbre.ffi.keepGpuCache(folder.path) }
}

/**
 * The processor, as this library uses it.
 *
 * @property kernels name of the kernels chosen for it
 * @property features instruction-set extensions that matter here
 * @property cores cores the process may use
 * @property fastCores those of them that are about as fast as the fastest
 * @property threads threads a model takes where none are asked for
 */
public data class DeviceInfo(
    val kernels: String,
    val features: List<String>,
    val cores: Int,
    val fastCores: Int,
    val threads: Int,
)

/**
 * Memory of the process, in bytes.
 *
 * @property anonymous heap and stacks: what the system's low-memory killer counts
 * @property file mapped files in memory, the model above all, which the system can drop and read again
 * @property swap anonymous pages that were moved out
 * @property available what could be had without swapping, in the whole system
 */
public data class MemoryUsage(val anonymous: Long, val file: Long, val swap: Long, val available: Long)
