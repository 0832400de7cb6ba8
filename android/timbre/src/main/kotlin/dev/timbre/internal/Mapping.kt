package dev.timbre.internal

import dev.timbre.Activations
import dev.timbre.AdapterInfo
import dev.timbre.AdapterKind
import dev.timbre.Backend
import dev.timbre.Budget
import dev.timbre.DeviceInfo
import dev.timbre.Finish
import dev.timbre.GenerationOptions
import dev.timbre.Kernels
import dev.timbre.KvPrecision
import dev.timbre.MemoryEstimate
import dev.timbre.MemoryUsage
import dev.timbre.Message
import dev.timbre.ModelInfo
import dev.timbre.ModelOptions
import dev.timbre.Reply
import dev.timbre.Role
import dev.timbre.SessionOptions
import dev.timbre.Stats
import dev.timbre.SwapPolicy
import dev.timbre.TimbreException
import dev.timbre.TrimLevel
import dev.timbre.TuningData
import dev.timbre.TuningEvent
import dev.timbre.TuningMethod
import dev.timbre.TuningOptions
import dev.timbre.TuningReport
import dev.timbre.TuningResult
import dev.timbre.TuningStop
import dev.timbre.WeightedAdapter
import dev.timbre.Adapter
import kotlin.time.Duration.Companion.microseconds
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import kotlin.time.DurationUnit

/** A number that cannot be negative, as the native library takes it. */
internal fun Int?.toNative(what: String): UInt? = this?.toUnsigned(what)

private fun Int.toUnsigned(what: String): UInt {
    if (this < 0) throw TimbreException.InvalidArgument(what, "0 or more", toString())
    return toUInt()
}

private fun Long.toUnsigned(what: String): ULong {
    if (this < 0) throw TimbreException.InvalidArgument(what, "0 or more", toString())
    return toULong()
}

internal fun ModelOptions.toNative() =
    dev.timbre.ffi.ModelOptions(
        threads = threads.toNative("threads"),
        kernels = when (kernels) {
            Kernels.AUTO -> dev.timbre.ffi.Kernels.AUTO
            Kernels.REFERENCE -> dev.timbre.ffi.Kernels.REFERENCE
            Kernels.SCALAR -> dev.timbre.ffi.Kernels.SCALAR
            Kernels.AVX2 -> dev.timbre.ffi.Kernels.AVX2
            Kernels.AVX512 -> dev.timbre.ffi.Kernels.AVX512
            Kernels.NEON -> dev.timbre.ffi.Kernels.NEON
        },
        activations = activations.toNative(),
        backend = when (backend) {
            Backend.CPU -> dev.timbre.ffi.Backend.CPU
            Backend.GPU -> dev.timbre.ffi.Backend.GPU
            Backend.AUTO -> dev.timbre.ffi.Backend.AUTO
        },
        warmUp = warmUp,
    )

internal fun Activations.toNative() = when (this) {
    Activations.INT15 -> dev.timbre.ffi.Activations.INT15
    Activations.INT8 -> dev.timbre.ffi.Activations.INT8
}

internal fun dev.timbre.ffi.Activations.public() = when (this) {
    dev.timbre.ffi.Activations.INT15 -> Activations.INT15
    dev.timbre.ffi.Activations.INT8 -> Activations.INT8
}

internal fun KvPrecision.toNative() = when (this) {
    KvPrecision.F16 -> dev.timbre.ffi.KvPrecision.F16
    KvPrecision.Q8 -> dev.timbre.ffi.KvPrecision.Q8
}

internal fun SessionOptions.toNative() =
    dev.timbre.ffi.SessionOptions(context.toNative("context"), kv.toNative(), instructions)

internal fun GenerationOptions.toNative() =
    dev.timbre.ffi.GenerationOptions(
        maxTokens = maxTokens.toUnsigned("maxTokens"),
        temperature = temperature,
        topK = topK.toUnsigned("topK"),
        topP = topP,
        minP = minP,
        repeatPenalty = repeatPenalty,
        seed = seed.toULong(),
        stop = stop,
    )

