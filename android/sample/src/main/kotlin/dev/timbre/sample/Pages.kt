package dev.timbre.sample

import android.app.Application
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import dev.timbre.android.timbreAsset
import dev.timbre.android.trimWith
import dev.timbre.sample.state.SampleState
import java.io.File
import kotlinx.coroutines.launch

/** Keeps the state while the screen is turned, and hands it what only Android has. */
class Pages(application: Application) : AndroidViewModel(application) {
    val state = SampleState(viewModelScope, application.filesDir)
    private var trimming: AutoCloseable? = null

    init {
        viewModelScope.launch {
            val voices = listOf("adapters/devil", "adapters/kjv").map { application.timbreAsset(it) }
            // Where `adb push` can put it, see the README.
            val model = File(application.getExternalFilesDir(null), "model.gguf")
            state.open(model, voices).join()
            trimming = state.session?.trimWith(application)
        }
    }

    override fun onCleared() {
        trimming?.close()
        state.close()
    }
}
