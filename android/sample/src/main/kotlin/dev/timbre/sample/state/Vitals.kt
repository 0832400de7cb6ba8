package dev.timbre.sample.state

import dev.timbre.MemoryUsage
import dev.timbre.Timbre
import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn

/** The memory of the process, again and again while someone looks. */
fun memory(every: Duration = 500.milliseconds): Flow<MemoryUsage> = flow {
    while (true) {
        Timbre.memory()?.let { emit(it) }
        delay(every)
    }
}.flowOn(Dispatchers.Default)

/** Bytes in megabytes, for showing. */
fun megabytes(bytes: Long): String = "${(bytes + 500_000) / 1_000_000} MB"
