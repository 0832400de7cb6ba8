package dev.timbre.sample.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.HorizontalDivider
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.remember
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import dev.timbre.Timbre
import dev.timbre.sample.state.Screen
import dev.timbre.sample.state.megabytes
import dev.timbre.sample.state.memory

/** What it costs, live. */
@Composable
fun VitalsPage(screen: Screen) {
    val usage by remember { memory() }.collectAsStateWithLifecycle(initialValue = null)
    val device = remember { Timbre.device() }
    Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(8.dp)) {
        usage?.let {
            Line("Memory of its own", megabytes(it.anonymous))
            Line("Model pages in memory", megabytes(it.file))
            Line("Free in the system", megabytes(it.available))
        }
        HorizontalDivider()
        screen.lastStats?.let {
            Line("First token after", "${it.timeToFirstToken}")
            Line("Prompt", "%d tokens, %.0f a second".format(it.promptTokens, it.prefillRate))
            Line("Of it held already", "${it.cachedTokens} tokens")
            Line("Reply", "%d tokens, %.1f a second".format(it.generatedTokens, it.decodeRate))
            Line("Swap of voices", "${it.swap}")
            Line("Computed on", it.gpu ?: "the processor")
        }
        HorizontalDivider()
        Line("Kernels", "${device.kernels}, ${device.threads} threads")
        Line("Processor", device.features.joinToString(" "))
    }
}

@Composable
private fun Line(what: String, value: String) {
    Row(Modifier.fillMaxWidth(), horizontalArrangement = Arrangement.SpaceBetween) {
        Text(what)
        Text(value)
    }
}
