@file:Suppress("unused")

package android.content.res

import java.io.InputStream

public class Configuration

public abstract class AssetManager {
    public abstract fun list(path: String): Array<String>?
    public abstract fun open(fileName: String): InputStream
}
