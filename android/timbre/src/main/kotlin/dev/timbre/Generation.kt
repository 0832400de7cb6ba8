package dev.timbre

import dev.timbre.ffi.NativeGeneration
import dev.timbre.internal.Handle
import dev.timbre.internal.native
import dev.timbre.internal.public
import dev.timbre.internal.typed
import kotlin.time.Duration
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow

/**
 * A running reply. [close] ends it if it has not ended.
 *
 * Most code wants [Session.respond] or [Session.stream], which close it themselves.
 */
public class Generation internal constructor(
    native: NativeGeneration,
    gather: Duration,
) : AutoCloseable {
    private val handle = Handle(native, "generation")

    /**
     * Its text as it comes, in pieces of whole characters. Each piece goes to one collector, so it is to be collected once; a
     * collector that goes before the end ends the reply.
     */
    public val pieces: Flow<String> = flow {
        val milliseconds = gather.inWholeMilliseconds.coerceIn(0, UInt.MAX_VALUE.toLong()).toUInt()
        try {
            while (true) {
                emit(native(onCancel = ::cancel) { handle.use { it.next(milliseconds) } } ?: break)
            }
        } finally {
            cancel()
        }
    }

    /** Whether it has ended. */
    public val isFinished: Boolean get() = typed { handle.use { it.isFinished() } }

    /** The whole reply, when it has ended. Cancelling the coroutine that waits ends the generation. */
    public suspend fun result(): Reply = native(onCancel = ::cancel) { handle.use { it.result() } }.public()

    /** Ends it within a token, or within a batch of the prompt. Returns at once; [result] is what it had come to. */
    public fun cancel(): Unit = handle.ifOpen { it.cancel() }

    override fun close() {
        // A call that waits for text holds on to the native object, so that closing alone would not end it.
        cancel()
        handle.close()
    }
}

/** What [Session.events] tells. */
public sealed interface ReplyEvent {
    /**
     * More of the reply.
     *
     * @property text whole characters
     */
    public data class Text(val text: String) : ReplyEvent

    /**
     * Its end.
     *
     * @property reply the reply
     */
    public data class End(val reply: Reply) : ReplyEvent
}

/** Why a reply ended. */
public enum class Finish {
    /** The model ended it. */
    END_TOKEN,

    /** A stop text came. */
    STOP_TEXT,

    /** [GenerationOptions.maxTokens] were generated. */
    LENGTH,

    /** The context is full. */
    CONTEXT_FULL,

    /** It was cancelled. */
    CANCELLED,
}

/**
 * A reply that has ended.
 *
 * @property text the whole text
 * @property finish why it ended
 * @property stats what it cost
 */
public data class Reply(val text: String, val finish: Finish, val stats: Stats)

/**
 * What a reply cost.
 *
 * @property promptTokens tokens of the prompt, the history included
 * @property cachedTokens of those, the ones whose keys and values were held already
 * @property prefillTokens tokens run before the first new one
 * @property generatedTokens tokens generated
 * @property timeToFirstToken from the call to the first token
 * @property prefill time of the prefill
 * @property decode time after the first token
 * @property prefillRate tokens a second of prefill
 * @property decodeRate tokens a second after the first
 * @property swap time of the last swap of adapters
 * @property kvBytes bytes reserved for keys and values
 * @property anonymousBytes anonymous memory of the process, where the system says
 * @property gpu name of the GPU that the last token ran on; `null` for the processor
 */
public data class Stats(
    val promptTokens: Int,
    val cachedTokens: Int,
    val prefillTokens: Int,
    val generatedTokens: Int,
    val timeToFirstToken: Duration,
    val prefill: Duration,
    val decode: Duration,
    val prefillRate: Double,
    val decodeRate: Double,
    val swap: Duration,
    val kvBytes: Long,
    val anonymousBytes: Long?,
    val gpu: String?,
)
