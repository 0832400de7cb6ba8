import Foundation
internal import TimbreNative

#if canImport(Darwin)
    import Darwin
#endif

/// A base model: one file, mapped read-only and shared by every session that runs it.
///
/// Opening takes milliseconds and no memory for weights: they stay in the file, whose pages the system drops and reads again as
/// it likes. The file is closed when the last session, tuner and reference is gone.
///
/// ```swift
/// let model = try await Model(contentsOf: url)
/// let session = try await Session(model: model)
/// ```
public final class Model: Sendable {
    let native: NativeModel
    private let gpuCalls = SerialQueue()

    /// What the model is.
    public let info: ModelInfo

    /// Opens a GGUF file.
    ///
    /// - Parameters:
    ///   - url: The file. It must stay as it is while it is open.
    ///   - options: How it is run.
    ///   - progress: Hears the fraction that was read, from 0 to 1, with ``ModelOptions/warmUp``. It is called on a thread of the engine.
    /// - Throws: ``TimbreError/io(path:reason:)``, ``TimbreError/corruptFile(path:offset:reason:)``,
    ///   ``TimbreError/unsupportedModel(what:)``, ``TimbreError/invalidArgument(what:expected:found:)`` or
    ///   ``TimbreError/gpuUnavailable(reason:)``; `CancellationError` when the task was cancelled while the file was read.
    public init(
        contentsOf url: URL,
        options: ModelOptions = ModelOptions(),
        progress: (@Sendable (Double) -> Void)? = nil
    ) async throws {
        let listener = Progress(report: progress)
        let path = url.path
        (native, info) = try await withTaskCancellationHandler {
            try await OffPool.shared.run {
                let native = try NativeModel.open(path: path, options: try options.native, progress: listener)
                return (native, ModelInfo(try native.info()))
            }
        } onCancel: {
            listener.cancel()
        }
    }

    /// The number of tokens in a text, without any that the model puts around it.
    public func tokenCount(of text: String) async throws -> Int {
        try await OffPool.shared.run { [native] in Int(try native.tokenCount(text: text)) }
    }

    /// Submits nothing to the GPU from now on, and returns once it has nothing of this model's left to do; sessions go on on the CPU.
    /// For an app in the background, which is ended for work on the GPU. ``SystemObserver`` does it. Nothing to do for a model on the CPU.
    public func suspendGPU() async {
        try? await OffPool.shared.run { [native] in native.suspendGpu() }
    }

    /// Lets sessions use the GPU again, from what their caches there still hold.
    public func resumeGPU() async {
        try? await OffPool.shared.run { [native] in native.resumeGpu() }
    }

    /// The same without waiting, in the order of calls.
    func setGPU(suspended: Bool) {
        gpuCalls.async { [native] in suspended ? native.suspendGpu() : native.resumeGpu() }
    }

    /// What a session of this model will take.
    public func memoryEstimate(for options: SessionOptions = SessionOptions()) async throws -> MemoryEstimate {
        try await OffPool.shared.run { [native] in
            let context = try options.context?.checked("context", atLeast: 1)
            return MemoryEstimate(try native.memoryEstimate(context: context, kv: options.cache.native))
        }
    }

    /// What a model and one session of it will take, from the file's header alone: to be asked before opening, or downloading the rest.
    public static func memoryEstimate(
        contentsOf url: URL, for options: SessionOptions = SessionOptions()
    ) async throws -> MemoryEstimate {
        let path = url.path
        return try await OffPool.shared.run {
            let context = try options.context?.checked("context", atLeast: 1)
            return MemoryEstimate(try TimbreNative.estimateMemory(path: path, context: context, kv: options.cache.native))
        }
    }
}

/// Passes progress on, and the task's cancellation back.
private final class Progress: ProgressListener {
    private let report: (@Sendable (Double) -> Void)?
    private let cancelled = Locked(false)

    init(report: (@Sendable (Double) -> Void)?) {
        self.report = report
    }

    func cancel() {
        cancelled.with { $0 = true }
    }

    func onProgress(done: UInt64, total: UInt64) throws -> Bool {
        report?(total == 0 ? 1 : Double(done) / Double(total))
        return cancelled.with { !$0 }
    }
}

/// How a model is run.
public struct ModelOptions: Sendable, Hashable {
    /// Where it runs.
    public enum Backend: Sendable, Hashable {
        /// The CPU.
        case cpu
        /// The GPU; an error where there is none that computes right. See ``GPUCache``.
        case gpu
        /// A GPU with memory of its own where there is one that computes right, else the CPU, which on a phone is as fast.
        case automatic
    }

