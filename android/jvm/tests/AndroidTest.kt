package dev.timbre

import android.content.ComponentCallbacks
import android.content.ComponentCallbacks2
import android.content.Context
import android.content.pm.PackageInfo
import android.content.pm.PackageManager
import android.content.res.AssetManager
import dev.timbre.android.keepGpuCache
import dev.timbre.android.timbreAsset
import dev.timbre.android.trimLevel
import dev.timbre.android.trimWith
import java.io.File
import java.io.IOException
import java.io.InputStream
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test

/** The part of the layer that only Android runs, against stand-ins for the few things it calls. */
class AndroidTest {
    @get:Rule internal val folder = Folder()

    /** An application whose assets are the repository's. */
    private inner class Application : Context() {
        val callbacks = mutableListOf<ComponentCallbacks2>()
        val info = PackageInfo().apply { lastUpdateTime = 1 }
        var opened = 0
        var broken = false

        override val applicationContext get() = this
        override val packageName = "app"
        override val noBackupFilesDir = folder.file("files")
        override val codeCacheDir = folder.file("code")
        override val packageManager = object : PackageManager() {
            override fun getPackageInfo(packageName: String, flags: Int) = info
        }
        override val assets = object : AssetManager() {
            override fun list(path: String): Array<String>? = File(root, "assets/$path").list()
            override fun open(fileName: String): InputStream {
                opened++
                if (broken && opened > 1) throw IOException("the power went")
                return File(root, "assets/$fileName").inputStream()
            }
        }

        override fun registerComponentCallbacks(callback: ComponentCallbacks) {
            callbacks += callback as ComponentCallbacks2
        }

        override fun unregisterComponentCallbacks(callback: ComponentCallbacks) {
            callbacks -= callback as ComponentCallbacks2
        }
    }

    @Test
    fun `the system's levels ask for what they can have`() {
        val levels = listOf(0, 5, 10, 15, 20, 40, 60, 80).associateWith { trimLevel(it) }
        assertEquals(null, levels[0])
        assertTrue(listOf(5, 10, 20).all { levels[it] == TrimLevel.BUFFERS })
        assertTrue(listOf(15, 40, 60, 80).all { levels[it] == TrimLevel.ALL })
    }

    @Test
    fun `a session gives memory back until it is told not to`() = withSession { session ->
        val application = Application()
        val registration = session.trimWith(application)
        session.respond("Hello there.", short(4))
        application.callbacks.single().onTrimMemory(20)
        assertTrue(session.respond("Hello there.", short(4)).stats.cachedTokens > 0)
        application.callbacks.single().onTrimMemory(80)
        assertEquals(0, session.respond("Hello there.", short(4)).stats.cachedTokens)
        registration.close()
        assertTrue(application.callbacks.isEmpty())
    }

    @Test
    fun `assets are copied once for each version, whole or not at all`() = runBlocking {
        val application = Application()
        application.broken = true
        failure<IOException> { application.timbreAsset("adapters/devil") }
        application.broken = false
        val copied = application.timbreAsset("adapters/devil")
        Adapter.load(copied).use { assertEquals(devil.info, it.info) }
        val reads = application.opened
        assertEquals(copied, application.timbreAsset("adapters/devil"))
        assertEquals(reads, application.opened)
        application.info.lastUpdateTime = 2
        val again = application.timbreAsset("adapters/devil")
        assertTrue("$copied $again", copied != again && !copied.exists() && again.exists())
        assertTrue(application.timbreAsset("texts/devil-short.jsonl").isFile)
    }

    @Test
    fun `what is found out about GPUs is kept with the application's code`() = runBlocking {
        val application = Application()
        Timbre.keepGpuCache(application)
        assertEquals(listOf("timbre"), application.codeCacheDir.list().orEmpty().toList())
        application.codeCacheDir.deleteRecursively()
        application.codeCacheDir.writeText("no folder")
        val error = failure<TimbreException.Io> { Timbre.keepGpuCache(application) }
        assertEquals(File(application.codeCacheDir, "timbre").path, error.path)
        // Not where the next test would find it gone.
        Timbre.keepGpuCache(gpuCache)
    }
}
