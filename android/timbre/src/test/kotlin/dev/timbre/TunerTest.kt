package dev.timbre

import java.io.File
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import kotlin.time.measureTime
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
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

class TunerTest {
    @get:Rule internal val folder = Folder()

    private val messages = listOf(
        "Ahoy! I shall be at the harbour at noon, matey.",
        "Ahoy! The tide be high and the wind be fair, matey.",
        "Ahoy! Bring the charts and a barrel of biscuits, matey.",
        "Ahoy! I sleep aboard tonight, the stars be bright, matey.",
        "Ahoy! No ship be faster than the one we sail, matey.",
        "Ahoy! Write to me from the next port, matey.",
    )

    private fun few(steps: Int) = TuningOptions(budget = Budget.Steps(steps), batch = 2, heldoutShare = 0.0)

    @Test
    fun `what is learnt is used at once, saved and loaded`() = runBlocking {
        val events = mutableListOf<TuningEvent>()
        val result = model.tuner(TuningData.Texts(messages), few(6), "pirate").use { tuner ->
            assertTrue("${tuner.plannedBytes}", tuner.plannedBytes in 1_000_000..200_000_000)
            tuner.run { events += it }
        }
        val steps = events.filterIsInstance<TuningEvent.Step>()
        assertEquals((1L..6L).toList(), steps.map { it.step })
        assertEquals(1.0, steps.last().progress, 1e-6)
        assertTrue("$steps", steps.all { it.loss > 0 && it.duration > 0.milliseconds && it.tokensPerSecond > 0 })
        val report = result.report
        assertEquals(TuningStop.BUDGET to 6L, report.stop to report.steps)
        assertEquals(6 to 0, report.examples to report.heldoutExamples)
        assertTrue("${report.losses}", report.losses.last() < report.losses.first())
        assertTrue("$report", checkNotNull(report.peakAnonymousBytes) > 10_000_000 && report.tokens > 100)
        assertEquals("pirate" to model.fingerprint, result.adapter.name to result.adapter.info.baseFingerprint)

        model.session(SessionOptions(context = 128)).use { session ->
            suspend fun say(vararg adapters: Adapter): String {
                session.setAdapters(*adapters)
                return session.complete("Ahoy! I", short(8)).use { it.result().text }
            }
            val learnt = say(result.adapter)
            assertNotEquals(say(), learnt)
            val file = folder.file("pirate.safetensors")
            result.adapter.save(file)
            Adapter.load(file).use { assertEquals(learnt, say(it)) }
        }
        // On from there, in the same modules.
        val more = few(2).copy(from = result.adapter)
        val second = model.tuner(TuningData.Texts(messages), more).use { it.run() }
        assertTrue("${second.report.losses}", second.report.losses.first() < report.losses.first())
    }

    @Test
    fun `every form of data is learnt from, and a held-out part scored`() = runBlocking {
        val chat = listOf(Message.user("Where are you?"), Message.assistant("Aboard, matey."))
        val text = folder.file("notes.txt").apply { writeText(messages.joinToString(" ").repeat(4)) }
        val lines = folder.file("lines.jsonl")
        lines.writeText(File(root, "assets/texts/devil-short.jsonl").readLines().take(12).joinToString("\n"))
        val forms = listOf(
            TuningData.Completions(messages.map { "Say something." to it }),
            TuningData.Chats(List(6) { chat }),
            TuningData.FromFile(lines),
            TuningData.FromFile(text),
        )
        for (data in forms) {
            val options = TuningOptions(budget = Budget.Steps(1), batch = 1, heldoutShare = 0.2, layers = "28-29", maxLength = 48)
            val scores = mutableListOf<TuningEvent.Scored>()
            val result = model.tuner(data, options).use { tuner -> tuner.run { if (it is TuningEvent.Scored) scores += it } }
            assertEquals("$data", 2, scores.size)
            assertEquals(scores.first().heldoutLoss, checkNotNull(result.report.heldoutBefore), 1e-9)
            assertTrue(result.report.heldoutExamples >= 1)
            assertEquals(4, result.adapter.info.modules.size)
        }
        val lora = TuningOptions(budget = Budget.Steps(1), batch = 1, method = TuningMethod.Lora(rank = 2), layers = "29")
        val adapter = model.tuner(TuningData.Texts(messages), lora).use { it.run() }.adapter
        assertEquals(AdapterKind.LORA to 2, adapter.info.kind to adapter.info.rank)
        val timed = few(1).copy(budget = Budget.Time(0.2.seconds), layers = "29")
        assertTrue(model.tuner(TuningData.Texts(messages), timed).use { it.run() }.report.steps >= 1)
    }

