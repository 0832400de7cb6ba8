package dev.timbre.sample.ui

import androidx.compose.foundation.horizontalScroll
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.foundation.lazy.rememberLazyListState
import androidx.compose.foundation.rememberScrollState
import androidx.compose.material3.Button
import androidx.compose.material3.FilterChip
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import dev.timbre.Message
import dev.timbre.Role
import dev.timbre.sample.state.SampleState
import dev.timbre.sample.state.Screen

/** A conversation, and the voices it can go on in. */
@Composable
fun ChatPage(screen: Screen, state: SampleState) {
    Column(Modifier.padding(12.dp)) {
        Voices(screen, state)
        Messages(screen.messages, Modifier.weight(1f))
        Entry(screen, state)
    }
}

@Composable
private fun Voices(screen: Screen, state: SampleState) {
    Row(
        Modifier.fillMaxWidth().horizontalScroll(rememberScrollState()),
        horizontalArrangement = Arrangement.spacedBy(8.dp),
        verticalAlignment = Alignment.CenterVertically,
    ) {
        for (voice in listOf(null) + screen.voices) {
            FilterChip(
                selected = screen.voice == voice,
                enabled = !screen.replying,
                onClick = { state.speakAs(voice) },
                label = { Text(voice ?: "base") },
            )
        }
        // What the swap took is what is felt of it.
        screen.lastSwap?.let { Text("swapped in $it", style = MaterialTheme.typography.labelSmall) }
    }
}

@Composable
private fun Messages(messages: List<Message>, modifier: Modifier) {
    val list = rememberLazyListState()
    LaunchedEffect(messages.size, messages.lastOrNull()?.content?.length) {
        if (messages.isNotEmpty()) list.scrollToItem(messages.lastIndex)
    }
    LazyColumn(modifier, state = list, verticalArrangement = Arrangement.spacedBy(8.dp)) {
        items(messages) { message ->
            val mine = message.role == Role.User
            Text(
                message.content,
                Modifier.fillMaxWidth().padding(start = if (mine) 48.dp else 0.dp, end = if (mine) 0.dp else 48.dp),
                color = if (mine) MaterialTheme.colorScheme.primary else MaterialTheme.colorScheme.onSurface,
            )
        }
    }
}

@Composable
private fun Entry(screen: Screen, state: SampleState) {
    var text by rememberSaveable { mutableStateOf("") }
    Row(verticalAlignment = Alignment.CenterVertically, horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        OutlinedTextField(text, { text = it }, Modifier.weight(1f), enabled = screen.loading == null)
        if (screen.replying) {
            Button(onClick = { state.stop() }) { Text("Stop") }
        } else {
            Button(
                onClick = {
                    state.say(text)
                    text = ""
                },
                enabled = screen.loading == null && text.isNotBlank(),
            ) { Text("Say") }
        }
        TextButton(onClick = { state.clear() }, enabled = !screen.replying) { Text("Clear") }
    }
}
