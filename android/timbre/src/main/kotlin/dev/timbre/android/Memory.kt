package dev.timbre.android

import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.Configuration
import dev.timbre.Session
import dev.timbre.TrimLevel

/**
 * Gives the session's memory back when the system asks for it: buffers when the application leaves the screen or memory gets
 * short, keys and values too when the process is about to be killed for them. The next reply makes them anew.
 *
 * @return ends it, with the session
 */
public fun Session.trimWith(context: Context): AutoCloseable {
    val callbacks = object : ComponentCallbacks2 {
        override fun onTrimMemory(level: Int) {
            trimLevel(level)?.let { trimMemory(it) }
        }

        @Deprecated("the system calls it")
        override fun onLowMemory() {
            trimMemory(TrimLevel.ALL)
        }

        override fun onConfigurationChanged(newConfig: Configuration) = Unit
    }
    // The application outlives any screen.
    val application = context.applicationContext
    application.registerComponentCallbacks(callbacks)
    return AutoCloseable { application.unregisterComponentCallbacks(callbacks) }
}

/** What a level of [ComponentCallbacks2] asks for. Since Android 14 only those from 20 up are sent. */
internal fun trimLevel(level: Int): TrimLevel? = when {
    level >= BACKGROUND -> TrimLevel.ALL
    level >= UI_HIDDEN -> TrimLevel.BUFFERS
    level >= RUNNING_CRITICAL -> TrimLevel.ALL
    level >= RUNNING_MODERATE -> TrimLevel.BUFFERS
    else -> null
}

// `ComponentCallbacks2.TRIM_MEMORY_…`, of which most are deprecated, though older systems send them.
private const val RUNNING_MODERATE = 5
private const val RUNNING_CRITICAL = 15
private const val UI_HIDDEN = 20
private const val BACKGROUND = 40