    /// How the CPU rounds activations before they meet quantised weights.
    public enum Activations: Sendable, Hashable {
        /// To 15 bits: results next to those of floating-point arithmetic.
        case int15
        /// To 8 bits, as other runtimes do: faster, above all in reading prompts, and less exact.
        case int8

        init(_ native: TimbreNative.Activations) {
            switch native {
            case .int15: self = .int15
            case .int8: self = .int8
            }
        }

        var native: TimbreNative.Activations {
            switch self {
            case .int15: .int15
            case .int8: .int8
            }
        }
    }

    /// Threads; `nil` for one a fast core.
    public var threads: Int?
    /// How the CPU rounds activations.
    public var activations: Activations
    /// Where it runs.
    public var backend: Backend
    /// Whether the file is read once now, so that the first reply does not wait for storage.
    public var warmUp: Bool

    /// Options, each with its default.
    public init(
        threads: Int? = nil, activations: Activations = .int15, backend: Backend = .cpu, warmUp: Bool = false
    ) {
        self.threads = threads
        self.activations = activations
        self.backend = backend
        self.warmUp = warmUp
    }

    /// The cores of the fastest kind, where the engine cannot count them itself.
    private static var fastCores: Int? {
        #if canImport(Darwin)
            var count: Int32 = 0
            var size = MemoryLayout<Int32>.size
            let isKnown = sysctlbyname("hw.perflevel0.physicalcpu", &count, &size, nil, 0) == 0
            return isKnown && count > 0 ? Int(count) : nil
        #else
            return nil
        #endif
    }

    var native: TimbreNative.ModelOptions {
        get throws {
            let backend: TimbreNative.Backend =
                switch backend {
                case .cpu: .cpu
                case .gpu: .gpu
                case .automatic: .auto
                }
            return TimbreNative.ModelOptions(
                threads: try (threads ?? Self.fastCores)?.checked("threads", atLeast: 1), kernels: .auto,
                activations: activations.native, backend: backend, warmUp: warmUp)
        }
    }
}

/// What a model is.
public struct ModelInfo: Sendable, Hashable {
    /// Its name, or its file's.
    public let name: String
    /// `llama`, `gemma3`.
    public let architecture: String
    /// The identity that adapters name.
    public let fingerprint: String
    /// Weights, in numbers.
    public let parameters: Int
    /// Length of the file in bytes.
    public let fileBytes: Int
    /// Decoder layers.
    public let layers: Int
    /// Residual width.
    public let hiddenSize: Int
    /// Vocabulary size.
    public let vocabularySize: Int
    /// Tokens of context it was trained for.
    public let contextSize: Int
    /// Whether it has a chat template, which ``Session/respond(to:options:)`` needs.
    public let supportsChat: Bool
    /// Name of the kernels that run it.
    public let kernels: String
    /// How the CPU rounds activations.
    public let activations: ModelOptions.Activations
    /// Threads that run it.
    public let threads: Int

    init(_ info: TimbreNative.ModelInfo) {
        name = info.name
        architecture = info.architecture
        fingerprint = info.fingerprint
        parameters = Int(clamping: info.parameters)
        fileBytes = Int(clamping: info.fileBytes)
        layers = Int(info.layers)
        hiddenSize = Int(info.hidden)
        vocabularySize = Int(info.vocabulary)
        contextSize = Int(info.context)
        supportsChat = info.chat
        kernels = info.kernels
        activations = ModelOptions.Activations(info.activations)
        threads = Int(info.threads)
    }
}

/// Memory that a model and one session take, in bytes.
public struct MemoryEstimate: Sendable, Hashable {
    /// The mapped file, which the system can drop and read again.
    public let fileBytes: Int
    /// Keys and values of a full context.
    public let cacheBytes: Int
    /// Buffers and tables.
    public let bufferBytes: Int
    /// What the system counts against the app: all but the file.
    public let footprintBytes: Int
    /// What the system would give the app now; `nil` where it does not say.
    public let availableBytes: Int?

    /// Whether it fits into what the system would give now; `true` where the system does not say.
    public var fits: Bool { availableBytes.map { footprintBytes <= $0 } ?? true }

    init(_ estimate: TimbreNative.MemoryEstimate) {
        fileBytes = Int(clamping: estimate.fileBytes)
        cacheBytes = Int(clamping: estimate.kvBytes)
        bufferBytes = Int(clamping: estimate.bufferBytes)
        footprintBytes = Int(clamping: estimate.anonBytes)
        availableBytes = Memory.availableBytes ?? (estimate.availableBytes == 0 ? nil : Int(clamping: estimate.availableBytes))
    }
}
