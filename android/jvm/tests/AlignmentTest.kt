package dev.timbre

import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Test

/** The check of alignment that the Gradle build makes. */
class AlignmentTest {
    /** A header and one segment that is loaded. */
    private fun elf(offset: Long, address: Long, align: Long): ByteArray {
        val elf = ByteBuffer.allocate(64 + 56).order(ByteOrder.LITTLE_ENDIAN)
        elf.putInt(0, 0x464c457f).put(4, 2).put(5, 1)
        elf.putLong(32, 64).putShort(54, 56).putShort(56, 1)
        elf.putInt(64, 1).putLong(72, offset).putLong(80, address).putLong(112, align)
        return elf.array()
    }

    @Test
    fun `libraries for pages of 16 KB are told from others`() {
        assertNull(ElfAlignment.problem(elf(0x4000, 0x8000, 16384)))
        assertNull(ElfAlignment.problem(elf(0x1230, 0x11230, 65536)))
        assertEquals("a segment is aligned to 4096 bytes, needed are 16384", ElfAlignment.problem(elf(0, 0, 4096)))
        assertNotNull(ElfAlignment.problem(elf(0x1000, 0x2000, 16384)))
        assertNotNull(ElfAlignment.problem(elf(0, 0, 16384).copyOf(100)))
        assertNotNull(ElfAlignment.problem(ByteArray(10)))
        assertNotNull(ElfAlignment.problem("text".repeat(40).toByteArray()))
    }
}
