import Foundation
import Observation
import Timbre

/// What the pages of the app share: the model, its session and the voices there are.
@available(iOS 17, macOS 14, *)
@MainActor
@Observable
final class Studio {
    /// How far the app is on its way to a conversation.
    enum State {
        /// There is no model file yet.
        case empty
        /// The file is read once, this far.
        case opening(Double)
        /// A conversation can be held.
        case ready(Session)
        /// It cannot, and why.
        case failed(String)
    }

    private(set) var state = State.empty
    private(set) var info: ModelInfo?
    /// The base model's own voice, then the adapters in the folder, by name.
    private(set) var voices: [Voice] = [.base]
    private(set) var voice = Voice.base
    /// How long the last change of voice took.
    private(set) var lastSwap: Duration?

    /// Where model and adapters are kept.
    let folder: URL
    private let observer: SystemObserver?
    private let options: SessionOptions

    /// - Parameters:
    ///   - folder: The app's documents.
    ///   - observer: What tells sessions that memory is short; `nil` where nothing does.
    init(folder: URL, observer: SystemObserver?, options: SessionOptions = SessionOptions(context: 2048)) {
        self.folder = folder
        self.observer = observer
        self.options = options
    }

    var session: Session? {
        if case .ready(let session) = state { session } else { nil }
    }

    /// The model file in the folder, if there is one.
    var modelFile: URL? { files(in: folder, ending: "gguf").first }

    private var adapterFolder: URL { folder.appendingPathComponent("adapters") }

    /// Takes a file that the user picked into the folder, then opens it.
    func take(_ picked: URL) async {
        do {
            let kept = folder.appendingPathComponent(picked.lastPathComponent)
            // Hundreds of megabytes, off the main thread.
            try await Task.detached {
                let isScoped = picked.startAccessing()
                defer { if isScoped { picked.stopAccessing() } }
                try? FileManager.default.removeItem(at: kept)
                try FileManager.default.copyItem(at: picked, to: kept)
            }.value
            await open()
        } catch {
            state = .failed(error.localizedDescription)
        }
    }

    /// Opens the model of the folder, if it can run here, and looks for adapters.
    func open() async {
        guard let file = modelFile else { return state = .empty }
        state = .opening(0)
        do {
            let estimate = try await Model.memoryEstimate(contentsOf: file, for: options)
            guard estimate.fits else {
                throw TimbreError.outOfMemory(needed: estimate.footprintBytes, available: estimate.availableBytes ?? 0)
            }
            let model = try await Model(contentsOf: file, options: ModelOptions(warmUp: true)) { fraction in
                Task { @MainActor [weak self] in self?.opened(fraction) }
            }
            info = model.info
            let session = try await Session(model: model, options: options)
            observer?.add(session)
            await findVoices()
            state = .ready(session)
        } catch {
            state = .failed(error.localizedDescription)
        }
    }

    private func opened(_ fraction: Double) {
        if case .opening = state { state = .opening(fraction) }
    }

    /// Changes the voice. Where it does not fit, it stays as it was and the reason is thrown.
    func speak(as voice: Voice) async throws {
        guard let session else { return }
        lastSwap = try await session.setAdapters(voice.adapter.map { [$0] } ?? [])
        self.voice = voice
    }

    /// Keeps a learnt adapter and speaks with it.
    func keep(_ adapter: Adapter) async throws {
        try FileManager.default.createDirectory(at: adapterFolder, withIntermediateDirectories: true)
        try await adapter.save(to: adapterFolder.appendingPathComponent("\(adapter.name).safetensors"))
        await findVoices()
        if let voice = voices.first(where: { $0.name == adapter.name }) { try await speak(as: voice) }
    }

    private func findVoices() async {
        var found = [Voice.base]
        for file in files(in: adapterFolder, ending: "safetensors") {
            // One that is damaged is not offered.
            guard let adapter = try? await Adapter(contentsOf: file) else { continue }
            found.append(Voice(name: adapter.name, adapter: adapter))
        }
        voices = found
    }

    private func files(in folder: URL, ending: String) -> [URL] {
        let files = try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        return (files ?? []).filter { $0.pathExtension == ending }.sorted { $0.path < $1.path }
    }
}

/// The base model's own voice, or that of an adapter.
struct Voice: Identifiable, Hashable, Sendable {
    let name: String
    let adapter: Adapter?

    var id: String { name }

    static let base = Voice(name: "base model", adapter: nil)

    static func == (a: Voice, b: Voice) -> Bool { a.name == b.name && a.adapter === b.adapter }

    func hash(into hasher: inout Hasher) { hasher.combine(name) }
}

extension URL {
    /// Asks for a file outside the app's own folders. Only Apple's systems need asking.
    fileprivate func startAccessing() -> Bool {
        #if canImport(Darwin)
            startAccessingSecurityScopedResource()
        #else
            false
        #endif
    }

    fileprivate func stopAccessing() {
        #if canImport(Darwin)
            stopAccessingSecurityScopedResource()
        #endif
    }
}
