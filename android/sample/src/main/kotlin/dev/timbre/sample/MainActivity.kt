package dev.timbre.sample

import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.activity.viewModels
import dev.timbre.sample.ui.App

/** The one screen, with its three pages. */
class MainActivity : ComponentActivity() {
    private val pages: Pages by viewModels()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContent { App(pages) }
    }
}
