package dev.timbre

import dev.timbre.ffi.NativeSession
import dev.timbre.internal.Handle
import dev.timbre.internal.native
import dev.timbre.internal.public
import dev.timbre.internal.toNative
import dev.timbre.internal.typed
import dev.timbre.internal.using
import java.io.File
import kotlin.time.Duration
import kotlin.time.Duration.Companion.microseconds
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.emitAll
import kotlinx.coroutines.flow.flow

/**
 * A conversation with a model, and the adapters it runs with.
 *
 * All functions may be called from the main thread. One reply is generated at a time: another call that needs the model
 * meanwhile throws [TimbreException.Busy], unless the reply was cancelled, in which case its end, within one token, is
 * waited for.
 *
 * ```kotlin
 * val session = model.session(SessionOptions(instructions = "You are brief."))
 * session.setAdapters(adapter)
 * session.stream("What is a friend?").collect { print(it) }
 * ```
 */
public class Session internal constructor(native: NativeSession) : AutoCloseable {
    private val handle = Handle(native, "session")

    /** The messages so far, instructions included. While a reply is generated, the message it replies to is the last. */
    public val history: List<Message> get() = typed { handle.use { it.history() } }.map { it.public() }

    /** Tokens it can hold. */
    public val capacity: Int = typed { native.capacity() }.toInt()

    /** Swaps to these adapters, each as it is; none for the base model. See the other form. */
    public suspend fun setAdapters(vararg adapters: Adapter, policy: SwapPolicy = SwapPolicy.RECOMPUTE): Duration =
        setAdapters(adapters.map { WeightedAdapter(it) }, policy)

    /**
     * Swaps to these adapters, which add up, each times its weight. The first use of an adapter on a model binds it; from then
     * on a swap costs microseconds, which are returned.
     *
     * @throws TimbreException.IncompatibleAdapter if one does not go with the model; the session keeps what it had
     */
    public suspend fun setAdapters(
        adapters: List<WeightedAdapter>,
        policy: SwapPolicy = SwapPolicy.RECOMPUTE,
    ): Duration = native {
        handle.use { session -> adapters.using { session.setAdapters(it, policy.toNative()) } }.microseconds
    }

    /**
     * The reply to [prompt], a message of the user. Both join [history] when it has ended. Cancelling the coroutine ends the
     * generation.
     *
     * @throws TimbreException.ContextFull if the conversation does not fit into the context; [history] is then as before
     */
    public suspend fun respond(prompt: String, options: GenerationOptions = GenerationOptions()): Reply =
        generate(prompt, options).use { it.result() }

    /**
     * The reply to [prompt] as it comes, in pieces of whole characters. Cold: each collection generates a reply, and one whose
     * collector goes, by cancellation, an exception or `take(n)`, is ended within a token. What it had come to then is
     * in [history].
     */
    public fun stream(prompt: String, options: GenerationOptions = GenerationOptions()): Flow<String> =
        flow { generate(prompt, options).use { emitAll(it.pieces) } }

    /** [stream], with the [Reply] and its statistics as its last event. */
    public fun events(prompt: String, options: GenerationOptions = GenerationOptions()): Flow<ReplyEvent> = flow {
        generate(prompt, options).use { generation ->
            generation.pieces.collect { emit(ReplyEvent.Text(it)) }
            emit(ReplyEvent.End(generation.result()))
        }
    }

    /** The running reply to [prompt] as an object, for who wants to cancel it by hand. It is to be closed. */
    public suspend fun generate(prompt: String, options: GenerationOptions = GenerationOptions()): Generation {
        val native = options.toNative()
        return Generation(native { handle.use { it.respond(prompt, native) } }, options.gather)
    }

    /**
     * A text continued as it is, without the model's chat format and beside the conversation, which is read anew at the next
     * reply. Also for models that hold no conversation.
     */
    public suspend fun complete(text: String, options: GenerationOptions = GenerationOptions()): Generation {
        val native = options.toNative()
        return Generation(native { handle.use { it.complete(text, native) } }, options.gather)
    }

    /** Makes these the messages so far. */
    public suspend fun setHistory(messages: List<Message>): Unit =
        native { handle.use { session -> session.setHistory(messages.map { it.toNative() }) } }

    /** Forgets everything but the instructions and the adapters. */
    public suspend fun clear(): Unit = native { handle.use { it.clear() } }

    /** Tokens of [history] in the model's own format: what the next prompt begins with. */
    public suspend fun historyTokens(): Int = native { handle.use { it.historyTokens().toInt() } }

    /**
     * Makes [file] hold the conversation: its messages and tokens, not its keys and values, which the first reply after
     * [restore] computes anew. The file is replaced whole: a crash leaves the old one.
     */
    public suspend fun save(file: File): Unit = native { handle.use { it.save(file.path) } }

    /** What [save] writes. */
    public suspend fun toByteArray(): ByteArray = native { handle.use { it.saveBytes() } }

    /**
     * Makes the conversation the one in [file]. Adapters stay as they are.
     *
     * @throws TimbreException.CorruptFile if the file is damaged; the session keeps what it had
     * @throws TimbreException.InvalidArgument if it is of another base model
     */
    public suspend fun restore(file: File): Unit = native { handle.use { it.restore(file.path) } }

    /** [restore] from what [toByteArray] gave. */
    public suspend fun restore(bytes: ByteArray): Unit = native { handle.use { it.restoreBytes(bytes) } }

    /**
     * Gives memory back until the next reply; quick enough for the main thread. `false` while a reply is generated, which
     * needs it.
     */
    public fun trimMemory(level: TrimLevel = TrimLevel.ALL): Boolean =
        typed { handle.use { it.trimMemory(level.toNative()) } }

    /** Ends the reply that is being generated, if any, within a token. */
    public fun cancel(): Unit = handle.ifOpen { it.cancel() }

    /** Ends the reply that is being generated, if any, and gives everything back. */
    override fun close() {
        cancel()
        handle.close()
    }
}

/**
 * Who says a message.
 *
 * @property name what the model's chat template calls it
 */
@JvmInline
public value class Role(public val name: String) {
    override fun toString(): String = name

    public companion object {
        /** Instructions. */
        public val System: Role = Role("system")

        /** The person. */
        public val User: Role = Role("user")

        /** The model. */
        public val Assistant: Role = Role("assistant")
    }
}

/**
 * A message of a conversation.
 *
 * @property role who says it
 * @property content what is said
 */
public data class Message(val role: Role, val content: String) {
    public companion object {
        /** Instructions. */
        public fun system(content: String): Message = Message(Role.System, content)

        /** What the person says. */
        public fun user(content: String): Message = Message(Role.User, content)

        /** What the model says. */
        public fun assistant(content: String): Message = Message(Role.Assistant, content)
    }
}
