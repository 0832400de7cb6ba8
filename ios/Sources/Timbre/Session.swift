import Foundation
internal import TimbreNative

/// A conversation with a model, in the voice of the adapters it has.
///
/// Who knows FoundationModels' `LanguageModelSession` knows this: make one with instructions, then ask for a whole reply with
/// ``respond(to:options:)`` or for one that grows with ``streamResponse(to:options:)``. What is new is
/// ``setAdapters(_:policy:)``, which may be called between any two replies.
///
/// One reply runs at a time. What needs the session meanwhile throws ``TimbreError/busy(what:)``, but waits for the end of a reply
/// that was cancelled. All calls may be made from any task.
public final class Session: Sendable {
    /// The model it talks with.
    public let model: Model

    private let native: NativeSession
    /// The session's calls, in the order they were made.
    private let queue = SerialQueue()
    private let replies = Locked(0)

    /// Opens a session: all its memory but that of the first reply's prompt is planned now.
    ///
    /// - Parameters:
    ///   - model: The model to talk with.
    ///   - instructions: What the model is told before the conversation.
    ///   - adapters: The voice to begin with; see ``setAdapters(_:policy:)``.
    ///   - options: Context and cache.
    /// - Throws: ``TimbreError/outOfMemory(needed:available:)`` where keys and values of a full context do not fit into what the
    ///   system would give now; ``TimbreError/invalidArgument(what:expected:found:)``,
    ///   ``TimbreError/incompatibleAdapter(what:expected:found:)``, ``TimbreError/unsupportedModel(what:)`` for instructions to a model
    ///   without a chat template.
    public init(
        model: Model,
        instructions: String? = nil,
        adapters: [Adapter] = [],
        options: SessionOptions = SessionOptions()
    ) async throws {
        self.model = model
        let estimate = try await model.memoryEstimate(for: options)
        if let available = estimate.availableBytes, !estimate.fits {
            throw TimbreError.outOfMemory(needed: estimate.footprintBytes, available: available)
        }
        native = try await queue.run {
            let options = TimbreNative.SessionOptions(
                context: try options.context?.checked("context", atLeast: 1),
                kv: options.cache.native,
                instructions: instructions)
            let native = try NativeSession(model: model.native, options: options)
            if !adapters.isEmpty {
                _ = try native.setAdapters(adapters: adapters.map { $0.weighted(1).native }, policy: .recompute)
            }
            return native
        }
    }

    /// Changes the voice: the adapters add up, and none is the base model's own voice.
    ///
    /// The first use of an adapter on a model takes milliseconds; after that a swap is a pointer.
    ///
    /// - Parameters:
    ///   - adapters: The adapters, each as it is.
    ///   - policy: What becomes of the history as the previous adapters read it.
    /// - Returns: How long the swap took.
    /// - Throws: ``TimbreError/incompatibleAdapter(what:expected:found:)``, and the session keeps what it had;
    ///   ``TimbreError/busy(what:)``.
    @discardableResult
    public func setAdapters(_ adapters: [Adapter], policy: SwapPolicy = .recompute) async throws -> Duration {
        try await setAdapters(mixing: adapters.map { $0.weighted(1) }, policy: policy)
    }

    /// Changes the voice to a mixture: each adapter times its weight.
    @discardableResult
    public func setAdapters(mixing adapters: [WeightedAdapter], policy: SwapPolicy = .recompute) async throws -> Duration {
        try await queue.run { [native] in
            let policy: TimbreNative.SwapPolicy =
                switch policy {
                case .recompute: .recompute
                case .keep: .keep
                }
            return .microseconds(try native.setAdapters(adapters: adapters.map(\.native), policy: policy))
        }
    }

    /// The reply to a message of the user.
    ///
    /// Both join the ``transcript`` when the reply ends; one that fails, or is cancelled before its first character, leaves it as it was.
    ///
    /// - Throws: ``TimbreError/contextFull(capacity:used:added:)``, ``TimbreError/busy(what:)``,
    ///   ``TimbreError/unsupportedModel(what:)``, ``TimbreError/invalidArgument(what:expected:found:)``; `CancellationError` within
    ///   a token of the task's cancellation.
    public func respond(to prompt: String, options: GenerationOptions = GenerationOptions()) async throws -> Response {
        try await streamResponse(to: prompt, options: options).collect()
    }

    /// The reply to a message of the user, as it grows. It begins at once.
    ///
    /// ```swift
    /// for try await piece in session.streamResponse(to: "Define money.") {
    ///     text += piece
    /// }
    /// ```
    public func streamResponse(
        to prompt: String, options: GenerationOptions = GenerationOptions()
    ) -> Generation {
        generate { [native] in try native.respond(prompt: prompt, options: try options.native) }
    }

    /// The continuation of a text as it is, without a template and beside the conversation, as it grows.
    public func streamCompletion(
        of text: String, options: GenerationOptions = GenerationOptions()
    ) -> Generation {
        generate { [native] in try native.complete(text: text, options: try options.native) }
    }

