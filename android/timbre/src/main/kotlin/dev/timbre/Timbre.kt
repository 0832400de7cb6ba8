package dev.timbre

import dev.timbre.internal.public
import dev.timbre.internal.typed

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
