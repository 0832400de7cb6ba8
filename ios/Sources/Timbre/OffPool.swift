import Foundation

/// Where calls into the engine run.
///
/// They block: for microseconds most of them, for as long as a token takes those that wait for one. Swift's cooperative pool has
/// a thread a core and stalls if they block, so none of them is made on it; nor on a dispatch queue, for on Linux that pool is one. Threads
/// of this module's own wait instead, as many as there are calls at a time. Their class is also what makes the engine's threads run on
/// the fast cores, for a thread inherits it from the one that starts it.
final class OffPool: Sendable {
    typealias Job = @Sendable () -> Void

    /// The threads of all objects here.
    static let shared = OffPool()

    private struct State {
        var jobs: [Job] = []
        /// Threads that wait for a job.
        var idle = 0
    }

    /// How long a thread waits for the next job before it ends.
    private static let patience: TimeInterval = 5

    private let state = Locked(State())
    /// One count a job that an idle thread is to take.
    private let offered = DispatchSemaphore(value: 0)

    /// Runs `job` soon, on a thread of its own for as long as it takes.
    func async(_ job: @escaping Job) {
        let isTaken = state.with { state in
            state.jobs.append(job)
            return state.idle >= state.jobs.count
        }
        if isTaken {
            offered.signal()
        } else {
            let thread = Thread { [self] in work() }
            thread.name = "timbre"
            thread.qualityOfService = .userInitiated
            thread.start()
        }
    }

    private func work() {
        while let job = next() {
            #if canImport(ObjectiveC)
                autoreleasepool { job() }
            #else
                job()
            #endif
        }
    }

    private func next() -> Job? {
        if let job = state.with({ $0.jobs.popFirst() }) { return job }
        state.with { $0.idle += 1 }
        _ = offered.wait(timeout: .now() + Self.patience)
        return state.with { state in
            state.idle -= 1
            return state.jobs.popFirst()
        }
    }

    /// Runs `work` and returns what it returns, or throws what it throws, in this module's terms.
    func run<Value: Sendable>(_ work: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            async { continuation.resume(with: Result(translating: work)) }
        }
    }
}

extension Array {
    fileprivate mutating func popFirst() -> Element? {
        isEmpty ? nil : removeFirst()
    }
}

/// The calls of one object, one after the other in the order they were made.
final class SerialQueue: Sendable {
    private struct State {
        var jobs: [OffPool.Job] = []
        var isRunning = false
    }

    private let state = Locked(State())

    func async(_ job: @escaping OffPool.Job) {
        let isFirst = state.with { state in
            state.jobs.append(job)
            defer { state.isRunning = true }
            return !state.isRunning
        }
        guard isFirst else { return }
        OffPool.shared.async { [state] in
            while let job = state.with({ state in
                let job = state.jobs.popFirst()
                state.isRunning = job != nil
                return job
            }) {
                job()
            }
        }
    }

    /// Runs `work` in its turn and returns what it returns, or throws what it throws, in this module's terms.
    func run<Value: Sendable>(_ work: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            async { continuation.resume(with: Result(translating: work)) }
        }
    }
}

extension Result where Failure == any Error {
    /// What `work` does, with the engine's errors in this module's terms.
    init(translating work: () throws -> Success) {
        do {
            self = .success(try work())
        } catch {
            self = .failure(translated(error))
        }
    }
}

/// A value behind a lock. `@unchecked`, for the compiler cannot see that the lock guards it; nothing else reaches the value.
final class Locked<Value>: @unchecked Sendable {
    private var value: Value
    private let lock = NSLock()

    init(_ value: Value) {
        self.value = value
    }

    func with<Result>(_ body: (inout Value) throws -> Result) rethrows -> Result {
        lock.lock()
        defer { lock.unlock() }
        return try body(&value)
    }
}

/// A result that comes once and is waited for by any number of tasks.
final class Completion<Value: Sendable>: Sendable {
    private struct State {
        var result: Result<Value, any Error>?
        var waiting: [CheckedContinuation<Value, any Error>] = []
    }

    private let state = Locked(State())

    /// Gives the result. Only the first counts.
    func finish(_ result: Result<Value, any Error>) {
        let waiting = state.with { state in
            guard state.result == nil else { return [CheckedContinuation<Value, any Error>]() }
            state.result = result
            defer { state.waiting = [] }
            return state.waiting
        }
        for continuation in waiting {
            continuation.resume(with: result)
        }
    }

    /// The result, waiting for it. Who wants to wait no longer brings it about by other means.
    var value: Value {
        get async throws {
            try await withCheckedThrowingContinuation { continuation in
                let result = state.with { state in
                    if state.result == nil { state.waiting.append(continuation) }
                    return state.result
                }
                if let result { continuation.resume(with: result) }
            }
        }
    }
}
