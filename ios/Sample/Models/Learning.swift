import Foundation
import Observation
import Timbre

/// The second page: learning the user's voice from their own messages.
@available(iOS 17, macOS 14, *)
@MainActor
@Observable
final class Learning {
    /// How far it is.
    enum Phase: Equatable {
        case idle
        case preparing
        case learning
        case paused
        case done(before: Double?, after: Double?)
        case stopped
        case failed(String)
    }

    private(set) var phase = Phase.idle
    /// From 0 to 1.
    private(set) var progress = 0.0
    /// How long it will go on, by its pace so far.
    private(set) var remaining: Duration?
    /// Loss of every step so far.
    private(set) var losses: [Double] = []
    /// Texts to learn from beside the chat's, a paragraph each.
    var notes = ""

    private let studio: Studio
    private let observer: SystemObserver?
    private var tuner: Tuner?
    private var run: Task<Void, Never>?

    init(studio: Studio, observer: SystemObserver?) {
        self.studio = studio
        self.observer = observer
    }

    var isRunning: Bool {
        switch phase {
        case .preparing, .learning, .paused: true
        default: false
        }
    }

    /// Learns from the notes and these messages, then keeps the voice under this name and speaks with it.
    func start(messages: [String], name: String, options: TuningOptions = TuningOptions(budget: .seconds(60))) {
        guard !isRunning, let model = studio.session?.model else { return }
        let paragraphs = notes.components(separatedBy: "\n\n").map { $0.trimmingCharacters(in: .whitespacesAndNewlines) }
        let texts = (paragraphs + messages).filter { !$0.isEmpty }
        (phase, progress, remaining, losses) = (.preparing, 0, nil, [])
        run = Task {
            do {
                try await learn(model: model, texts: texts, name: name, options: options)
            } catch is CancellationError {
                phase = .stopped
            } catch {
                phase = .failed(error.localizedDescription)
            }
            tuner = nil
        }
    }

    private func learn(model: Model, texts: [String], name: String, options: TuningOptions) async throws {
        let tuner = try await Tuner(model: model, data: .texts(texts), options: options, name: name)
        observer?.add(tuner)
        self.tuner = tuner
        phase = .learning
        for try await event in tuner {
            switch event {
            case .step(let step):
                (progress, remaining) = (step.fraction, step.remaining)
                losses.append(step.loss)
            case .paused: phase = .paused
            case .resumed: phase = .learning
            case .scored, .saved: break
            }
        }
        let result = try await tuner.collect()
        if result.report.stop == .cancelled { throw CancellationError() }
        try await studio.keep(result.adapter)
        phase = .done(before: result.report.heldOutBefore, after: result.report.heldOutAfter)
    }

    /// Waits at the end of the step.
    func pause() {
        tuner?.pause()
    }

    func resume() {
        tuner?.resume()
    }

    /// Ends it within a step and keeps nothing.
    func cancel() {
        run?.cancel()
        tuner?.cancel()
    }

    /// Waits for its end.
    func finish() async {
        await run?.value
    }
}
