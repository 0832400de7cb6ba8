import Foundation
internal import TimbreNative

/// What a fine-tune learns from.
public enum TuningData: Sendable, Hashable {
    /// Texts, a user's messages say, each as it is.
    case texts([String])
    /// Prompts, which are given, and completions, which are learnt.
    case completions([Completion])
    /// Chats, of which what the assistant says is learnt.
    case chats([[Message]])
    /// A file: lines of JSON where its name ends in `.jsonl`, else text.
    case file(URL)

    /// A prompt that is given and a completion that is learnt.
    public struct Completion: Sendable, Hashable, Codable {
        /// What is given.
        public var prompt: String
        /// What is learnt.
        public var completion: String

        /// A pair.
        public init(prompt: String, completion: String) {
            self.prompt = prompt
            self.completion = completion
        }
    }

    var native: TimbreNative.TuningData {
        switch self {
        case .texts(let texts): .texts(texts: texts)
        case .completions(let pairs):
            .completions(pairs: pairs.map { .init(prompt: $0.prompt, completion: $0.completion) })
        case .chats(let chats): .chats(chats: chats.map { $0.map(\.native) })
        case .file(let url): .file(path: url.path)
        }
    }
}

/// How a fine-tune learns. The defaults fit any model.
public struct TuningOptions: Sendable {
    /// The kind of adapter.
    public enum Method: Sendable, Hashable {
        /// `n` coefficients of a sparse spectrum a module, scaled by `alpha` (FourierFT).
        case fourier(n: Int = 1000, alpha: Double = 300)
        /// Two factors of `rank` a module, scaled by `alpha` over the rank.
        case lora(rank: Int = 8, alpha: Double = 16)
    }

    /// How long it goes on.
    public enum Budget: Sendable, Hashable {
        /// This many steps, at least one.
        case steps(Int)
        /// This many seconds of work; waiting in a pause takes none.
        case seconds(Double)
    }

    /// The kind of adapter.
    public var method: Method
    /// How long it goes on.
    public var budget: Budget
    /// An adapter to go on from; method, targets and layers are then its own.
    public var base: Adapter?
    /// Linear layers to change by the endings of their names, `["all-linear"]` for all.
    public var targets: [String]
    /// Layers to change, such as `0-5,7`; `nil` for all.
    public var layers: String?
    /// Examples of a step.
    public var batchSize: Int
    /// Tokens of the longest example; `nil` for 256, of texts 128.
    public var maximumLength: Int?
    /// The learning rate in the unit of the adapter's kind; `nil` for the default, which fits any model, n and α.
    public var learningRate: Double?
    /// Share of the examples that are held out to score with, at most 32 of them; 0 for none.
    public var heldOutShare: Double
    /// Most bytes the pass through the model may plan; `nil` for about 100 MB.
    public var memoryLimit: Int?
    /// Seed of the held-out part, the order of examples and what is drawn to begin with.
    public var seed: UInt64
    /// A file for the state of the run, from which the same run goes on after it was cancelled or the app was ended; removed at the
    /// run's own end.
    public var checkpoint: URL?

    /// Options, each with its default.
    public init(
        method: Method = .fourier(),
        budget: Budget = .seconds(60),
        base: Adapter? = nil,
        targets: [String] = ["q_proj", "v_proj"],
        layers: String? = nil,
        batchSize: Int = 4,
        maximumLength: Int? = nil,
        learningRate: Double? = nil,
        heldOutShare: Double = 0.1,
        memoryLimit: Int? = nil,
        seed: UInt64 = 0,
        checkpoint: URL? = nil
    ) {
        self.method = method
        self.budget = budget
        self.base = base
        self.targets = targets
        self.layers = layers
        self.batchSize = batchSize
        self.maximumLength = maximumLength
        self.learningRate = learningRate
        self.heldOutShare = heldOutShare
        self.memoryLimit = memoryLimit
        self.seed = seed
        self.checkpoint = checkpoint
    }

    var native: TimbreNative.TuningOptions {
        get throws {
            let method: TuningMethod =
                switch method {
                case .fourier(let n, let alpha): .fourier(n: try n.checked("n", atLeast: 1), alpha: alpha)
                case .lora(let rank, let alpha): .lora(rank: try rank.checked("rank", atLeast: 1), alpha: alpha)
                }
            let budget: TuningBudget =
                switch budget {
                case .steps(let steps): .steps(steps: UInt64(try steps.checked("steps", atLeast: 1)))
                case .seconds(let seconds): .seconds(seconds: seconds)
                }
            return TimbreNative.TuningOptions(
                method: method,
                from: base?.native,
                targets: targets,
                layers: layers,
                budget: budget,
                batch: try batchSize.checked("batchSize", atLeast: 1),
                maxLength: try maximumLength?.checked("maximumLength", atLeast: 1),
                learningRate: learningRate,
                heldoutShare: heldOutShare,
                memoryLimit: memoryLimit.map { UInt64(clamping: $0) },
                seed: seed,
                checkpoint: checkpoint?.path)
        }
    }
}

