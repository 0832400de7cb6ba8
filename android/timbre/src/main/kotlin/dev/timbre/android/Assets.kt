package dev.timbre.android

import android.content.Context
import dev.timbre.internal.Unpacker
import java.io.File
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext

/**
 * A file or folder of the application's assets, copied once to where the native library can map it.
 *
 * For adapters, which are small, and for trying out. A model that comes this way takes its room twice; an application that
 * is published had better fetch it into [Context.getFilesDir] or receive it by Play's asset delivery.
 *
 * @param name its path among the assets
 */
public suspend fun Context.timbreAsset(name: String): File = withContext(Dispatchers.IO) {
    val installed = packageManager.getPackageInfo(packageName, 0).lastUpdateTime
    val unpacker = Unpacker(
        root = File(noBackupFilesDir, "timbre"),
        version = installed,
        list = { assets.list(it).orEmpty().toList() },
        open = { assets.open(it) },
    )
    unpacker.unpack(name)
}
