package dev.timbre.internal

import java.io.File
import java.io.IOException
import java.io.InputStream

/**
 * Copies an application's packaged files to where native code can map them, once for each version of the application.
 *
 * @property root the folder they go into
 * @property version of the application: copies of another version are replaced
 * @property list the children of a packaged folder; none for a file
 * @property open a packaged file
 */
internal class Unpacker(
    private val root: File,
    private val version: Long,
    private val list: (String) -> List<String>,
    private val open: (String) -> InputStream,
) {
    /** The copy of [name], a file or a folder. A copy that was interrupted is begun anew. */
    @Synchronized
    fun unpack(name: String): File {
        val home = File(root, version.toString())
        val target = File(home, name)
        if (target.exists()) return target
        // Copies of former versions take room that nothing will ask for again.
        root.listFiles().orEmpty().filter { it != home }.forEach { it.deleteRecursively() }
        val temporary = File(home, "$name.part")
        temporary.deleteRecursively()
        temporary.parentFile?.mkdirs()
        copy(name, temporary)
        if (!temporary.renameTo(target)) throw IOException("cannot rename $temporary")
        return target
    }

    private fun copy(name: String, target: File) {
        val children = list(name)
        if (children.isEmpty()) {
            open(name).use { from -> target.outputStream().use { from.copyTo(it, BUFFER) } }
        } else {
            if (!target.mkdir()) throw IOException("cannot make the folder $target")
            children.forEach { copy("$name/$it", File(target, it)) }
        }
    }

    private companion object {
        const val BUFFER = 1 shl 20
    }
}
