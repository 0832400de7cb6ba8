package dev.timbre

import dev.timbre.ffi.NativeTuner
import dev.timbre.internal.Handle
import dev.timbre.internal.bounded
import dev.timbre.internal.native
import dev.timbre.internal.public
import dev.timbre.internal.typed
import java.io.File
import kotlin.time.Duration
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow

/**
 * A fine-tune on the device: from texts or chats to an [Adapter], within a budget of steps or time.
 *
 * ```kotlin
 * model.tuner(TuningData.Texts(messages), TuningOptions(budget = Budget.Time(1.minutes))).use { tuner ->
 *     val learnt = tuner.run { if (it is TuningEvent.Step) show(it.loss) }
 *     session.setAdapters(learnt.adapter)
 * }
 * ```
 */
public class Tuner internal constructor(native: NativeTuner) : AutoCloseable {
    private val handle = Handle(native, "tuner")

    /** Bytes that the run has planned to take. */
    public val plannedBytes: Long = typed { native.plannedBytes() }.bounded()

    /**
     * Runs to the end of the budget and returns what was learnt. [onEvent] hears of it in the caller's context. Cancelling the
     * coroutine ends the run and gives up its result, but not its checkpoint; [cancel] ends it and keeps both.
     *
     * @throws TimbreException.Io if the checkpoint cannot be written
     */
    public suspend fun run(onEvent: (TuningEvent) -> Unit = {}): TuningResult {
        events.collect { onEvent(it) }
        return result()
    }

    /**
     * News of the run, which the first collection begins and every end of one, but for the run's own, ends. Each goes to one
     * collector.
     */
    public val events: Flow<TuningEvent> = flow {
        try {
            native { handle.use { it.start() } }
            while (true) {
                val news = native(onCancel = ::cancel) { handle.use { it.next() } }
                if (news.isEmpty()) break
                news.forEach { emit(it.public()) }
            }
        } finally {
            cancel()
        }
    }

    /** What was learnt, when the run has ended. */
    public suspend fun result(): TuningResult = native(onCancel = ::cancel) { handle.use { it.result() } }.public()

    /** Whether the run has ended. */
    public val isFinished: Boolean get() = typed { handle.use { it.isFinished() } }

    /** Lets the run wait at the end of its step. Waiting takes no processor time and none of a budget of time. */
    public fun pause(): Unit = typed { handle.use { it.pause() } }

    /** Lets it go on. */
    public fun resume(): Unit = typed { handle.use { it.resume() } }

    /** Ends the run within a step. What was learnt before is its [result]. */
    public fun cancel(): Unit = handle.ifOpen { it.cancel() }

    override fun close() {
        cancel()
        handle.close()
    }
}

/** What is learnt from. */
public sealed interface TuningData {
    /**
     * Texts, a person's messages say, each as it is.
     *
     * @property texts the texts
     */
    public data class Texts(val texts: List<String>) : TuningData

    /**
     * Prompts and completions; the completions are learnt.
     *
     * @property pairs the pairs, prompt first
     */
    public data class Completions(val pairs: List<Pair<String, String>>) : TuningData

    /**
     * Chats, of which what the assistant says is learnt.
     *
     * @property chats the chats
     */
    public data class Chats(val chats: List<List<Message>>) : TuningData

    /**
     * A file: lines of JSON, `{"prompt","completion"}` or `{"messages":[…]}`, where its name ends in `.jsonl`, else text.
     *
     * @property file the file
     */
    public data class FromFile(val file: File) : TuningData
}

/** The kind of adapter that is learnt. */
public sealed interface TuningMethod {
    /**
     * FourierFT: coefficients of a sparse spectrum.
     *
     * @property n coefficients a module
     * @property alpha what the change is scaled by; the learning rate does not depend on it
     */
    public data class Fourier(val n: Int = 1000, val alpha: Double = 300.0) : TuningMethod

    /**
     * LoRA: two factors of low rank.
     *
     * @property rank the rank
     * @property alpha what the change is scaled by, over the rank
     */
    public data class Lora(val rank: Int = 8, val alpha: Double = 2.0 * rank) : TuningMethod
}

/** How long a run goes on. */
public sealed interface Budget {
    /**
     * A number of steps.
     *
     * @property count the steps, at least 1
     */
    public data class Steps(val count: Int) : Budget

    /**
     * Time of work; waiting in a pause takes none.
     *
     * @property duration the time
     */
    public data class Time(val duration: Duration) : Budget
}

