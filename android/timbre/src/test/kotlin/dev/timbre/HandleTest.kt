package dev.timbre

import dev.timbre.internal.Handle
import java.util.concurrent.atomic.AtomicInteger
import kotlin.concurrent.thread
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class HandleTest {
    private class Native : AutoCloseable {
        val closes = AtomicInteger()
        override fun close() {
            closes.incrementAndGet()
        }
    }

    @Test
    fun `a native object goes after its last use`() {
        val native = Native()
        val handle = Handle(native, "thing")
        handle.use {
            handle.close()
            handle.close()
            assertTrue(handle.isClosed)
            assertEquals(0, native.closes.get())
            val message = failure<IllegalStateException> { handle.use { } }.message
            assertEquals("the thing is closed", message)
            handle.ifOpen { error("it is not open") }
        }
        assertEquals(1, native.closes.get())
    }

    @Test
    fun `no use meets a native object that is gone`() {
        repeat(200) {
            val native = Native()
            val handle = Handle(native, "thing")
            val users = List(3) {
                thread {
                    while (runCatching { handle.use { assertEquals(0, native.closes.get()) } }.getOrElse { error ->
                            if (error is AssertionError) throw error
                            null
                        } != null) {
                        Thread.onSpinWait()
                    }
                }
            }
            handle.close()
            users.forEach { it.join() }
            assertEquals(1, native.closes.get())
        }
    }

    @Test
    fun `what is closed is no argument`(): Unit = runBlocking {
        val gone = Adapter.load(adapterFolder("devil")).apply { close() }
        model.session(SessionOptions(context = 64)).use { session ->
            failure<IllegalStateException> { session.setAdapters(gone) }
            failure<IllegalStateException> { session.setAdapters(listOf(devil at 1f, gone at 1f)) }
            session.setAdapters(devil)
        }
        failure<IllegalStateException> { Adapter.mix("mix", listOf(gone at 1f)) }
        failure<IllegalStateException> { gone.requireCompatible(model) }
        failure<IllegalStateException> { model.tuner(TuningData.Texts(listOf("Hello there.")), TuningOptions(from = gone)) }
        val closed = Model.open(smol).apply { close() }
        failure<IllegalStateException> { closed.session() }
        failure<IllegalStateException> { devil.requireCompatible(closed) }
        failure<IllegalStateException> { closed.tokenCount("Hello") }
        Unit
    }
}
