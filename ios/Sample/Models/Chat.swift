import Foundation
import Observation
import Timbre

/// The first page: a conversation, and the picker of its voice.
@available(iOS 17, macOS 14, *)
@MainActor
@Observable
final class Chat {
    /// One bubble.
    struct Bubble: Identifiable, Sendable {
        let id = UUID()
        let isMine: Bool
        var text: String
        /// The voice that said it.
        let voice: String
    }

    private(set) var bubbles: [Bubble] = []
    private(set) var problem: String?
    /// What the last reply cost.
    private(set) var statistics: Statistics?
    private(set) var isResponding = false
    var draft = ""

    private let studio: Studio
    private var reply: Task<Void, Never>?

    init(studio: Studio) {
        self.studio = studio
    }

    /// What the user has written so far, to learn from.
    var mine: [String] { bubbles.filter(\.isMine).map(\.text) }

    /// Sends the draft and shows the reply as it grows.
    func send() {
        let prompt = draft.trimmingCharacters(in: .whitespacesAndNewlines)
        guard let session = studio.session, !prompt.isEmpty, !isResponding else { return }
        draft = ""
        problem = nil
        isResponding = true
        bubbles.append(Bubble(isMine: true, text: prompt, voice: ""))
        bubbles.append(Bubble(isMine: false, text: "", voice: studio.voice.name))
        let place = bubbles.count - 1
        reply = Task {
            do {
                let generation = session.streamResponse(to: prompt, options: GenerationOptions(temperature: 0.7))
                for try await piece in generation { bubbles[place].text += piece }
                statistics = try await generation.collect().statistics
            } catch is CancellationError {
                // What there is stays.
            } catch {
                problem = error.localizedDescription
            }
            isResponding = false
        }
    }

    /// Stops the reply within a token.
    func stop() {
        reply?.cancel()
    }

    /// Waits for the reply that is running.
    func finish() async {
        await reply?.value
    }

    /// Changes the voice of what comes next.
    func speak(as voice: Voice) async {
        do {
            try await studio.speak(as: voice)
            problem = nil
        } catch {
            problem = error.localizedDescription
        }
    }

    /// Begins anew.
    func clear() async {
        stop()
        await finish()
        try? await studio.session?.clear()
        bubbles = []
        statistics = nil
    }
}
