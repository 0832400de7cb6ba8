package dev.timbre.internal

import dev.timbre.TimbreException
import dev.timbre.ffi.InternalException
import dev.timbre.ffi.ProgressListener
import kotlin.coroutines.resumeWithException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.asExecutor
import kotlinx.coroutines.suspendCancellableCoroutine

/** Threads that wait for the native library: those the process has for waiting anyway. */
private val threads = Dispatchers.IO.asExecutor()

/**
 * Runs [block], a call into the native library that takes its time, away from the caller's thread, with its errors typed.
 *
 * The caller is resumed at once when it is cancelled; [onCancel] then tells the library to stop, for a thread inside it
 * cannot be interrupted. A result that comes too late is closed.
 */
internal suspend fun <T> native(onCancel: () -> Unit = {}, block: () -> T): T =
    suspendCancellableCoroutine { continuation ->
        continuation.invokeOnCancellation { onCancel() }
        threads.execute {
            val result = runCatching { typed(block) }
            result.fold(
                onSuccess = { value -> continuation.resume(value) { _, late, _ -> (late as? AutoCloseable)?.close() } },
                onFailure = { error -> continuation.resumeWithException(error) },
            )
        }
    }

/** Runs [block], a call into the native library, with its errors typed. */
internal inline fun <T> typed(block: () -> T): T =
    try {
        block()
    } catch (error: dev.timbre.ffi.TimbreException) {
        throw error.public()
    } catch (error: InternalException) {
        throw TimbreException.Internal(error.message.orEmpty(), error)
    }

/** Passes progress on, and a wish to stop back. */
internal class Progress(private val listener: ((Long, Long) -> Unit)?) : ProgressListener {
    @Volatile private var stopped = false
    @Volatile private var thrown: Throwable? = null

    /** Ends the work at its next report. */
    fun stop() {
        stopped = true
    }

    override fun onProgress(done: ULong, total: ULong): Boolean {
        try {
            listener?.invoke(done.toLong(), total.toLong())
        } catch (error: Throwable) {
            // Not through the native library, which would make words of it.
            thrown = error
            return false
        }
        return !stopped
    }

    /** Runs [block]; what the listener threw is thrown in place of what the library makes of it. */
    inline fun <T> rethrowing(block: () -> T): T =
        try {
            block()
        } catch (error: dev.timbre.ffi.TimbreException) {
            throw thrown ?: error
        }
}

/** The error in the words of this package. */
internal fun dev.timbre.ffi.TimbreException.public(): TimbreException =
    when (this) {
        is dev.timbre.ffi.TimbreException.IncompatibleAdapter ->
            TimbreException.IncompatibleAdapter(what, expected, found, this)
        is dev.timbre.ffi.TimbreException.CorruptFile ->
            TimbreException.CorruptFile(path, offset?.toLong(), reason, this)
        is dev.timbre.ffi.TimbreException.UnsupportedModel -> TimbreException.UnsupportedModel(what, this)
        is dev.timbre.ffi.TimbreException.OutOfMemory ->
            TimbreException.OutOfMemory(needed.bounded(), available.bounded(), this)
        is dev.timbre.ffi.TimbreException.GpuUnavailable -> TimbreException.GpuUnavailable(reason, this)
        is dev.timbre.ffi.TimbreException.ContextFull ->
            TimbreException.ContextFull(capacity.bounded(), used.bounded(), added.bounded(), this)
        is dev.timbre.ffi.TimbreException.Cancelled -> TimbreException.Cancelled(this)
        is dev.timbre.ffi.TimbreException.Busy -> TimbreException.Busy(what, this)
        is dev.timbre.ffi.TimbreException.InvalidArgument ->
            TimbreException.InvalidArgument(what, expected, found, this)
        is dev.timbre.ffi.TimbreException.Io -> TimbreException.Io(path, reason, this)
        is dev.timbre.ffi.TimbreException.Internal -> TimbreException.Internal(reason, this)
    }

/** The number, or the largest a [Long] has. */
internal fun ULong.bounded(): Long = if (this > Long.MAX_VALUE.toULong()) Long.MAX_VALUE else toLong()