    /// Whether a reply is under way.
    public var isResponding: Bool { replies.with { $0 > 0 } }

    /// The messages so far, instructions included. While a reply runs, the message it replies to is the last.
    public var transcript: [Message] {
        get async {
            let messages = try? await queue.run { [native] in native.history().map(Message.init) }
            return messages ?? []
        }
    }

    /// Makes these the messages so far; instructions are among them or not, as you like.
    public func setTranscript(_ messages: [Message]) async throws {
        try await queue.run { [native] in try native.setHistory(messages: messages.map(\.native)) }
    }

    /// Forgets everything but the instructions and the adapters.
    public func clear() async throws {
        try await queue.run { [native] in try native.clear() }
    }

    /// Tokens the next prompt has before anything is said.
    public var tokenCount: Int {
        get async throws { try await queue.run { [native] in Int(try native.historyTokens()) } }
    }

    /// Tokens the session can hold.
    public var contextSize: Int {
        get async throws { try await queue.run { [native] in Int(try native.capacity()) } }
    }

    /// Writes the conversation to a file, which appears whole or not at all.
    public func save(to url: URL) async throws {
        let path = url.path
        try await queue.run { [native] in try native.save(path: path) }
    }

    /// The conversation as data, for a place that is no file.
    public func data() async throws -> Data {
        try await queue.run { [native] in try native.saveBytes() }
    }

    /// Makes the conversation the one in a file. Adapters stay as they are; keys and values are computed anew at the next reply.
    ///
    /// - Throws: ``TimbreError/io(path:reason:)``, ``TimbreError/corruptFile(path:offset:reason:)``,
    ///   ``TimbreError/invalidArgument(what:expected:found:)`` for a conversation with another base model. The session keeps what it had.
    public func restore(contentsOf url: URL) async throws {
        let path = url.path
        try await queue.run { [native] in try native.restore(path: path) }
    }

    /// Makes the conversation the one in this data.
    public func restore(from data: Data) async throws {
        try await queue.run { [native] in try native.restoreBytes(bytes: data) }
    }

    /// Gives memory back until the next reply.
    ///
    /// - Returns: `false` where a reply is running, which needs it.
    @discardableResult
    public func trimMemory(_ level: TrimLevel = .all) async throws -> Bool {
        try await queue.run { [native] in
            try native.trimMemory(level: level == .all ? .all : .buffers)
        }
    }

    /// Ends the reply that is running, if any, within a token.
    public func cancel() {
        // Behind the calls that were made before it: a reply that was asked for and has not begun is cancelled too.
        queue.async { [native] in native.cancel() }
    }

    private func generate(_ begin: @escaping @Sendable () throws -> NativeGeneration) -> Generation {
        replies.with { $0 += 1 }
        return Generation(on: queue, begin: begin) { [replies] in replies.with { $0 -= 1 } }
    }
}

/// How a session is set up.
public struct SessionOptions: Sendable, Hashable {
    /// How keys and values are stored.
    public enum Cache: Sendable, Hashable {
        /// 2 bytes a number.
        case half
        /// 34 bytes for 32 numbers.
        case eightBit

        var native: KvPrecision {
            switch self {
            case .half: .f16
            case .eightBit: .q8
            }
        }
    }

    /// Tokens it holds; `nil` for the model's context or 4096, whichever is less.
    public var context: Int?
    /// How keys and values are stored.
    public var cache: Cache

    /// Options, each with its default.
    public init(context: Int? = nil, cache: Cache = .half) {
        self.context = context
        self.cache = cache
    }
}

/// What a swap does with what previous adapters have read.
public enum SwapPolicy: Sendable, Hashable {
    /// Read the history anew under the new adapters at the next reply: it will be what they alone would have said.
    case recompute
    /// Keep it as the old adapters read it: the next token comes at once.
    case keep
}

/// How much memory a session gives back.
public enum TrimLevel: Sendable, Hashable {
    /// Buffers, which are made again in a millisecond.
    case buffers
    /// Buffers, keys and values: the next reply reads the history anew.
    case all
}

/// One message of a conversation.
public struct Message: Sendable, Hashable, Codable {
    /// Who speaks. A model's template may know more roles than the three here.
    public struct Role: RawRepresentable, Sendable, Hashable, Codable {
        /// The role's name in the template.
        public let rawValue: String

        /// The role of that name.
        public init(rawValue: String) {
            self.rawValue = rawValue
        }

        /// Who gives the instructions.
        public static let system = Role(rawValue: "system")
        /// Who asks.
        public static let user = Role(rawValue: "user")
        /// The model.
        public static let assistant = Role(rawValue: "assistant")
    }

    /// Who speaks.
    public var role: Role
    /// What is said.
    public var content: String

    /// A message.
    public init(role: Role, content: String) {
        self.role = role
        self.content = content
    }

    init(_ message: ChatMessage) {
        self.init(role: Role(rawValue: message.role), content: message.content)
    }

    var native: ChatMessage { ChatMessage(role: role.rawValue, content: content) }
}
