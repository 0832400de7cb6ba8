package dev.timbre.android

import android.content.Context
import dev.timbre.Timbre
import java.io.File
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext

/**
 * Keeps what is found out about GPUs in the application's [Context.getCodeCacheDir], where no other application can write and which
 * the system empties when the application or Android itself is updated. To be called before a model is opened.
 *
 * @throws dev.timbre.TimbreException.Io if the folder cannot be made or written to
 */
public suspend fun Timbre.keepGpuCache(context: Context) {
    // Asking for the folder makes it.
    val folder = withContext(Dispatchers.IO) { File(context.codeCacheDir, "timbre") }
    keepGpuCache(folder)
}
