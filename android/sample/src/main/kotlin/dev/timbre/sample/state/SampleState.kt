package dev.timbre.sample.state

import dev.timbre.Adapter
import dev.timbre.Budget
import dev.timbre.GenerationOptions
import dev.timbre.Message
import dev.timbre.Model
import dev.timbre.ModelOptions
import dev.timbre.ReplyEvent
import dev.timbre.Role
import dev.timbre.Session
import dev.timbre.SessionOptions
import dev.timbre.Stats
import dev.timbre.TimbreException
import dev.timbre.TuningData
import dev.timbre.TuningEvent
import dev.timbre.TuningOptions
import java.io.File
import kotlin.time.Duration
import kotlin.time.Duration.Companion.minutes
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch

/**
 * What the screens show.
 *
 * @property loading share of the model file that is read, `null` when it is open
 * @property messages the conversation, a reply that is coming in included
 * @property voices names of the adapters there are
 * @property voice the one in use, `null` for the base model
 * @property replying whether a reply is coming in
 * @property lastSwap time of the last swap
 * @property lastStats what the last reply cost
 * @property learning share of a fine-tune that is behind, `null` where none runs
 * @property losses losses of the fine-tune
 * @property problem what went wrong last, for showing
 */
data class Screen(
    val loading: Float? = 0f,
    val messages: List<Message> = emptyList(),
    val voices: List<String> = emptyList(),
    val voice: String? = null,
    val replying: Boolean = false,
    val lastSwap: Duration? = null,
    val lastStats: Stats? = null,
    val learning: Float? = null,
    val losses: List<Double> = emptyList(),
    val problem: String? = null,
)

/**
 * The sample's state and what can be done to it. Knows nothing of Android, so that it runs in tests on any machine.
 *
 * @param scope of the screens: what runs ends with it
 * @param folder where what is learnt and the conversation are kept
 */
class SampleState(private val scope: CoroutineScope, private val folder: File) {
    private val mutable = MutableStateFlow(Screen())
    val screen: StateFlow<Screen> = mutable.asStateFlow()

    private var model: Model? = null
    private val adapters = mutableMapOf<String, Adapter>()
    private var reply: Job? = null
    private var learning: Job? = null

    /** The session, for giving its memory back. */
    var session: Session? = null
        private set

    /** Opens a model and the adapters that come with the application. */
    fun open(modelFile: File, adapterFiles: List<File>): Job = act {
        val opened = Model.open(modelFile, ModelOptions(warmUp = true)) { done, total ->
            mutable.update { it.copy(loading = done.toFloat() / total) }
        }
        model = opened
        session = opened.session(SessionOptions(context = 2048)).also { session ->
            if (conversation.exists()) session.restore(conversation)
            mutable.update { it.copy(messages = session.history) }
        }
        (adapterFiles + listOf(learnt).filter { it.exists() }).forEach { add(Adapter.load(it)) }
        mutable.update { it.copy(loading = null) }
    }

    /** Says something and lets the reply come in. */
    fun say(text: String) {
        val session = session ?: return
        if (text.isBlank() || mutable.value.replying) return
        reply = act {
            val before = mutable.value.messages
            var coming = ""
            mutable.update { it.copy(replying = true, messages = before + Message.user(text)) }
            try {
                session.events(text, GenerationOptions(maxTokens = 400, temperature = 0.7f)).collect { event ->
                    when (event) {
                        is ReplyEvent.Text -> {
                            coming += event.text
                            val messages = before + Message.user(text) + Message.assistant(coming)
                            mutable.update { it.copy(messages = messages) }
                        }
                        is ReplyEvent.End -> mutable.update { it.copy(lastStats = event.reply.stats) }
                    }
                }
                session.save(conversation)
            } finally {
                mutable.update { it.copy(replying = false) }
            }
        }
    }

    /** Ends the reply that is coming in. */
    fun stop() {
        reply?.cancel()
    }

    /** Swaps to a voice, `null` for the base model. The conversation goes on in it. */
    fun speakAs(voice: String?): Job = act {
        val session = session ?: return@act
        val swap = session.setAdapters(listOfNotNull(voice?.let { adapters[it] }).map { it at 1f })
        mutable.update { it.copy(voice = voice, lastSwap = swap) }
    }

    /** Learns from what the person has said here, then speaks like that. */
    fun learnFromMessages(budget: Budget = Budget.Time(1.minutes)) {
        val model = model ?: return
        if (mutable.value.learning != null) return
        val said = mutable.value.messages.filter { it.role == Role.User }.map { it.content }
        learning = act {
            mutable.update { it.copy(learning = 0f, losses = emptyList()) }
            try {
                model.tuner(TuningData.Texts(said), TuningOptions(budget = budget), MINE).use { tuner ->
                    val result = tuner.run { event ->
                        if (event is TuningEvent.Step) {
                            mutable.update {
                                it.copy(learning = event.progress.toFloat(), losses = it.losses + event.loss)
                            }
                        }
                    }
                    result.adapter.save(learnt)
                    add(result.adapter)
                    speakAs(MINE)
                }
            } finally {
                mutable.update { it.copy(learning = null) }
            }
        }
    }

    /** Gives a fine-tune up. */
    fun stopLearning() {
        learning?.cancel()
    }

    /** Forgets the conversation. */
    fun clear(): Job = act {
        session?.clear()
        conversation.delete()
        mutable.update { it.copy(messages = emptyList()) }
    }

    /** Gives everything back. */
    fun close() {
        session?.close()
        adapters.values.forEach { it.close() }
        model?.close()
    }

    private val conversation get() = File(folder, "conversation.session")
    private val learnt get() = File(folder, "$MINE.safetensors")

    private fun add(adapter: Adapter) {
        adapters.put(adapter.name, adapter)
        mutable.update { it.copy(voices = adapters.keys.sorted()) }
    }

    private fun act(block: suspend () -> Unit): Job = scope.launch {
        try {
            mutable.update { it.copy(problem = null) }
            block()
        } catch (cancelled: CancellationException) {
            throw cancelled
        } catch (problem: TimbreException) {
            mutable.update { it.copy(problem = problem.message) }
        }
    }

    private companion object {
        const val MINE = "mine"
    }
}
