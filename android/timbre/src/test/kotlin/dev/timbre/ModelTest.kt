package dev.timbre

import java.io.File
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test

class ModelTest {
    @get:Rule internal val folder = Folder()

    @Test
    fun `a model says what it is`() {
        val info = model.info
        assertEquals("llama", info.architecture)
        assertEquals(30, info.layers)
        assertEquals(576, info.hidden)
        assertEquals(49152, info.vocabulary)
        assertEquals(smol.length(), info.fileBytes)
        assertTrue(info.toString(), info.chat && info.parameters > 130_000_000 && info.threads >= 1)
        assertEquals(32, model.fingerprint.length)
        val device = Timbre.device()
        assertEquals(device.kernels, info.kernels)
        assertTrue(device.toString(), device.fastCores in 1..device.cores)
        assertTrue(Timbre.version.matches(Regex("""\d+\.\d+\.\d+.*""")))
    }

    @Test
    fun `tokens are counted`() = runBlocking {
        assertEquals(0, model.tokenCount(""))
        assertEquals(1, model.tokenCount("Hello"))
        assertTrue(model.tokenCount("\uD83E\uDD80 crabs, ünïcödé\u0000and a zero") > 8)
    }

    @Test
    fun `the estimate is what a session takes`() = runBlocking {
        val estimate = Model.memoryEstimate(smol, context = 2048)
        assertEquals(estimate.copy(available = 0), model.memoryEstimate(2048).copy(available = 0))
        assertEquals(smol.length(), estimate.file)
        // 30 layers, keys and values, 3 heads of 64 numbers of 16 bits.
        assertEquals(30L * 2 * 3 * 64 * 2 * 2048, estimate.keysAndValues)
        assertEquals(estimate.anonymous, estimate.keysAndValues + estimate.buffers)
        assertTrue(estimate.toString(), estimate.fits && estimate.available > 0)
        assertTrue(Model.memoryEstimate(smol, 2048, KvPrecision.Q8).keysAndValues * 2 < estimate.keysAndValues * 1.1)

        val before = anonymous()
        Model.open(smol).use { own ->
            own.session(SessionOptions(context = 1024)).use { session ->
                val words = List(1000) { "the" }.joinToString(" ")
                session.complete(words, short(1)).use { it.result() }
                val taken = anonymous() - before
                val full = own.memoryEstimate(1024)
                println("       estimated ${full.anonymous} bytes, taken $taken")
                assertTrue("$taken of $full", taken < full.anonymous * 1.1)
                assertTrue("$taken of $full", taken > full.anonymous * 0.6)
            }
        }
    }

    @Test
    fun `opening tells how far it is`() = runBlocking {
        val heard = mutableListOf<Pair<Long, Long>>()
        Model.open(smol, ModelOptions(threads = 1, warmUp = true)) { done, total -> heard += done to total }.use {
            assertEquals(1, it.info.threads)
        }
        assertTrue("$heard", heard.size > 10 && heard.zipWithNext().all { (a, b) -> a.first < b.first })
        assertEquals(heard.last().first, heard.last().second)
        assertTrue(heard.last().second > smol.length() * 9 / 10)
    }

    @Test
    fun `opening can be cancelled, and what a listener throws arrives`() = runBlocking {
        val options = ModelOptions(warmUp = true)
        var calls = 0
        val opening = async(Dispatchers.Default) {
            Model.open(smol, options) { _, _ ->
                calls++
                Thread.sleep(50)
            }
        }
        delay(120)
        withTimeout(1000) { opening.cancel(); runCatching { opening.await() } }
        assertTrue(opening.isCancelled)
        delay(150)
        val after = calls
        delay(150)
        assertEquals(after, calls)
        assertTrue("$calls", calls in 1..6)
        class Mine : Exception("mine")
        val thrown = failure<Mine> { Model.open(smol, options) { _, _ -> throw Mine() } }
        assertEquals("mine", thrown.message)
    }

    @Test
    fun `what is no model is refused with its reason`() = runBlocking {
        val missing = failure<TimbreException.Io> { Model.open(folder.file("none.gguf")) }
        assertTrue(missing.path, missing.path.endsWith("none.gguf"))

        val text = folder.file("text.gguf").apply { writeText("This is no model at all, but long enough to be read.") }
        val wrong = failure<TimbreException.CorruptFile> { Model.open(text) }
        assertEquals(text.path, wrong.path)
        assertEquals(0L, wrong.offset)
        assertTrue(wrong.reason, "GGUF" in wrong.reason)

        val cut = folder.file("cut.gguf")
        smol.inputStream().use { from -> cut.outputStream().use { it.write(from.readNBytes(100_000)) } }
        val truncated = failure<TimbreException.CorruptFile> { Model.open(cut) }
        assertEquals(cut.path, truncated.path)
        assertNotNull(truncated.reason, truncated.offset)

        val mamba = folder.file("mamba.gguf").apply { writeBytes(emptyGguf("mamba")) }
        val unsupported = failure<TimbreException.UnsupportedModel> { Model.open(mamba) }
        assertTrue(unsupported.what, "mamba" in unsupported.what)
        assertEquals(unsupported.what, failure<TimbreException.UnsupportedModel> { Model.memoryEstimate(mamba) }.what)
    }

