package dev.timbre.internal

import java.util.concurrent.atomic.AtomicBoolean
import java.util.concurrent.atomic.AtomicInteger

/**
 * A native object that is given back when it is closed and nothing uses it any more.
 *
 * The generated classes count the calls of their own methods, but not their use as an argument of another's: one that was
 * closed, or is closed meanwhile, would be read after it is gone. Everything goes through [use] instead.
 *
 * @property what what messages call it
 */
internal class Handle<T : AutoCloseable>(private val native: T, private val what: String) {
    /** One for being open, one for each use. */
    private val holds = AtomicInteger(1)
    private val closed = AtomicBoolean(false)

    /** Whether it was closed, though it may still be in use. */
    val isClosed: Boolean get() = closed.get()

    /** Runs [block] with the native object, which lives until it returns. */
    inline fun <R> use(block: (T) -> R): R {
        acquire()
        try {
            return block(native)
        } finally {
            release()
        }
    }

    /** Runs [block] unless it was closed. */
    inline fun ifOpen(block: (T) -> Unit) {
        if (tryAcquire()) {
            try {
                block(native)
            } finally {
                release()
            }
        }
    }

    /** No use begins after this; the last one that is under way gives the native object back. */
    fun close() {
        if (closed.compareAndSet(false, true)) release()
    }

    private fun acquire() = check(tryAcquire()) { "the $what is closed" }

    private fun tryAcquire(): Boolean {
        while (true) {
            val count = holds.get()
            if (count == 0 || closed.get()) return false
            if (holds.compareAndSet(count, count + 1)) return true
        }
    }

    private fun release() {
        if (holds.decrementAndGet() == 0) native.close()
    }
}

/** Runs [block] with the native objects of all of [handles], in their order. */
internal fun <T : AutoCloseable, R> List<Handle<T>>.useAll(block: (List<T>) -> R): R {
    fun next(index: Int, held: List<T>): R =
        if (index == size) block(held) else this[index].use { next(index + 1, held + it) }
    return next(0, emptyList())
}