internal fun SwapPolicy.toNative() = when (this) {
    SwapPolicy.RECOMPUTE -> dev.timbre.ffi.SwapPolicy.RECOMPUTE
    SwapPolicy.KEEP -> dev.timbre.ffi.SwapPolicy.KEEP
}

internal fun TrimLevel.toNative() = when (this) {
    TrimLevel.BUFFERS -> dev.timbre.ffi.TrimLevel.BUFFERS
    TrimLevel.ALL -> dev.timbre.ffi.TrimLevel.ALL
}

/** Runs [block] with the adapters as the native library takes them, none of which goes away meanwhile. */
internal fun <R> List<WeightedAdapter>.using(block: (List<dev.timbre.ffi.WeightedAdapter>) -> R): R =
    map { it.adapter.handle }.useAll { natives ->
        block(natives.mapIndexed { index, native -> dev.timbre.ffi.WeightedAdapter(native, this[index].weight) })
    }

internal fun Message.toNative() = dev.timbre.ffi.ChatMessage(role.name, content)

internal fun TuningData.toNative(): dev.timbre.ffi.TuningData = when (this) {
    is TuningData.Texts -> dev.timbre.ffi.TuningData.Texts(texts)
    is TuningData.Completions ->
        dev.timbre.ffi.TuningData.Completions(pairs.map { dev.timbre.ffi.Completion(it.first, it.second) })
    is TuningData.Chats -> dev.timbre.ffi.TuningData.Chats(chats.map { chat -> chat.map { it.toNative() } })
    is TuningData.FromFile -> dev.timbre.ffi.TuningData.File(file.path)
}

/** Runs [block] with the options as the native library takes them; the adapter among them does not go away meanwhile. */
internal fun <R> TuningOptions.using(block: (dev.timbre.ffi.TuningOptions) -> R): R = when (val from = from) {
    null -> block(toNative(null))
    else -> from.handle.use { block(toNative(it)) }
}

private fun TuningOptions.toNative(from: dev.timbre.ffi.NativeAdapter?) =
    dev.timbre.ffi.TuningOptions(
        method = when (val method = method) {
            is TuningMethod.Fourier -> dev.timbre.ffi.TuningMethod.Fourier(method.n.toUnsigned("n"), method.alpha)
            is TuningMethod.Lora -> dev.timbre.ffi.TuningMethod.Lora(method.rank.toUnsigned("rank"), method.alpha)
        },
        from = from,
        targets = targets,
        layers = layers,
        budget = when (val budget = budget) {
            null -> null
            is Budget.Steps -> dev.timbre.ffi.TuningBudget.Steps(budget.count.toUnsigned("steps").toULong())
            is Budget.Time -> dev.timbre.ffi.TuningBudget.Seconds(budget.duration.toDouble(DurationUnit.SECONDS))
        },
        batch = batch.toUnsigned("batch"),
        maxLength = maxLength.toNative("maxLength"),
        learningRate = learningRate,
        heldoutShare = heldoutShare,
        memoryLimit = memoryLimit?.toUnsigned("memoryLimit"),
        seed = seed.toULong(),
        checkpoint = checkpoint?.path,
    )

internal fun dev.timbre.ffi.DeviceInfo.public() =
    DeviceInfo(kernels, features, cores.toInt(), fastCores.toInt(), threads.toInt())

internal fun dev.timbre.ffi.MemoryUsage.public() =
    MemoryUsage(anonBytes.bounded(), fileBytes.bounded(), swapBytes.bounded(), availableBytes.bounded())

internal fun dev.timbre.ffi.MemoryEstimate.public() =
    MemoryEstimate(
        file = fileBytes.bounded(),
        keysAndValues = kvBytes.bounded(),
        buffers = bufferBytes.bounded(),
        anonymous = anonBytes.bounded(),
        available = availableBytes.bounded(),
    )

internal fun dev.timbre.ffi.ModelInfo.public() =
    ModelInfo(
        name = name,
        architecture = architecture,
        fingerprint = fingerprint,
        parameters = parameters.bounded(),
        fileBytes = fileBytes.bounded(),
        layers = layers.toInt(),
        hidden = hidden.toInt(),
        vocabulary = vocabulary.toInt(),
        context = context.toInt(),
        chat = chat,
        kernels = kernels,
        activations = activations.public(),
        threads = threads.toInt(),
    )

