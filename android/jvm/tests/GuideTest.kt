package dev.timbre

import dev.timbre.guide.personalise
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test

/** The code of the guide in android/README.md does what the guide says. */
class GuideTest {
    @get:Rule internal val folder = Folder()

    @Test
    fun `the guide's code learns, saves and speaks`() = runBlocking {
        val messages = List(8) { "Ahoy, number $it! The tide be high, matey." }
        val file = folder.file("mine.safetensors")
        suspend fun run(): String {
            val texts = StringBuilder()
            personalise(smol, file, messages, Budget.Steps(2)) { texts.append(it) }
            return texts.toString()
        }
        val first = run()
        assertTrue(file.length() > 200_000)
        assertTrue(first, first.length > 40)
        // What was learnt is not learnt again.
        val saved = file.lastModified()
        assertEquals(first, run())
        assertEquals(saved, file.lastModified())
    }
}
