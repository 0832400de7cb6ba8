import Foundation
import Timbre

func personalise(
    modelURL: URL, voiceURL: URL, messages: [String],
    budget: TuningOptions.Budget = .seconds(60), show: (String) -> Void
) async throws {
    let model = try await Model(contentsOf: modelURL)
    // Learn how the person writes, once.
    if !FileManager.default.fileExists(atPath: voiceURL.path) {
        let options = TuningOptions(budget: budget)
        let tuner = try await Tuner(model: model, data: .texts(messages), options: options)
        for try await case .step(let step) in tuner {
            print("\(Int(step.fraction * 100)) %")
        }
        try await tuner.collect().adapter.save(to: voiceURL)
    }
    // The shared model, then the same model in the person's own words: a swap, not a reload.
    let mine = try await Adapter(contentsOf: voiceURL)
    let session = try await Session(model: model)
    for try await piece in session.streamResponse(to: "Invite a friend to dinner.") {
        show(piece)
    }
    try await session.clear()
    try await session.setAdapters([mine])
    for try await piece in session.streamResponse(to: "Invite a friend to dinner.") {
        show(piece)
    }
}
