import Foundation
internal import TimbreNative

/// Why a call failed.
///
/// The cases are few and the same in every language; what the engine knows beyond them is in their texts. What was cancelled throws
/// Swift's own `CancellationError`.
public enum TimbreError: Error, Sendable, Hashable {
    /// An adapter that does not go with the model, or that asks for what this library does not do. Nothing of it was applied.
    ///
    /// `what` is a module, the base model or a field of the adapter's configuration.
    case incompatibleAdapter(what: String, expected: String, found: String)
    /// A file, or data, that is damaged or is not what it should be.
    ///
    /// `path` is empty for data that came from no file. `offset` is in bytes from the beginning, where it is known.
    case corruptFile(path: String, offset: Int?, reason: String)
    /// A model that is whole but of a kind, or with a feature, that this library does not run.
    case unsupportedModel(what: String)
    /// More bytes of memory than there are, or than the caller allowed.
    case outOfMemory(needed: Int, available: Int)
    /// The GPU was asked for and cannot be used.
    case gpuUnavailable(reason: String)
    /// The prompt does not fit into the session's context. All are tokens.
    case contextFull(capacity: Int, used: Int, added: Int)
    /// The session is at work: wait for the end of its reply or cancel it.
    case busy(what: String)
    /// An argument out of its range.
    case invalidArgument(what: String, expected: String, found: String)
    /// The system could not read or write a file.
    case io(path: String, reason: String)
    /// A fault of this library.
    case `internal`(reason: String)
}

extension TimbreError: LocalizedError, CustomStringConvertible {
    /// One line for a log or a developer.
    public var description: String {
        switch self {
        case .incompatibleAdapter(let what, let expected, let found): "\(what): expected \(expected), found \(found)"
        case .corruptFile(let path, let offset, let reason):
            [path, offset.map { "byte \($0)" } ?? "", reason].filter { !$0.isEmpty }.joined(separator: ": ")
        case .unsupportedModel(let what): what
        case .outOfMemory(let needed, let available):
            "\(needed) bytes of memory are needed, \(available) are available"
        case .gpuUnavailable(let reason): "no GPU: \(reason)"
        case .contextFull(let capacity, let used, let added):
            "the context of \(capacity) tokens is full: \(used) are held, \(added) more were to be added"
        case .busy(let what): what
        case .invalidArgument(let what, let expected, let found): "\(what) is \(found), expected \(expected)"
        case .io(let path, let reason): "\(path): \(reason)"
        case .internal(let reason): "internal error: \(reason)"
        }
    }

    /// The same, for `localizedDescription`.
    public var errorDescription: String? { description }
}

/// The engine's error in this module's terms; any other as it is.
func translated(_ error: any Error) -> any Error {
    guard let native = error as? TimbreNative.TimbreError else { return error }
    switch native {
    case .IncompatibleAdapter(let what, let expected, let found):
        return TimbreError.incompatibleAdapter(what: what, expected: expected, found: found)
    case .CorruptFile(let path, let offset, let reason):
        return TimbreError.corruptFile(path: path, offset: offset.map { Int(clamping: $0) }, reason: reason)
    case .UnsupportedModel(let what):
        return TimbreError.unsupportedModel(what: what)
    case .OutOfMemory(let needed, let available):
        return TimbreError.outOfMemory(needed: Int(clamping: needed), available: Int(clamping: available))
    case .GpuUnavailable(let reason):
        return TimbreError.gpuUnavailable(reason: reason)
    case .ContextFull(let capacity, let used, let added):
        return TimbreError.contextFull(
            capacity: Int(clamping: capacity), used: Int(clamping: used), added: Int(clamping: added))
    case .Cancelled:
        return CancellationError()
    case .Busy(let what):
        return TimbreError.busy(what: what)
    case .InvalidArgument(let what, let expected, let found):
        return TimbreError.invalidArgument(what: what, expected: expected, found: found)
    case .Io(let path, let reason):
        return TimbreError.io(path: path, reason: reason)
    case .Internal(let reason):
        return TimbreError.internal(reason: reason)
    }
}

extension Int {
    /// The number as the engine takes it.
    func checked(_ what: String, atLeast least: Int = 0) throws -> UInt32 {
        guard self >= least, let number = UInt32(exactly: self) else {
            throw TimbreError.invalidArgument(what: what, expected: "\(least) to \(UInt32.max)", found: "\(self)")
        }
        return number
    }
}