    @Test
    fun `options out of range are refused`() = runBlocking {
        for (threads in listOf(0, -1, 100_000)) {
            val error = failure<TimbreException.InvalidArgument> { Model.open(smol, ModelOptions(threads = threads)) }
            assertEquals("threads", error.what)
            assertEquals("$threads", error.found)
        }
        val foreign = if (System.getProperty("os.arch") == "aarch64") Kernels.AVX2 else Kernels.NEON
        assertEquals("kernels", failure<TimbreException.InvalidArgument> { Model.open(smol, ModelOptions(kernels = foreign)) }.what)
        for (context in listOf(0, -5, Int.MAX_VALUE)) {
            val options = SessionOptions(context = context)
            assertEquals("context", failure<TimbreException.InvalidArgument> { model.session(options) }.what)
            assertEquals("context", failure<TimbreException.InvalidArgument> { model.memoryEstimate(context) }.what)
        }
    }

    @Test
    fun `more memory than there is is refused before it is taken`() = runBlocking {
        val before = anonymous()
        val estimate = model.memoryEstimate(1 shl 20)
        // 23 GB; on a machine with more there is nothing to refuse.
        if (!estimate.fits) {
            val error = failure<TimbreException.OutOfMemory> { model.session(SessionOptions(context = 1 shl 20)) }
            assertEquals(estimate.anonymous, error.needed)
            assertTrue("$error", error.available in 1 until error.needed)
        }
        assertTrue(anonymous() - before < 4 shl 20)
    }

    @Test
    fun `activations are rounded as asked`() = runBlocking {
        assertEquals(Activations.INT15, model.info.activations)
        Model.open(smol, ModelOptions(activations = Activations.INT8)).use { own ->
            assertEquals(Activations.INT8, own.info.activations)
            own.session(SessionOptions(context = 64)).use { session ->
                assertTrue(session.respond("Hi", short(2)).text.isNotEmpty())
            }
        }
    }

    @Test
    fun `a GPU is used or its absence has a reason`() = runBlocking {
        gpuCache.deleteRecursively()
        Timbre.keepGpuCache(gpuCache)
        try {
            Model.open(smol, ModelOptions(backend = Backend.GPU)).use { own ->
                assertTrue("what was found out is kept", "passed" in File(gpuCache, "gpu-verdicts.json").readText())
                own.suspendGpu()
                own.session(SessionOptions(context = 64)).use { session ->
                    assertEquals("suspended", null, session.respond("Hi", short(2)).stats.gpu)
                }
                own.resumeGpu()
            }
        } catch (error: TimbreException.GpuUnavailable) {
            assertTrue(error.reason.isNotBlank())
        }
        Model.open(smol, ModelOptions(backend = Backend.CPU)).use { own ->
            own.suspendGpu()
            own.resumeGpu()
            own.session(SessionOptions(context = 64)).use { session ->
                assertEquals(null, session.respond("Hi", short(2)).stats.gpu)
            }
        }
    }

    @Test
    fun `a folder for what is found out about GPUs is made or refused`() = runBlocking {
        gpuCache.deleteRecursively()
        Timbre.keepGpuCache(gpuCache)
        Timbre.keepGpuCache(gpuCache)
        assertTrue(gpuCache.isDirectory)
        val file = folder.file("file").apply { writeText("no folder") }
        for (bad in listOf(file, File(file, "below"))) {
            val error = failure<TimbreException.Io> { Timbre.keepGpuCache(bad) }
            assertEquals(bad.path, error.path)
            assertTrue(error.reason.isNotBlank())
        }
        assertEquals("folder", failure<TimbreException.InvalidArgument> { Timbre.keepGpuCache(File("")) }.what)
        assertEquals("no folder", file.readText())
    }

    @Test
    fun `sessions outlive their model's object, and what is closed says so`() = runBlocking {
        val own = Model.open(smol)
        val session = own.session(SessionOptions(context = 64))
        own.close()
        own.close()
        assertTrue(session.respond("Hi", short(3)).stats.generatedTokens > 0)
        failure<IllegalStateException> { own.session() }
        session.close()
        session.close()
        assertFalse(failure<IllegalStateException> { session.respond("Hi") } is CancellationException)
    }

    @Test
    fun `nothing here is done on the caller's thread`() {
        val single = java.util.concurrent.Executors.newSingleThreadExecutor()
        val dispatcher = object : kotlinx.coroutines.CoroutineDispatcher() {
            override fun dispatch(context: kotlin.coroutines.CoroutineContext, block: Runnable) = single.execute(block)
        }
        var ticks = 0
        var longest = 0L
        runBlocking(dispatcher) {
            val ticker = launch {
                while (true) {
                    val begin = System.nanoTime()
                    delay(5)
                    longest = maxOf(longest, System.nanoTime() - begin)
                    ticks++
                }
            }
            Model.open(smol, ModelOptions(warmUp = true)).use { own ->
                own.session(SessionOptions(context = 512)).use { session ->
                    session.setAdapters(devil)
                    session.respond("Tell me about the sea and everything that lives in it.", short(48))
                }
            }
            ticker.cancel()
        }
        single.shutdown()
        assertTrue("$ticks ticks", ticks > 20)
        assertTrue("the thread was held for ${longest / 1_000_000} ms", longest < 200_000_000)
    }
}
