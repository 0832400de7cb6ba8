package dev.timbre

import dev.timbre.sample.state.SampleState
import dev.timbre.sample.state.memory
import dev.timbre.sample.state.megabytes
import kotlin.time.Duration.Companion.milliseconds
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test

/** What the sample's three pages do, without the pages. */
class SampleTest {
    @get:Rule internal val folder = Folder()

    @Test
    fun `a user chats, swaps, learns and comes back`() = runBlocking {
        val home = folder.file("home").apply { mkdir() }
        val voices = listOf(adapterFolder("devil"), adapterFolder("kjv"))
        suspend fun visit(block: suspend (SampleState) -> Unit) {
            val scope = CoroutineScope(Job() + Dispatchers.Default)
            val state = SampleState(scope, home)
            state.open(smol, voices).join()
            assertEquals(null, state.screen.value.problem)
            block(state)
            scope.cancel()
            state.close()
        }
        visit { state ->
            assertEquals(listOf("devil", "kjv"), state.screen.value.voices)
            state.say("Ahoy! I am the captain of this ship, matey.")
            withTimeout(20_000) { state.screen.first { it.messages.size == 2 && it.messages[1].content.length > 20 } }
            state.stop()
            withTimeout(5_000) { state.screen.first { !it.replying } }
            state.speakAs("devil").join()
            assertEquals("devil", state.screen.value.voice)
            assertNotNull(state.screen.value.lastSwap)
            state.say("Define the word ship, matey.")
            withTimeout(30_000) { state.screen.first { it.lastStats != null && !it.replying } }

            state.learnFromMessages(Budget.Steps(300))
            withTimeout(20_000) { state.screen.first { (it.learning ?: 0f) > 0f } }
            state.stopLearning()
            withTimeout(5_000) { state.screen.first { it.learning == null } }
            assertEquals("devil", state.screen.value.voice)
            state.learnFromMessages(Budget.Steps(2))
            withTimeout(20_000) { state.screen.first { it.voice == "mine" } }
            assertEquals(2, state.screen.value.losses.size)
        }
        visit { state ->
            assertEquals(listOf("devil", "kjv", "mine"), state.screen.value.voices)
            assertEquals(4, state.screen.value.messages.size)
            state.clear().join()
            assertTrue(state.screen.value.messages.isEmpty())
        }
    }

    @Test
    fun `what goes wrong is shown`() = runBlocking {
        val state = SampleState(this, folder.file("home"))
        state.open(folder.file("none.gguf"), emptyList()).join()
        assertTrue("${state.screen.value.problem}", "none.gguf" in state.screen.value.problem.orEmpty())
        assertEquals(2, memory(every = 1.milliseconds).take(2).toList().size)
        assertEquals("2 MB", megabytes(1_500_000))
    }
}
