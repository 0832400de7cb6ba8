import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Whether a shared library can be loaded where pages have 16 KB, which Google Play demands. */
object ElfAlignment {
    private const val PAGE = 16384L
    private const val LOAD = 1

    /** What is wrong with the library, or `null`. */
    fun problem(bytes: ByteArray): String? {
        val elf = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
        if (bytes.size < 64 || elf.getInt(0) != 0x464c457f || bytes[4].toInt() != 2 || bytes[5].toInt() != 1) {
            return "not a 64-bit little-endian ELF file"
        }
        val (table, size, count) = Triple(elf.getLong(32), elf.getShort(54).toInt(), elf.getShort(56).toInt())
        if (size < 56 || count <= 0 || table < 0 || table + size.toLong() * count > bytes.size) return "no program headers"
        for (index in 0 until count) {
            val at = table.toInt() + index * size
            if (elf.getInt(at) != LOAD) continue
            val (offset, address, align) = Triple(elf.getLong(at + 8), elf.getLong(at + 16), elf.getLong(at + 48))
            if (align < PAGE || align % PAGE != 0L) return "a segment is aligned to $align bytes, needed are $PAGE"
            if (offset % align != address % align) return "a segment's offset $offset and address $address do not agree"
        }
        return null
    }
}
