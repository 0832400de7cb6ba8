package dev.timbre

import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import kotlin.time.measureTime
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test

/** What a model goes on with for long. */
private const val COUNT = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,"

class SessionTest {
    @get:Rule internal val folder = Folder()

    @Test
    fun `a reply comes whole or in pieces, the same`() = withSession { session ->
        val reply = session.respond("What is the capital of France?", short(24))
        assertTrue(reply.text, "Paris" in reply.text)
        session.clear()
        val events = session.events("What is the capital of France?", short(24)).toList()
        val pieces = events.filterIsInstance<ReplyEvent.Text>()
        assertTrue("${pieces.size}", pieces.size > 3)
        assertEquals(reply.text, pieces.joinToString("") { it.text })
        val end = (events.last() as ReplyEvent.End).reply
        assertEquals(reply.text to reply.finish, end.text to end.finish)
        session.clear()
        val gathered = short(24).copy(gather = 50.milliseconds)
        val fewer = session.stream("What is the capital of France?", gathered).toList()
        assertEquals(reply.text, fewer.joinToString(""))
        assertTrue("${fewer.size} of ${pieces.size}", fewer.size < pieces.size)
    }

    @Test
    fun `a reply says what it cost`() = withSession { session ->
        val stats = session.respond("Name three colours.", short(12)).stats
        assertTrue("$stats", stats.promptTokens > 8 && stats.prefillTokens == stats.promptTokens)
        assertTrue("$stats", stats.generatedTokens in 4..12)
        assertTrue("$stats", stats.timeToFirstToken >= stats.prefill && stats.prefill > 0.milliseconds)
        assertTrue("$stats", stats.decode > 0.milliseconds && stats.decodeRate > 5 && stats.prefillRate > 20)
        assertTrue("$stats", checkNotNull(stats.anonymousBytes) > stats.kvBytes / 100)
        assertEquals(30L * 2 * 3 * 64 * 2 * 512, stats.kvBytes)
        val second = session.respond("And three more.", short(4)).stats
        assertTrue("$second", second.cachedTokens > stats.promptTokens / 2 && second.prefillTokens < second.promptTokens)
    }

    @Test
    fun `the conversation is remembered`() = withSession(
        SessionOptions(instructions = "You are a helpful assistant.", context = 1024),
    ) { session ->
        assertEquals(listOf(Message.system("You are a helpful assistant.")), session.history)
        val first = session.respond("My name is Ada.", short(16))
        val before = session.historyTokens()
        val second = session.respond("What is my name?", short(16))
        assertTrue("${second.stats} after $before", second.stats.promptTokens > before)
        assertTrue("${second.stats}", second.stats.cachedTokens > second.stats.promptTokens / 2)
        val roles = listOf(Role.System, Role.User, Role.Assistant, Role.User, Role.Assistant)
        assertEquals(roles, session.history.map { it.role })
        assertEquals(listOf(first.text, second.text), session.history.filter { it.role == Role.Assistant }.map { it.content })
        assertTrue(session.historyTokens() > 40)
        val talk = listOf(Message.user("What is the capital of Italy?"), Message.assistant("Rome."))
        session.setHistory(talk)
        assertEquals(talk, session.history)
        val third = session.respond("And of France?", short(16))
        assertTrue(third.text, "Paris" in third.text)
        session.clear()
        assertEquals(1, session.history.size)
        assertEquals(1024, session.capacity)
    }

    @Test
    fun `replies end where they are told to`() = withSession { session ->
        val whole = session.respond("Count from one to ten.", short(48)).text
        assertEquals(Finish.LENGTH, session.respond("Again.", short(5)).finish)
        session.clear()
        val stop = whole.substring(whole.length / 2).trim().take(4)
        val stopped = session.respond("Count from one to ten.", short(48).copy(stop = listOf(stop)))
        assertEquals(Finish.STOP_TEXT, stopped.finish)
        assertEquals(whole.substringBefore(stop), stopped.text)
        session.clear()
        val drawn = short(16).copy(temperature = 1.2f, topK = 0, topP = 1f, seed = 7)
        val once = session.respond("Write a line of verse.", drawn).text
        session.clear()
        assertEquals(once, session.respond("Write a line of verse.", drawn).text)
        session.clear()
        assertNotEquals(once, session.respond("Write a line of verse.", drawn.copy(seed = 8)).text)
    }

