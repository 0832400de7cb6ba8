import Foundation

/// Where calls into the engine run.
///
/// They block: for microseconds most of them, for as long as a token takes those that wait for one. Swift's cooperative pool has
/// a thread a core and stalls if they block, so none of them is made on it. The class of the queues is also what makes the engine's
/// own threads run on the fast cores, for a thread inherits it from the one that starts it.
enum OffPool {
    /// Calls that are independent of each other.
    static let concurrent = DispatchQueue(label: "timbre", qos: .userInitiated, attributes: .concurrent)

    /// A queue for the calls of one object, which run in the order they were made.
    static func serial(_ label: String) -> DispatchQueue {
        DispatchQueue(label: label, qos: .userInitiated, target: concurrent)
    }
}

extension DispatchQueue {
    /// Runs `work` on the queue and returns what it returns, or throws what it throws, in this module's terms.
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
