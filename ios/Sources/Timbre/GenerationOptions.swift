internal import TimbreNative

/// How a reply is generated.
///
/// The defaults take the most probable token each time, so that the same prompt has the same reply.
public struct GenerationOptions: Sendable, Hashable {
    /// How tokens are chosen.
    public struct SamplingMode: Sendable, Hashable {
        var top: Int
        var probabilityThreshold: Double
        var minimumProbability: Double
        var seed: UInt64?
        var isGreedy: Bool

        /// The most probable token each time.
        public static let greedy = SamplingMode(
            top: 0, probabilityThreshold: 1, minimumProbability: 0, seed: 0, isGreedy: true)

        /// A draw from the `k` most probable tokens.
        ///
        /// - Parameters:
        ///   - k: How many.
        ///   - seed: The same seed draws the same; `nil` for one that is drawn itself.
        public static func random(top k: Int, seed: UInt64? = nil) -> SamplingMode {
            SamplingMode(top: k, probabilityThreshold: 1, minimumProbability: 0, seed: seed, isGreedy: false)
        }

        /// A draw from the fewest most probable tokens whose probabilities reach the threshold together.
        ///
        /// - Parameters:
        ///   - probabilityThreshold: From 0 to 1.
        ///   - seed: The same seed draws the same; `nil` for one that is drawn itself.
        public static func random(probabilityThreshold: Double, seed: UInt64? = nil) -> SamplingMode {
            SamplingMode(
                top: 0, probabilityThreshold: probabilityThreshold, minimumProbability: 0, seed: seed, isGreedy: false)
        }

        /// A draw from the tokens that are at least this fraction as probable as the most probable.
        ///
        /// - Parameters:
        ///   - minimumProbability: From 0 to 1.
        ///   - seed: The same seed draws the same; `nil` for one that is drawn itself.
        public static func random(minimumProbability: Double, seed: UInt64? = nil) -> SamplingMode {
            SamplingMode(
                top: 0, probabilityThreshold: 1, minimumProbability: minimumProbability, seed: seed, isGreedy: false)
        }
    }

    /// How tokens are chosen; `nil` for `.greedy` without a temperature and for a draw from the likeliest with one.
    public var sampling: SamplingMode?
    /// How much chance a draw leaves to what is less probable, from 0; `nil` for 0.8 where tokens are drawn.
    public var temperature: Double?
    /// The most tokens a reply has.
    public var maximumResponseTokens: Int
    /// What divides the logits of recent tokens; 1 does nothing.
    public var repetitionPenalty: Double
    /// Texts that end the reply and are not part of it.
    public var stop: [String]

    /// Options, each with its default.
    public init(
        sampling: SamplingMode? = nil,
        temperature: Double? = nil,
        maximumResponseTokens: Int = 256,
        repetitionPenalty: Double = 1,
        stop: [String] = []
    ) {
        self.sampling = sampling
        self.temperature = temperature
        self.maximumResponseTokens = maximumResponseTokens
        self.repetitionPenalty = repetitionPenalty
        self.stop = stop
    }

    var native: TimbreNative.GenerationOptions {
        get throws {
            // The draw of a caller that names a temperature alone: the engine's own defaults.
            let usual = SamplingMode(top: 40, probabilityThreshold: 0.95, minimumProbability: 0.05, isGreedy: false)
            let mode = sampling ?? (temperature == nil ? .greedy : usual)
            return TimbreNative.GenerationOptions(
                maxTokens: try maximumResponseTokens.checked("maximumResponseTokens"),
                temperature: mode.isGreedy ? 0 : Float(temperature ?? 0.8),
                topK: try mode.top.checked("top"),
                topP: Float(mode.probabilityThreshold),
                minP: Float(mode.minimumProbability),
                repeatPenalty: Float(repetitionPenalty),
                seed: mode.seed ?? .random(in: .min ... .max),
                stop: stop)
        }
    }
}