    @Test
    fun `options that cannot be are refused and leave no trace`() = withSession { session ->
        val bad = listOf(
            "temperature" to short(1).copy(temperature = Float.NaN),
            "temperature" to short(1).copy(temperature = -1f),
            "top_p" to short(1).copy(topP = 2f),
            "repeat_penalty" to short(1).copy(repeatPenalty = 0f),
            "stop" to short(1).copy(stop = listOf("")),
            "maxTokens" to short(-1),
        )
        for ((name, options) in bad) {
            assertEquals(name, failure<TimbreException.InvalidArgument> { session.respond("Hi", options) }.what)
        }
        assertEquals(emptyList<Message>(), session.history)
        val refused = failure<TimbreException.InvalidArgument> { session.complete("", short(1)).use { it.result() } }
        assertEquals("prompt", refused.what)
        assertTrue(session.respond("Hi", short(2)).stats.generatedTokens > 0)
    }

    @Test
    fun `a full context is an error before and an end after the first token`() = withSession(
        SessionOptions(context = 48),
    ) { session ->
        val words = List(100) { "word" }.joinToString(" ")
        val full = failure<TimbreException.ContextFull> { session.respond(words) }
        assertEquals(48L, full.capacity)
        assertTrue("${full.added}", full.added > 100)
        assertEquals("a question that fails is taken back", emptyList<Message>(), session.history)
        val reply = session.respond("Tell me a long story about a fox.", short(200))
        assertEquals(Finish.CONTEXT_FULL, reply.finish)
        assertTrue(reply.text.isNotBlank())
    }

    @Test
    fun `a collector that goes ends the generation within a token`() = withSession(
        SessionOptions(context = 1024),
    ) { session ->
        val long = short(900)
        assertEquals(3, session.stream("Tell me a very long story.", long).take(3).toList().size)
        // At once: the session waits for the end of what was cancelled, and for nothing else.
        val again = measureTime { session.respond("Stop.", short(1)) }
        assertTrue("$again", again < 2.seconds)
        val partial = session.history[1]
        assertTrue("$partial", partial.role == Role.Assistant && partial.content.length in 1..400)

        val generation = session.complete(COUNT, long)
        var heard = ""
        generation.pieces.onEach {
            heard += it
            if (heard.length > 10) generation.cancel()
        }.collect()
        val reply = generation.result()
        assertEquals(reply.text, Finish.CANCELLED, reply.finish)
        // A number, a comma and a space are three tokens: what was generated after the last that was heard is one or none.
        assertTrue("$heard then ${reply.text}", reply.text.length <= heard.length + 6)
        generation.close()
    }

    @Test
    fun `cancelling a coroutine ends its reply, in the prompt too`() = withSession(
        SessionOptions(context = 1200),
    ) { session ->
        val prompt = List(1000) { "word" }.joinToString(" ")
        val whole = measureTime { session.complete(prompt, short(1)).use { it.result() } }
        session.clear()
        val job = launch(Dispatchers.Default) { session.complete(prompt, short(1)).use { it.result() } }
        delay(whole / 10)
        val returned = measureTime { job.cancelAndJoin() }
        assertTrue("$returned to return", returned < 100.milliseconds)
        val free = measureTime { session.respond("Hi", short(1)) }
        assertTrue("$free until it is free, a prompt takes $whole", free < whole / 2 + 300.milliseconds)

        val streaming = launch(Dispatchers.Default) { session.complete(COUNT, short(900)).use { it.pieces.collect() } }
        delay(150)
        assertTrue(measureTime { streaming.cancelAndJoin() } < 100.milliseconds)
        session.respond("Hi", short(1))
        Unit
    }

    @Test
    fun `one reply at a time`() = withSession(SessionOptions(context = 1024)) { session ->
        val generation = session.generate("Count from one to one thousand.", short(800))
        failure<TimbreException.Busy> { session.respond("And?") }
        failure<TimbreException.Busy> { session.setAdapters(devil) }
        failure<TimbreException.Busy> { session.clear() }
        failure<TimbreException.Busy> { session.save(folder.file("busy")) }
        assertEquals(false, session.trimMemory())
        assertEquals(Message.user("Count from one to one thousand."), session.history.last())
        session.cancel()
        assertEquals(Finish.CANCELLED, generation.result().finish)
        assertTrue(generation.isFinished)
        session.clear()
        generation.close()
    }

