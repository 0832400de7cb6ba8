package dev.timbre

import java.io.File
import java.nio.file.Files
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.runBlocking
import org.junit.rules.ExternalResource

/** The repository. */
internal val root = File(System.getenv("TIMBRE_ROOT") ?: error("TIMBRE_ROOT is not set"))

/** Where the test models are. */
internal val models = File(System.getenv("TIMBRE_TEST_MODELS") ?: File(root, "target/models").path)

/** SmolLM2-135M-Instruct, which has a chat template. */
internal val smol = File(models, "SmolLM2-135M-Instruct.Q4_1.gguf")

/** Gemma 3 270M, of another architecture. */
internal val gemma = File(models, "gemma-3-270m-Q4_K_M.gguf")

/** Where tests keep what is found out about GPUs, which outlives them. */
internal val gpuCache = File(root, "target/gpu-cache/kotlin")

internal fun adapterFolder(name: String) = File(root, "assets/adapters/$name")

/** The model that tests share, as an application would. */
internal val model: Model by lazy { runBlocking { Model.open(smol) } }

internal val devil: Adapter by lazy { runBlocking { Adapter.load(adapterFolder("devil")) } }

internal val kjv: Adapter by lazy { runBlocking { Adapter.load(adapterFolder("kjv")) } }

/** A folder that is gone after the test. */
internal class Folder : ExternalResource() {
    private lateinit var folder: File

    override fun before() {
        folder = Files.createTempDirectory("timbre").toFile()
    }

    override fun after() {
        folder.deleteRecursively()
    }

    fun file(name: String) = File(folder, name)
}

/** A session that is closed after [block]. */
internal fun withSession(
    options: SessionOptions = SessionOptions(context = 512),
    block: suspend CoroutineScope.(Session) -> Unit,
): Unit = runBlocking { model.session(options).use { block(it) } }

/** The failure of [block], which has to be an [E]. */
internal inline fun <reified E : Throwable> failure(block: () -> Any?): E {
    val result = try {
        block()
    } catch (error: Throwable) {
        if (error is E) return error
        throw AssertionError("expected ${E::class.simpleName}", error)
    }
    throw AssertionError("expected ${E::class.simpleName}, got $result")
}

internal fun short(tokens: Int) = GenerationOptions(maxTokens = tokens)

/** A GGUF file of nothing but an architecture. */
internal fun emptyGguf(architecture: String): ByteArray {
    val key = "general.architecture"
    val buffer = java.nio.ByteBuffer.allocate(128).order(java.nio.ByteOrder.LITTLE_ENDIAN)
    buffer.put("GGUF".toByteArray()).putInt(3).putLong(0).putLong(1)
    buffer.putLong(key.length.toLong()).put(key.toByteArray())
    buffer.putInt(8).putLong(architecture.length.toLong()).put(architecture.toByteArray())
    return buffer.array()
}

/** Waits for the collector, then reads what the process holds. */
internal fun anonymous(): Long {
    repeat(3) {
        System.gc()
        System.runFinalization()
        Thread.sleep(30)
    }
    return checkNotNull(Timbre.memory()).anonymous
}
