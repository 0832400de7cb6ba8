internal import TimbreNative

/// A reply that has ended.
public struct Response: Sendable, Hashable {
    /// Why a reply ended.
    public enum Finish: Sendable, Hashable {
        /// The model ended it.
        case endToken
        /// A text of ``GenerationOptions/stop`` came.
        case stopText
        /// It has ``GenerationOptions/maximumResponseTokens``.
        case length
        /// The context is full.
        case contextFull
        /// It was cancelled.
        case cancelled
    }

    /// The whole text.
    public let content: String
    /// Why it ended.
    public let finish: Finish
    /// What it cost.
    public let statistics: Statistics

    init(_ result: GenerationResult) {
        content = result.text
        finish =
            switch result.finish {
            case .endToken: .endToken
            case .stopText: .stopText
            case .length: .length
            case .contextFull: .contextFull
            case .cancelled: .cancelled
            }
        statistics = Statistics(result.stats)
    }
}

/// What a reply cost.
public struct Statistics: Sendable, Hashable {
    /// Tokens of the prompt, the history included.
    public let promptTokens: Int
    /// Of those, the ones whose keys and values were held already.
    public let cachedTokens: Int
    /// Tokens run before the first new one.
    public let prefillTokens: Int
    /// Tokens generated.
    public let generatedTokens: Int
    /// From the call to the first token.
    public let timeToFirstToken: Duration
    /// Time of the prompt.
    public let prefillTime: Duration
    /// Time after the first token.
    public let decodeTime: Duration
    /// Tokens of the prompt a second.
    public let prefillRate: Double
    /// Tokens a second after the first.
    public let decodeRate: Double
    /// How long the last swap of adapters took.
    public let swapTime: Duration
    /// Bytes reserved for keys and values.
    public let cacheBytes: Int
    /// What the system counts against the app at the reply's end, in bytes; `nil` where it does not say.
    public let footprintBytes: Int?
    /// Name of the GPU that the last token ran on; `nil` for the CPU.
    public let gpu: String?

    init(_ stats: GenerationStats) {
        promptTokens = Int(stats.promptTokens)
        cachedTokens = Int(stats.cachedTokens)
        prefillTokens = Int(stats.prefillTokens)
        generatedTokens = Int(stats.generatedTokens)
        timeToFirstToken = .milliseconds(stats.ttftMs)
        prefillTime = .milliseconds(stats.prefillMs)
        decodeTime = .milliseconds(stats.decodeMs)
        prefillRate = stats.prefillTokensPerSecond
        decodeRate = stats.decodeTokensPerSecond
        swapTime = .microseconds(stats.swapUs)
        cacheBytes = Int(clamping: stats.kvBytes)
        gpu = stats.gpu
        footprintBytes = stats.anonBytes.map { Int(clamping: $0) } ?? Memory.footprintBytes
    }
}