/**
 * How an adapter is learnt.
 *
 * @property budget how long; `null` for a minute
 * @property method the kind of adapter
 * @property from the adapter to go on from; method, targets and layers are then its own
 * @property targets linear layers to change, by the endings of their names; `listOf("all-linear")` for all
 * @property layers layers to change, such as `0-5,7`; `null` for all
 * @property batch examples of a step
 * @property maxLength tokens of the longest example; `null` for 256, of texts 128
 * @property learningRate in the unit of the adapter's kind; `null` for the default, which suits any model, n and α
 * @property heldoutShare share of the examples held out to score with, at most 32 of them; 0 for none
 * @property memoryLimit most bytes that the pass through the model may plan; `null` for about 100 MB
 * @property seed of the held-out part, the order of examples and what is drawn to begin with
 * @property checkpoint a file for the state of the run: the same run goes on from it after it was cancelled or the process was
 *   killed. It is removed at the run's own end
 */
public data class TuningOptions(
    val budget: Budget? = null,
    val method: TuningMethod = TuningMethod.Fourier(),
    val from: Adapter? = null,
    val targets: List<String> = listOf("q_proj", "v_proj"),
    val layers: String? = null,
    val batch: Int = 4,
    val maxLength: Int? = null,
    val learningRate: Double? = null,
    val heldoutShare: Double = 0.1,
    val memoryLimit: Long? = null,
    val seed: Long = 0,
    val checkpoint: File? = null,
)

/** News of a run, in the order things happen. */
public sealed interface TuningEvent {
    /** Steps taken before it, or the number of the step. */
    public val step: Long

    /**
     * A step was taken.
     *
     * @property step its number, from 1
     * @property loss loss of its examples, in nats a token
     * @property learningRate the learning rate it was taken with
     * @property duration how long it took
     * @property tokensPerSecond tokens a second
     * @property elapsed how long the run has worked
     * @property remaining how long it will go on, by its pace so far
     */
    public data class Step(
        override val step: Long,
        val loss: Double,
        val learningRate: Double,
        val duration: Duration,
        val tokensPerSecond: Double,
        val elapsed: Duration,
        val remaining: Duration,
    ) : TuningEvent {
        /** Share of the run that is behind, from 0 to 1. */
        public val progress: Double
            get() {
                val whole = elapsed + remaining
                return if (whole > Duration.ZERO) elapsed / whole else 1.0
            }
    }

    /**
     * The held-out examples were scored.
     *
     * @property heldoutLoss their loss, in nats a token
     * @property best whether it is the lowest so far
     */
    public data class Scored(override val step: Long, val heldoutLoss: Double, val best: Boolean) : TuningEvent

    /** The run waits. */
    public data class Paused(override val step: Long) : TuningEvent

    /** The run goes on. */
    public data class Resumed(override val step: Long) : TuningEvent

    /** The state is in the checkpoint. */
    public data class Saved(override val step: Long) : TuningEvent
}

/** Why a run ended. */
public enum class TuningStop {
    /** The budget is spent. */
    BUDGET,

    /** The held-out loss has stopped falling. */
    EARLY,

    /** It was cancelled. */
    CANCELLED,

    /** The loss rose beyond recovery; the adapter is the last good one. */
    DIVERGED,
}

/**
 * A run that has ended.
 *
 * @property adapter what was learnt, to be used at once
 * @property report what it took
 */
public data class TuningResult(val adapter: Adapter, val report: TuningReport)

/**
 * What a run came to.
 *
 * @property stop why it ended
 * @property steps steps taken
 * @property adapterStep steps behind the adapter
 * @property heldoutBefore held-out loss before the first step, where there are held-out examples
 * @property heldoutAfter held-out loss of the adapter, where it was measured
 * @property losses loss of every step
 * @property duration time of work
 * @property tokens tokens that went through the model
 * @property examples examples learnt from
 * @property heldoutExamples examples held out
 * @property truncatedExamples examples that were cut off at the longest length
 * @property peakAnonymousBytes the most anonymous memory of the process during the run, where the system says
 */
public data class TuningReport(
    val stop: TuningStop,
    val steps: Long,
    val adapterStep: Long,
    val heldoutBefore: Double?,
    val heldoutAfter: Double?,
    val losses: List<Float>,
    val duration: Duration,
    val tokens: Long,
    val examples: Int,
    val heldoutExamples: Int,
    val truncatedExamples: Int,
    val peakAnonymousBytes: Long?,
)