    @Test
    fun `two sessions at once say what each says alone`() = runBlocking {
        val prompts = listOf("What is the capital of France?", "Name three animals.")
        suspend fun reply(prompt: String) =
            model.session(SessionOptions(context = 256)).use { it.respond(prompt, short(24)).text }
        val alone = prompts.map { reply(it) }
        repeat(2) {
            val together = prompts.map { prompt -> async(Dispatchers.Default) { reply(prompt) } }.awaitAll()
            assertEquals(alone, together)
        }
    }

    @Test
    fun `a conversation is saved and restored`() = withSession { session ->
        session.respond("My name is Ada.", short(16))
        val file = folder.file("chat.session")
        session.save(file)
        val bytes = session.toByteArray()
        assertTrue("${file.length()}", file.length() in 50..20_000 && file.readBytes().contentEquals(bytes))
        val history = session.history
        val next = session.respond("What is my name?", short(12)).text
        model.session(SessionOptions(context = 512)).use { other ->
            other.restore(file)
            assertEquals(history, other.history)
            assertEquals(next, other.respond("What is my name?", short(12)).text)
            other.restore(bytes)
            assertEquals(history, other.history)

            bytes[bytes.size / 2] = (bytes[bytes.size / 2] + 1).toByte()
            failure<TimbreException.CorruptFile> { other.restore(bytes) }
            file.writeBytes(bytes)
            assertEquals(file.path, failure<TimbreException.CorruptFile> { other.restore(file) }.path)
            failure<TimbreException.CorruptFile> { other.restore(ByteArray(0)) }
            failure<TimbreException.Io> { other.restore(folder.file("none")) }
            failure<TimbreException.Io> { other.save(folder.file("no/such/folder")) }
            assertEquals("what was there stays", history, other.history)
        }
        Model.open(gemma).use { foreign ->
            foreign.session(SessionOptions(context = 64)).use {
                val error = failure<TimbreException.InvalidArgument> { it.restore(session.toByteArray()) }
                assertEquals(foreign.fingerprint, error.expected)
            }
        }
    }

    @Test
    fun `memory is given back and taken again`() = withSession(SessionOptions(context = 2048)) { session ->
        val prompt = List(900) { "word" }.joinToString(" ")
        session.respond(prompt, short(1))
        val expected = session.respond("Hi", short(8))
        session.setHistory(session.history.dropLast(2))
        val before = anonymous()
        assertTrue(session.trimMemory(TrimLevel.BUFFERS))
        assertTrue(session.trimMemory(TrimLevel.ALL))
        val after = anonymous()
        println("       given back: ${before - after} bytes")
        // 900 positions of 23 KB.
        assertTrue("$before, $after", before - after > 20_000_000)
        val reply = session.respond("Hi", short(8))
        assertEquals(expected.text, reply.text)
        assertEquals(0, reply.stats.cachedTokens)
    }

    @Test
    fun `a hundred sessions leave nothing behind`() = runBlocking {
        suspend fun one(index: Int) = model.session(SessionOptions(context = 256)).use { session ->
            session.setAdapters(if (index % 2 == 0) devil else kjv)
            when (index % 3) {
                0 -> session.respond("Hi $index", short(2)).text
                1 -> session.stream("Hi $index", short(8)).take(1).toList()
                else -> session.generate("Hi $index", short(64))
            }
        }
        repeat(30) { one(it) }
        val before = anonymous()
        repeat(100) { one(it) }
        val growth = anonymous() - before
        println("       growth over 100 sessions: $growth bytes")
        // A session's pages are 10 MB. What is seen is the virtual machine's own: code it compiles, its heap.
        assertTrue("$growth", growth < 6_000_000)
    }

    @Test
    fun `texts are continued beside the conversation`() = runBlocking {
        model.session(SessionOptions(context = 128)).use { session ->
            val text = session.complete(COUNT, short(6)).use { it.result().text }
            assertTrue(text, text.any { it.isDigit() })
            assertEquals(emptyList<Message>(), session.history)
        }
        Model.open(gemma).use { other ->
            other.session(SessionOptions(context = 128)).use { session ->
                val text = session.complete(COUNT, short(6)).use { it.result().text }
                assertTrue(text, text.any { it.isDigit() })
                if (!other.info.chat) failure<TimbreException.UnsupportedModel> { session.respond("Hi") }
            }
        }
    }
}
