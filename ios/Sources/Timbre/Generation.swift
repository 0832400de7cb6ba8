import Foundation
internal import TimbreNative

/// A reply that is running: its text in pieces, then what it was and cost.
///
/// It runs at its own pace whether it is read or not. Iterating gives its pieces, whole characters each, to one reader;
/// ``collect()`` gives the whole, with or without that. Cancelling the reading task, calling ``cancel()`` and letting go of the
/// last copy end it within a token.
public struct Generation: AsyncSequence, Sendable {
    /// A piece of the text.
    public typealias Element = String

    private let owner: Owner

    init(
        on queue: SerialQueue,
        begin: @escaping @Sendable () throws -> NativeGeneration,
        onEnd: @escaping @Sendable () -> Void
    ) {
        let run = Run()
        let pieces = AsyncThrowingStream<String, any Error> { continuation in
            continuation.onTermination = { if case .cancelled = $0 { run.cancel() } }
            queue.async {
                do {
                    let native = try begin()
                    run.attach(native)
                    // Waiting for tokens is not the session's queue's to do: what is asked of it meanwhile is to be answered.
                    OffPool.shared.async { run.pump(native, into: continuation, onEnd: onEnd) }
                } catch {
                    run.end(.failure(translated(error)), continuation, onEnd)
                }
            }
        }
        owner = Owner(run: run, pieces: pieces)
    }

    /// The whole reply, waiting for its end.
    ///
    /// - Throws: What ended it, as ``Session/respond(to:options:)``; `CancellationError` if the waiting task is cancelled, which
    ///   cancels the reply. One that ``cancel()`` ended is no error: it is what it had come to.
    public func collect() async throws -> Response {
        let run = owner.run
        let response = try await withTaskCancellationHandler {
            try await run.completion.value
        } onCancel: {
            run.cancel()
        }
        if response.finish == .cancelled { try Task.checkCancellation() }
        return response
    }

    /// Ends the reply within a token, or within a batch of the prompt. Returns at once.
    public func cancel() {
        owner.run.cancel()
    }

    /// The pieces, for the one reader there may be.
    public func makeAsyncIterator() -> Iterator {
        Iterator(owner: owner, pieces: owner.pieces.makeAsyncIterator())
    }

    /// Reads the pieces.
    public struct Iterator: AsyncIteratorProtocol {
        fileprivate let owner: Owner
        fileprivate var pieces: AsyncThrowingStream<String, any Error>.Iterator

        /// The next piece, or `nil` at the end.
        ///
        /// - Throws: What ended the reply; `CancellationError` if the task was cancelled.
        public mutating func next() async throws -> String? {
            if let piece = try await pieces.next() { return piece }
            try Task.checkCancellation()
            return nil
        }
    }
}

/// Held by a generation's copies and readers: when the last is gone, nobody wants the reply.
private final class Owner: Sendable {
    let run: Run
    let pieces: AsyncThrowingStream<String, any Error>

    init(run: Run, pieces: AsyncThrowingStream<String, any Error>) {
        self.run = run
        self.pieces = pieces
    }

    deinit {
        run.cancel()
    }
}

/// A reply and the engine's side of it, once there is one.
private final class Run: Sendable {
    private struct State {
        var native: NativeGeneration?
        var isCancelled = false
    }

    let completion = Completion<Response>()
    private let state = Locked(State())

    func attach(_ native: NativeGeneration) {
        let cancelled = state.with { state in
            state.native = native
            return state.isCancelled
        }
        if cancelled { native.cancel() }
    }

    func cancel() {
        let native = state.with { state in
            state.isCancelled = true
            return state.native
        }
        native?.cancel()
    }

    /// Hands the pieces on as they come.
    func pump(
        _ native: NativeGeneration,
        into continuation: AsyncThrowingStream<String, any Error>.Continuation,
        onEnd: @Sendable () -> Void
    ) {
        let result = Result<Response, any Error>(translating: {
            while let piece = try native.next(gatherMs: 0) {
                continuation.yield(piece)
            }
            return Response(try native.result())
        })
        end(result, continuation, onEnd)
    }

    func end(
        _ result: Result<Response, any Error>,
        _ continuation: AsyncThrowingStream<String, any Error>.Continuation,
        _ onEnd: @Sendable () -> Void
    ) {
        // A cancelled task's reader may wait for the engine's object to go; nothing needs it now.
        state.with { $0.native = nil }
        onEnd()
        completion.finish(result)
        switch result {
        case .success: continuation.finish()
        case .failure(let error): continuation.finish(throwing: error)
        }
    }
}
