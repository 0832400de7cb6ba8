@file:Suppress("unused")

package android.content.pm

public class PackageInfo {
    @JvmField public var lastUpdateTime: Long = 0
}

public abstract class PackageManager {
    public abstract fun getPackageInfo(packageName: String, flags: Int): PackageInfo
}