internal fun dev.timbre.ffi.AdapterInfo.public() =
    AdapterInfo(
        name = name,
        kind = when (kind) {
            dev.timbre.ffi.AdapterKind.FOURIER -> AdapterKind.FOURIER
            dev.timbre.ffi.AdapterKind.LORA -> AdapterKind.LORA
        },
        baseModel = baseModel,
        baseFingerprint = baseFingerprint,
        parameters = parameters.bounded(),
        bytes = bytes.bounded(),
        n = n?.toInt(),
        rank = rank?.toInt(),
        alpha = alpha,
        modules = modules,
    )

internal fun dev.timbre.ffi.ChatMessage.public() = Message(Role(role), content)

internal fun dev.timbre.ffi.GenerationResult.public() =
    Reply(
        text = text,
        finish = when (finish) {
            dev.timbre.ffi.Finish.END_TOKEN -> Finish.END_TOKEN
            dev.timbre.ffi.Finish.STOP_TEXT -> Finish.STOP_TEXT
            dev.timbre.ffi.Finish.LENGTH -> Finish.LENGTH
            dev.timbre.ffi.Finish.CONTEXT_FULL -> Finish.CONTEXT_FULL
            dev.timbre.ffi.Finish.CANCELLED -> Finish.CANCELLED
        },
        stats = stats.public(),
    )

private fun dev.timbre.ffi.GenerationStats.public() =
    Stats(
        promptTokens = promptTokens.toInt(),
        cachedTokens = cachedTokens.toInt(),
        prefillTokens = prefillTokens.toInt(),
        generatedTokens = generatedTokens.toInt(),
        timeToFirstToken = ttftMs.milliseconds,
        prefill = prefillMs.milliseconds,
        decode = decodeMs.milliseconds,
        prefillRate = prefillTokensPerSecond,
        decodeRate = decodeTokensPerSecond,
        swap = swapUs.microseconds,
        kvBytes = kvBytes.bounded(),
        anonymousBytes = anonBytes?.bounded(),
        gpu = gpu,
    )

internal fun dev.timbre.ffi.TuningEvent.public(): TuningEvent = when (this) {
    is dev.timbre.ffi.TuningEvent.Step ->
        TuningEvent.Step(
            step = step.bounded(),
            loss = loss,
            learningRate = learningRate,
            duration = ms.milliseconds,
            tokensPerSecond = tokensPerSecond,
            elapsed = elapsedMs.milliseconds,
            remaining = remainingMs.milliseconds,
        )
    is dev.timbre.ffi.TuningEvent.Scored -> TuningEvent.Scored(step.bounded(), heldoutLoss, best)
    is dev.timbre.ffi.TuningEvent.Paused -> TuningEvent.Paused(step.bounded())
    is dev.timbre.ffi.TuningEvent.Resumed -> TuningEvent.Resumed(step.bounded())
    is dev.timbre.ffi.TuningEvent.Saved -> TuningEvent.Saved(step.bounded())
}

internal fun dev.timbre.ffi.TuningResult.public() = TuningResult(Adapter(adapter), report.public())

private fun dev.timbre.ffi.TuningReport.public() =
    TuningReport(
        stop = when (stop) {
            dev.timbre.ffi.TuningStop.BUDGET -> TuningStop.BUDGET
            dev.timbre.ffi.TuningStop.EARLY -> TuningStop.EARLY
            dev.timbre.ffi.TuningStop.CANCELLED -> TuningStop.CANCELLED
            dev.timbre.ffi.TuningStop.DIVERGED -> TuningStop.DIVERGED
        },
        steps = steps.bounded(),
        adapterStep = adapterStep.bounded(),
        heldoutBefore = heldoutBefore,
        heldoutAfter = heldoutAfter,
        losses = losses,
        duration = seconds.seconds,
        tokens = tokens.bounded(),
        examples = examples.toInt(),
        heldoutExamples = heldoutExamples.toInt(),
        truncatedExamples = truncated.toInt(),
        peakAnonymousBytes = peakAnonBytes?.bounded(),
    )