/// News of a fine-tune.
public enum TuningEvent: Sendable, Hashable {
    /// A step was taken.
    case step(Step)
    /// The held-out examples were scored, before the first step (`step` 0), on the way and at the end. Losses are in nats a token.
    case scored(step: Int, heldOutLoss: Double, isBest: Bool)
    /// The run waits for ``Tuner/resume()``.
    case paused(step: Int)
    /// The run goes on.
    case resumed(step: Int)
    /// The state is in the checkpoint.
    case saved(step: Int)

    /// One step.
    public struct Step: Sendable, Hashable {
        /// Its number, from 1.
        public let number: Int
        /// Loss of its examples, in nats a token.
        public let loss: Double
        /// The learning rate it was taken with.
        public let learningRate: Double
        /// How long it took.
        public let time: Duration
        /// Tokens a second.
        public let tokensPerSecond: Double
        /// How long the run has worked.
        public let elapsed: Duration
        /// How long it will go on, by its pace so far.
        public let remaining: Duration

        /// How much of the run is done, from 0 to 1.
        public var fraction: Double {
            let total = elapsed + remaining
            return total > .zero ? elapsed / total : 0
        }
    }

    init(_ event: TimbreNative.TuningEvent) {
        switch event {
        case .step(let step, let loss, let learningRate, let ms, let tokensPerSecond, let elapsedMs, let remainingMs):
            let step = Step(
                number: Int(clamping: step), loss: loss, learningRate: learningRate, time: .milliseconds(ms),
                tokensPerSecond: tokensPerSecond, elapsed: .milliseconds(elapsedMs), remaining: .milliseconds(remainingMs))
            self = .step(step)
        case .scored(let step, let loss, let best):
            self = .scored(step: Int(clamping: step), heldOutLoss: loss, isBest: best)
        case .paused(let step): self = .paused(step: Int(clamping: step))
        case .resumed(let step): self = .resumed(step: Int(clamping: step))
        case .saved(let step): self = .saved(step: Int(clamping: step))
        }
    }
}

/// A fine-tune that has ended.
public struct TuningResult: Sendable {
    /// What was learnt, to be used at once.
    public let adapter: Adapter
    /// What it took.
    public let report: TuningReport

    init(_ result: TimbreNative.TuningResult) throws {
        adapter = Adapter(native: result.adapter, info: AdapterInfo(try result.adapter.info()))
        report = TuningReport(result.report)
    }
}

/// What a fine-tune took and came to.
public struct TuningReport: Sendable, Hashable {
    /// Why a run ended.
    public enum Stop: Sendable, Hashable {
        /// The budget is spent.
        case budget
        /// The held-out loss has stopped falling.
        case early
        /// It was cancelled.
        case cancelled
        /// The loss rose beyond recovery; the adapter is the last good one.
        case diverged
    }

    /// Why it ended.
    public let stop: Stop
    /// Steps taken.
    public let steps: Int
    /// Steps behind the adapter.
    public let adapterStep: Int
    /// Held-out loss before the first step, in nats a token, where there are held-out examples.
    public let heldOutBefore: Double?
    /// Held-out loss of the adapter, where it was measured.
    public let heldOutAfter: Double?
    /// Loss of every step.
    public let losses: [Float]
    /// How long it worked.
    public let time: Duration
    /// Tokens that went through the model.
    public let tokens: Int
    /// Examples learnt from.
    public let examples: Int
    /// Examples held out.
    public let heldOutExamples: Int
    /// Examples that were cut off at the longest length.
    public let truncated: Int
    /// The most anonymous memory of the process during the run in bytes, where the engine can tell.
    public let peakBytes: Int?

    init(_ report: TimbreNative.TuningReport) {
        stop =
            switch report.stop {
            case .budget: .budget
            case .early: .early
            case .cancelled: .cancelled
            case .diverged: .diverged
            }
        steps = Int(clamping: report.steps)
        adapterStep = Int(clamping: report.adapterStep)
        heldOutBefore = report.heldoutBefore
        heldOutAfter = report.heldoutAfter
        losses = report.losses
        time = .seconds(report.seconds)
        tokens = Int(clamping: report.tokens)
        examples = Int(report.examples)
        heldOutExamples = Int(report.heldoutExamples)
        truncated = Int(report.truncated)
        peakBytes = report.peakAnonBytes.map { Int(clamping: $0) }
    }
}
