import Foundation
internal import TimbreNative

/// What makes the shared model one person's: a few hundred kilobytes, immutable, swapped in microseconds.
///
/// An adapter does not belong to a session. Load as many as you like and give them to ``Session/setAdapters(_:policy:)``.
///
/// ```swift
/// let devil = try await Adapter(contentsOf: url)
/// try await session.setAdapters([devil])
/// ```
public final class Adapter: Sendable {
    let native: NativeAdapter

    /// What the adapter is.
    public let info: AdapterInfo

    /// What errors call it: its file's name without the ending, or the name it was given.
    public var name: String { info.name }

    /// Reads a directory that PEFT wrote, or a `.safetensors` file.
    ///
    /// - Throws: ``TimbreError/io(path:reason:)``, ``TimbreError/corruptFile(path:offset:reason:)``, or
    ///   ``TimbreError/incompatibleAdapter(what:expected:found:)`` for a method or option that this library does not do.
    public convenience init(contentsOf url: URL) async throws {
        let path = url.path
        try await self.init { try NativeAdapter.load(path: path) }
    }

    /// Reads the data of a `.safetensors` file.
    public convenience init(data: Data, name: String) async throws {
        try await self.init { try NativeAdapter.fromBytes(name: name, bytes: data) }
    }

    /// Reads the data of a PEFT directory's `adapter_config.json` and `adapter_model.safetensors`.
    public convenience init(configuration: Data, weights: Data, name: String) async throws {
        try await self.init { try NativeAdapter.fromPeftBytes(name: name, config: configuration, weights: weights) }
    }

    private convenience init(_ load: @escaping @Sendable () throws -> NativeAdapter) async throws {
        let (native, info) = try await OffPool.shared.run {
            let native = try load()
            return (native, AdapterInfo(try native.info()))
        }
        self.init(native: native, info: info)
    }

    init(native: NativeAdapter, info: AdapterInfo) {
        self.native = native
        self.info = info
    }

    /// This adapter, `weight` times. 1 is the adapter as it is; any finite number will do.
    public func weighted(_ weight: Float) -> WeightedAdapter {
        WeightedAdapter(adapter: self, weight: weight)
    }

    /// Returns if every part of it fits the model.
    ///
    /// - Throws: ``TimbreError/incompatibleAdapter(what:expected:found:)`` with what does not fit.
    public func checkCompatibility(with model: Model) async throws {
        try await OffPool.shared.run { [native] in try native.checkCompatible(model: model.native) }
    }

    /// The weighted sum of adapters, an adapter again.
    ///
    /// - Parameters:
    ///   - parts: At least one, all of one kind and for one base model.
    ///   - name: What errors will call it.
    ///   - model: Gives shapes where the parts' files carry none and their positions differ.
    /// - Throws: ``TimbreError/invalidArgument(what:expected:found:)`` or
    ///   ``TimbreError/incompatibleAdapter(what:expected:found:)``.
    public static func mix(_ parts: [WeightedAdapter], name: String, model: Model? = nil) async throws -> Adapter {
        try await Adapter { try TimbreNative.mixAdapters(name: name, parts: parts.map(\.native), model: model?.native) }
    }

    /// Writes a single file where the name ends in `.safetensors`, else a directory that PEFT loads. It appears whole or not at all.
    ///
    /// - Throws: ``TimbreError/io(path:reason:)``, or ``TimbreError/invalidArgument(what:expected:found:)`` for what the form has no
    ///   way to say, such as `.half` in a directory.
    public func save(to url: URL, precision: Precision = .single) async throws {
        let path = url.path
        try await OffPool.shared.run { [native] in try native.save(path: path, f16: precision == .half) }
    }

    /// The data of a single file.
    public func data(precision: Precision = .single) async throws -> Data {
        try await OffPool.shared.run { [native] in try native.toBytes(f16: precision == .half) }
    }

    /// How an adapter's numbers are written.
    public enum Precision: Sendable, Hashable {
        /// 4 bytes a number, to the bit.
        case single
        /// 2 bytes a number.
        case half
    }
}

/// An adapter and how much of it.
public struct WeightedAdapter: Sendable {
    /// The adapter.
    public var adapter: Adapter
    /// 1 for the adapter as it is.
    public var weight: Float

    /// An adapter, `weight` times.
    public init(adapter: Adapter, weight: Float = 1) {
        self.adapter = adapter
        self.weight = weight
    }

    var native: TimbreNative.WeightedAdapter { .init(adapter: adapter.native, weight: weight) }
}

/// What an adapter is.
public struct AdapterInfo: Sendable, Hashable {
    /// What its changes are made of.
    public enum Kind: Sendable, Hashable {
        /// Coefficients of a sparse spectrum (FourierFT).
        case fourier
        /// Two factors of low rank.
        case lora
    }

    /// What errors call it.
    public let name: String
    /// Its kind.
    public let kind: Kind
    /// Name of the base model it was made for, where it says.
    public let baseModel: String?
    /// Fingerprint of that model, where it says.
    public let baseFingerprint: String?
    /// Trainable numbers.
    public let parameters: Int
    /// Bytes of those numbers in memory.
    public let bytes: Int
    /// Coefficients of the first module; `nil` for LoRA.
    public let n: Int?
    /// Rank of the first module; `nil` for FourierFT.
    public let rank: Int?
    /// α of the first module.
    public let alpha: Double?
    /// Paths of the modules it changes.
    public let modules: [String]

    init(_ info: TimbreNative.AdapterInfo) {
        name = info.name
        kind =
            switch info.kind {
            case .fourier: .fourier
            case .lora: .lora
            }
        baseModel = info.baseModel
        baseFingerprint = info.baseFingerprint
        parameters = Int(clamping: info.parameters)
        bytes = Int(clamping: info.bytes)
        n = info.n.map { Int($0) }
        rank = info.rank.map { Int($0) }
        alpha = info.alpha
        modules = info.modules
    }
}