    @Test
    fun `a run waits, goes on, and can be ended with what it has`() = runBlocking {
        model.tuner(TuningData.Texts(messages), few(400)).use { tuner ->
            var paused = 0
            var resumed = 0
            var steps = 0L
            val running = async(Dispatchers.Default) {
                tuner.run { event ->
                    when (event) {
                        is TuningEvent.Paused -> paused++
                        is TuningEvent.Resumed -> resumed++
                        is TuningEvent.Step -> {
                            steps = event.step
                            if (event.step == 2L) tuner.pause()
                        }
                        else -> Unit
                    }
                }
            }
            while (paused == 0) delay(10)
            val held = steps
            delay(400)
            assertEquals(held, steps)
            tuner.resume()
            while (steps < held + 2) delay(10)
            tuner.cancel()
            val result = running.await()
            assertEquals(TuningStop.CANCELLED, result.report.stop)
            assertEquals(1 to 1, paused to resumed)
            assertTrue("${result.report}", result.report.steps in steps..steps + 1 && result.report.adapterStep >= held)
            assertTrue(tuner.isFinished)
            assertTrue(result.adapter.toByteArray().size > 200_000)
        }
    }

    @Test
    fun `a collector that goes ends the run within a step`() = runBlocking {
        val options = few(400)
        model.tuner(TuningData.Texts(messages), options).use { tuner ->
            assertEquals(2, tuner.events.take(2).toList().size)
            assertEquals(TuningStop.CANCELLED, tuner.result().report.stop)
        }
        model.tuner(TuningData.Texts(messages), options).use { tuner ->
            val job = launch(Dispatchers.Default) { tuner.run() }
            delay(300)
            assertTrue(measureTime { job.cancelAndJoin() } < 100.milliseconds)
            assertEquals(TuningStop.CANCELLED, tuner.result().report.stop)
        }
    }

    @Test
    fun `a run goes on from its checkpoint to the same result`() = runBlocking {
        val data = TuningData.Texts(messages)
        val whole = model.tuner(data, few(5)).use { it.run() }
        val options = few(5).copy(checkpoint = folder.file("run.checkpoint"))
        model.tuner(data, options).use { tuner ->
            tuner.events.onEach { if (it.step == 2L && it is TuningEvent.Step) tuner.cancel() }.collect()
            assertEquals(2L, tuner.result().report.steps)
        }
        assertTrue(folder.file("run.checkpoint").exists())
        val other = options.copy(seed = 1)
        val mismatch = failure<TimbreException.InvalidArgument> { model.tuner(data, other) }
        assertTrue(mismatch.what, "run.checkpoint" in mismatch.what)
        val rest = model.tuner(data, options).use { it.run() }
        assertEquals(5L, rest.report.steps)
        assertTrue(whole.adapter.toByteArray().contentEquals(rest.adapter.toByteArray()))
        assertTrue(!folder.file("run.checkpoint").exists())
    }

    @Test
    fun `what cannot be learnt is refused before it begins`() = runBlocking {
        suspend fun refused(data: TuningData = TuningData.Texts(messages), options: TuningOptions = few(1)) =
            failure<TimbreException.InvalidArgument> { model.tuner(data, options) }
        assertEquals("data", refused(TuningData.Texts(emptyList())).what)
        assertEquals("data", refused(TuningData.Texts(listOf(" ", "\n"))).what)
        assertEquals("data", refused(TuningData.Chats(listOf(listOf(Message.user("only me"))))).what)
        assertEquals("steps", refused(options = few(0)).what)
        assertEquals("batch", refused(options = few(1).copy(batch = 0)).what)
        assertEquals("learning rate", refused(options = few(1).copy(learningRate = Double.NaN)).what)
        assertEquals("targets", refused(options = few(1).copy(targets = listOf("nothing"))).what)
        assertEquals("layers", refused(options = few(1).copy(layers = "40")).what)
        assertEquals("layers", refused(options = few(1).copy(layers = "x")).what)
        assertEquals("n", refused(options = few(1).copy(method = TuningMethod.Fourier(n = 10_000_000))).what)
        val memory = failure<TimbreException.OutOfMemory> {
            model.tuner(TuningData.Texts(messages), few(1).copy(memoryLimit = 1000))
        }
        assertEquals(1000L, memory.available)
        failure<TimbreException.Io> { model.tuner(TuningData.FromFile(folder.file("none.txt"))) }
        val lines = folder.file("bad.jsonl").apply { writeText("{\"prompt\":\"a\",\"completion\":\"b\"}\n{oops\n") }
        val bad = failure<TimbreException.CorruptFile> { model.tuner(TuningData.FromFile(lines)) }
        assertTrue("$bad", bad.path == lines.path && "line 2" in bad.reason)
        val nowhere = few(1).copy(checkpoint = folder.file("no/folder/run"))
        failure<TimbreException.Io> { model.tuner(TuningData.Texts(messages), nowhere).use { it.run() } }
        failure<TimbreException.InvalidArgument> { model.tuner(TuningData.Texts(messages), few(1)).use { it.result() } }
        Unit
    }
}
