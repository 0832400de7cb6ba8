// The few declarations of Android that the library's thin part uses, for compiling and testing it where there is no SDK.
// Signatures as in android.jar, API level 36.
@file:Suppress("unused")

package android.content

import android.content.pm.PackageManager
import android.content.res.AssetManager
import android.content.res.Configuration
import java.io.File

public interface ComponentCallbacks {
    public fun onConfigurationChanged(newConfig: Configuration)

    @Deprecated("in API level 35")
    public fun onLowMemory()
}

public interface ComponentCallbacks2 : ComponentCallbacks {
    public fun onTrimMemory(level: Int)
}

public abstract class Context {
    public abstract val applicationContext: Context
    public abstract val packageName: String
    public abstract val packageManager: PackageManager
    public abstract val assets: AssetManager
    public abstract val noBackupFilesDir: File
    public abstract val codeCacheDir: File
    public abstract fun registerComponentCallbacks(callback: ComponentCallbacks)
    public abstract fun unregisterComponentCallbacks(callback: ComponentCallbacks)
}
