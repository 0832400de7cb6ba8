package dev.timbre

import dev.timbre.ffi.NativeModel
import dev.timbre.internal.toNative
import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.measureTime
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertTrue
import org.junit.Test

/** What the way into the library costs, and the share of a token that it takes. */
class CostTest {
    private fun each(times: Int, block: () -> Unit): Duration {
        repeat(times) { block() }
        return List(5) { measureTime { repeat(times) { block() } } }.min() / times
    }

    @Test
    fun `a piece of text costs a small share of a token`() = withSession(SessionOptions(context = 1024)) { session ->
        val native = NativeModel.open(smol.path, ModelOptions().toNative(), null)
        val call = each(5_000) { native.fingerprint() }
        native.close()

        val options = short(96)
        suspend fun run(gather: Duration): Pair<Int, Stats> {
            session.clear()
            var pieces = 0
            var stats: Stats? = null
            session.events("Tell me a long story about a ship.", options.copy(gather = gather)).collect { event ->
                when (event) {
                    is ReplyEvent.Text -> pieces++
                    is ReplyEvent.End -> stats = event.reply.stats
                }
            }
            return pieces to checkNotNull(stats)
        }
        suspend fun silent(): Stats {
            session.clear()
            return session.respond("Tell me a long story about a ship.", options).stats
        }
        run(Duration.ZERO)
        fun perToken(stats: Stats) = stats.decode / (stats.generatedTokens - 1)
        // The least of several: the rest is what else the machine does.
        val streamed = List(3) { run(Duration.ZERO) }
        val gathered = List(3) { run(50.milliseconds) }
        val whole = List(3) { perToken(silent()) }.min()
        val one = streamed.minOf { perToken(it.second) }
        println("       a call with a string back: $call")
        println("       a token: $whole unheard, $one in ${streamed[0].first} pieces, " +
            "${gathered.minOf { perToken(it.second) }} in ${gathered.last().first}")
        assertTrue("$call", call < 0.1.milliseconds)
        assertTrue("$one $whole", one < whole * 1.3)
    }
}
