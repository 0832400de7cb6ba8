package dev.timbre.sample.ui

import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.material3.PrimaryTabRow
import androidx.compose.material3.Tab
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableIntStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import dev.timbre.sample.Pages

private val titles = listOf("Chat", "Learn", "Vitals")

/** Three pages over one state. */
@Composable
fun App(pages: Pages) {
    val screen by pages.state.screen.collectAsStateWithLifecycle()
    var page by rememberSaveable { mutableIntStateOf(0) }
    MaterialTheme {
        Surface(Modifier.fillMaxSize()) {
            Column(Modifier.safeDrawingPadding()) {
                PrimaryTabRow(selectedTabIndex = page) {
                    titles.forEachIndexed { index, title ->
                        Tab(selected = page == index, onClick = { page = index }, text = { Text(title) })
                    }
                }
                screen.loading?.let { LinearProgressIndicator(progress = { it }, Modifier.fillMaxWidth()) }
                screen.problem?.let {
                    Text(it, Modifier.padding(16.dp), color = MaterialTheme.colorScheme.error)
                }
                when (page) {
                    0 -> ChatPage(screen, pages.state)
                    1 -> LearnPage(screen, pages.state)
                    else -> VitalsPage(screen)
                }
            }
        }
    }
}
