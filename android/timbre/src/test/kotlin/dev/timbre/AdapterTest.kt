package dev.timbre

import java.io.File
import kotlin.time.Duration.Companion.milliseconds
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test

class AdapterTest {
    @get:Rule internal val folder = Folder()

    private suspend fun Session.say(vararg adapters: WeightedAdapter): String {
        clear()
        setAdapters(adapters.toList())
        return respond("Define the word \"friend\".", short(20)).text
    }

    @Test
    fun `an adapter says what it is`() = runBlocking {
        val info = devil.info
        assertEquals("devil", info.name)
        assertEquals(AdapterKind.FOURIER, info.kind)
        assertEquals(1000 to 300.0, info.n to info.alpha)
        assertNull(info.rank)
        assertEquals(60, info.modules.size)
        assertEquals(60_000L, info.parameters)
        assertEquals(240_000L, info.bytes)
        assertEquals("HuggingFaceTB/SmolLM2-135M-Instruct", info.baseModel)
        assertTrue(info.modules.first(), info.modules.first().startsWith("model.layers."))
        devil.requireCompatible(model)
        assertNull(devil.incompatibility(model))
    }

    @Test
    fun `a swap changes the voice and costs microseconds`() = withSession { session ->
        val base = session.say()
        val asDevil = session.say(devil at 1f)
        val asKjv = session.say(kjv at 1f)
        assertEquals(3, setOf(base, asDevil, asKjv).size)
        assertEquals(asDevil, session.say(devil at 1f))
        assertEquals(base, session.say(devil at 0f))
        assertNotEquals(asDevil, session.say(devil at 0.6f, kjv at 0.4f))
        assertEquals(base, session.say())
        val swaps = List(20) { session.setAdapters(if (it % 2 == 0) devil else kjv) }
        println("       swap: ${swaps.sorted()[10]} (median of 20)")
        assertTrue("$swaps", swaps.sorted()[10] < 1.milliseconds)
    }

    @Test
    fun `a swap within a conversation recomputes or keeps`() = withSession { session ->
        session.respond("Hello, my friend.", short(12))
        session.setAdapters(devil)
        val recomputed = session.respond("Define \"love\".", short(4)).stats
        assertEquals(0, recomputed.cachedTokens)
        session.setAdapters(kjv, policy = SwapPolicy.KEEP)
        val kept = session.respond("Define \"war\".", short(4)).stats
        assertTrue("$kept", kept.cachedTokens > 20)
    }

    @Test
    fun `saved and loaded it is the same`() = withSession { session ->
        val expected = session.say(devil at 1f)
        val single = folder.file("d.safetensors")
        val half = folder.file("h.safetensors")
        val peft = folder.file("peft")
        devil.save(single)
        devil.save(half, halfPrecision = true)
        devil.save(peft)
        assertTrue("${half.length()} ${single.length()}", half.length() < single.length() * 0.65)
        for (file in listOf(single, peft)) {
            Adapter.load(file).use { loaded ->
                assertEquals(devil.info.copy(name = file.nameWithoutExtension), loaded.info)
                assertEquals(expected, session.say(loaded at 1f))
            }
        }
        Adapter.load(half).use { assertTrue(session.say(it at 1f).isNotBlank()) }
        val bytes = devil.toByteArray()
        assertTrue(bytes.contentEquals(single.readBytes()))
        Adapter.load("mine", bytes).use { assertEquals("mine" to expected, it.name to session.say(it at 1f)) }
        val config = File(adapterFolder("devil"), "adapter_config.json").readBytes()
        val weights = File(adapterFolder("devil"), "adapter_model.safetensors").readBytes()
        Adapter.load("peft", config, weights).use { assertEquals(expected, session.say(it at 1f)) }
    }

    @Test
    fun `mixes are adapters`() = withSession { session ->
        Adapter.mix("both", listOf(devil at 0.5f, kjv at 0.5f)).use { both ->
            assertEquals("both", both.name)
            assertEquals(60_000L, both.info.parameters)
            assertEquals(session.say(devil at 0.5f, kjv at 0.5f), session.say(both at 1f))
            Adapter.mix("again", listOf(both at 2f), model).use { again ->
                assertEquals(session.say(devil at 1f, kjv at 1f), session.say(again at 1f))
            }
        }
        failure<TimbreException.InvalidArgument> { Adapter.mix("none", emptyList()) }
        failure<TimbreException.InvalidArgument> { Adapter.mix("nan", listOf(devil at Float.NaN)) }
        Unit
    }

    @Test
    fun `what does not fit is refused whole`() = runBlocking {
        Model.open(gemma).use { other ->
            val error = assertNotNullAnd(devil.incompatibility(other))
            assertTrue("$error", error.what.isNotBlank() && error.expected.isNotBlank() && error.found.isNotBlank())
            other.session(SessionOptions(context = 64)).use { session ->
                val before = session.complete("The sea is", short(5)).use { it.result().text }
                failure<TimbreException.IncompatibleAdapter> { session.setAdapters(devil) }
                assertEquals(before, session.complete("The sea is", short(5)).use { it.result().text })
            }
        }
        withNoSession {
            val weight = failure<TimbreException.InvalidArgument> { it.setAdapters(listOf(devil at Float.NaN)) }
            assertTrue(weight.what, "devil" in weight.what)
        }
    }

    @Test
    fun `damaged and foreign files have their reasons`() = runBlocking {
        assertTrue("none" in failure<TimbreException.Io> { Adapter.load(folder.file("none")) }.path)
        failure<TimbreException.InvalidArgument> { Adapter.load(folder.file("a.txt").apply { writeText("x") }) }
        val bad = folder.file("bad.safetensors").apply { writeText("no safetensors at all") }
        assertEquals(bad.path, failure<TimbreException.CorruptFile> { Adapter.load(bad) }.path)
        failure<TimbreException.CorruptFile> { Adapter.load("cut", devil.toByteArray().copyOf(1000)) }
        failure<TimbreException.CorruptFile> { Adapter.load("empty", ByteArray(0)) }
        val config = File(adapterFolder("devil"), "adapter_config.json")
        val weights = File(adapterFolder("devil"), "adapter_model.safetensors").readBytes()
        val method = config.readText().replace("FOURIERFT", "IA3").toByteArray()
        val error = failure<TimbreException.IncompatibleAdapter> { Adapter.load("ia3", method, weights) }
        assertTrue("$error", "peft_type" in error.what && "IA3" in error.found)
        val folderWithout = folder.file("peft").apply { mkdir() }
        failure<TimbreException.CorruptFile> { Adapter.load(folderWithout) }
        failure<TimbreException.InvalidArgument> { devil.save(folder.file("directory"), halfPrecision = true) }
        failure<TimbreException.Io> { devil.save(File("/proc/none/a.safetensors")) }
        Unit
    }

    private fun <T : Any> assertNotNullAnd(value: T?): T {
        assertNotNull(value)
        return checkNotNull(value)
    }

    private suspend fun withNoSession(block: suspend (Session) -> Unit) =
        model.session(SessionOptions(context = 64)).use { block(it) }
}
