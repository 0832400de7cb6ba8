import Foundation
internal import TimbreNative

/// A fine-tune on the device: texts in, an ``Adapter`` out.
///
/// It prepares when it is made and runs from the first time it is iterated or collected, on a thread of the engine.
/// Iterating gives news of the run to one reader; ``collect()`` gives the result, with or without that.
///
/// ```swift
/// let tuner = try await Tuner(model: model, data: .texts(messages), options: TuningOptions(budget: .seconds(60)))
/// for try await case .step(let step) in tuner {
///     progress = step.fraction
/// }
/// let tuned = try await tuner.collect()
/// try await session.setAdapters([tuned.adapter])
/// ```
///
/// Cancelling a task that reads or waits, calling ``cancel()`` and letting go of the tuner end the run within a step.
public final class Tuner: AsyncSequence, Sendable {
    /// News of the run.
    public typealias Element = TuningEvent

    /// Bytes the pass through the model has planned.
    public let plannedBytes: Int

    private let native: NativeTuner
    private let run: Run

    /// Turns the data into tokens, checks everything and plans the memory of the run.
    ///
    /// - Parameters:
    ///   - model: The model to learn on, which may answer meanwhile.
    ///   - data: What is learnt from.
    ///   - options: How it learns, and for how long.
    ///   - name: What errors will call the adapter.
    /// - Throws: ``TimbreError/invalidArgument(what:expected:found:)`` for options out of range, data with nothing to learn and a
    ///   checkpoint of another run; ``TimbreError/outOfMemory(needed:available:)`` where ``TuningOptions/memoryLimit`` is too small;
    ///   ``TimbreError/incompatibleAdapter(what:expected:found:)``, ``TimbreError/corruptFile(path:offset:reason:)``,
    ///   ``TimbreError/io(path:reason:)``.
    public init(
        model: Model, data: TuningData, options: TuningOptions = TuningOptions(), name: String = "tuned"
    ) async throws {
        native = try await OffPool.shared.run {
            try NativeTuner(model: model.native, data: data.native, options: try options.native, name: name)
        }
        plannedBytes = Int(clamping: native.plannedBytes())
        run = Run(native)
    }

    deinit {
        native.cancel()
    }

    /// Begins, or goes on from the checkpoint, without waiting for anything. A second call does nothing.
    public func start() {
        run.start()
    }

    /// The result, waiting for the end of the run.
    ///
    /// - Throws: What ended the run: ``TimbreError/io(path:reason:)`` where the checkpoint could not be written, among others.
    ///   `CancellationError` if the waiting task is cancelled, which cancels the run; what it had learnt can then still be collected
    ///   from another task. A run that ``cancel()`` ended is no error: its result is what it had learnt.
    public func collect() async throws -> TuningResult {
        start()
        let (native, run) = (native, run)
        let result = try await withTaskCancellationHandler {
            try await run.completion.value
        } onCancel: {
            native.cancel()
        }
        if result.report.stop == .cancelled { try Task.checkCancellation() }
        return result
    }

    /// Lets the run wait at the end of its step. Waiting takes no processor time and none of a budget of seconds.
    public func pause() {
        native.pause()
    }

    /// Lets the run go on.
    public func resume() {
        native.resume()
    }

    /// Ends the run within a step.
    public func cancel() {
        native.cancel()
    }

    /// News of the run, for the one reader there may be. Who is slow misses the oldest.
    public func makeAsyncIterator() -> Iterator {
        start()
        return Iterator(owner: self, events: run.events.makeAsyncIterator())
    }

    /// Reads the news.
    public struct Iterator: AsyncIteratorProtocol {
        fileprivate let owner: Tuner
        fileprivate var events: AsyncThrowingStream<TuningEvent, any Error>.Iterator

        /// The next, or `nil` at the end of the run.
        ///
        /// - Throws: What ended the run; `CancellationError` if the task was cancelled.
        public mutating func next() async throws -> TuningEvent? {
            if let event = try await events.next() { return event }
            try Task.checkCancellation()
            return nil
        }
    }
}

/// The run, apart from the tuner, so that the thread that waits for news does not keep the tuner alive.
private final class Run: Sendable {
    let completion = Completion<TuningResult>()
    let events: AsyncThrowingStream<TuningEvent, any Error>

    private let native: NativeTuner
    private let continuation: AsyncThrowingStream<TuningEvent, any Error>.Continuation
    private let started = Locked(false)

    init(_ native: NativeTuner) {
        self.native = native
        (events, continuation) = AsyncThrowingStream.makeStream(bufferingPolicy: .bufferingNewest(4096))
        continuation.onTermination = { if case .cancelled = $0 { native.cancel() } }
    }

    func start() {
        let first = started.with { started in
            defer { started = true }
            return !started
        }
        guard first else { return }
        OffPool.shared.async { [native, continuation, completion] in
            let result = Result<TuningResult, any Error>(translating: {
                try native.start()
                while case let news = try native.next(), !news.isEmpty {
                    news.forEach { continuation.yield(TuningEvent($0)) }
                }
                return try TuningResult(try native.result())
            })
            completion.finish(result)
            switch result {
            case .success: continuation.finish()
            case .failure(let error): continuation.finish(throwing: error)
            }
        }
    }
}
