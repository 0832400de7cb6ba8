package dev.timbre.sample.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.Button
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import dev.timbre.Role
import dev.timbre.sample.state.SampleState
import dev.timbre.sample.state.Screen

/** Learns from what was said in the chat, with progress, and can be given up. */
@Composable
fun LearnPage(screen: Screen, state: SampleState) {
    val said = screen.messages.count { it.role == Role.User }
    Column(Modifier.padding(16.dp), verticalArrangement = Arrangement.spacedBy(16.dp)) {
        Text("$said of your messages are in the chat. What is learnt from them stays on this phone, in one file.")
        val learning = screen.learning
        if (learning == null) {
            Button(onClick = { state.learnFromMessages() }, enabled = screen.loading == null && said > 0) {
                Text("Learn from my messages")
            }
        } else {
            LinearProgressIndicator(progress = { learning }, Modifier.fillMaxWidth())
            OutlinedButton(onClick = { state.stopLearning() }) { Text("Cancel") }
        }
        if (screen.losses.isNotEmpty()) {
            val (first, last) = screen.losses.first() to screen.losses.last()
            Text("Step ${screen.losses.size}: loss %.2f, from %.2f".format(last, first))
        }
    }
}
