import XCTest

@testable import Timbre

final class TunerTests: XCTestCase {
    private func options(_ steps: Int, checkpoint: URL? = nil) -> TuningOptions {
        TuningOptions(
            budget: .steps(steps), batchSize: 2, maximumLength: 48, heldOutShare: 0.02, seed: 1, checkpoint: checkpoint)
    }

    func testAFewStepsLowerTheLossAndChangeTheVoice() async throws {
        let folder = try temporaryFolder(for: self)
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let tuner = try await Tuner(model: model, data: .file(Fixtures.texts), options: options(8), name: "mine")
        XCTAssertGreaterThan(tuner.plannedBytes, 1_000_000)
        var steps: [TuningEvent.Step] = []
        var scores: [Double] = []
        for try await event in tuner {
            switch event {
            case .step(let step): steps.append(step)
            case .scored(_, let loss, _): scores.append(loss)
            default: break
            }
        }
        let result = try await tuner.collect()
        XCTAssertEqual(steps.map(\.number), Array(1...8))
        XCTAssertEqual(steps.map(\.fraction), steps.map(\.fraction).sorted())
        XCTAssertGreaterThan(try XCTUnwrap(steps.last).fraction, 0.9)
        XCTAssertGreaterThanOrEqual(scores.count, 2)
        XCTAssertEqual(result.report.stop, .budget)
        XCTAssertEqual(result.report.steps, 8)
        XCTAssertLessThan(try XCTUnwrap(result.report.heldOutAfter), try XCTUnwrap(result.report.heldOutBefore))
        XCTAssertEqual(result.adapter.name, "mine")
        XCTAssertEqual(result.adapter.info.baseFingerprint, model.info.fingerprint)

        let session = try await Session(model: model)
        let short = GenerationOptions(maximumResponseTokens: 16)
        let before = try await session.respond(to: question, options: short)
        try await session.clear()
        try await session.setAdapters([result.adapter])
        let after = try await session.respond(to: question, options: short)
        XCTAssertNotEqual(after.content, before.content)

        let file = folder.appendingPathComponent("mine.safetensors")
        try await result.adapter.save(to: file)
        try await session.clear()
        try await session.setAdapters([try await Adapter(contentsOf: file)])
        let reloaded = try await session.respond(to: question, options: short)
        XCTAssertEqual(reloaded.content, after.content)
    }

    func testARunThatWasCancelledGoesOnFromItsCheckpoint() async throws {
        let folder = try temporaryFolder(for: self)
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let data = TuningData.file(Fixtures.texts)
        let straight = try await Tuner(model: model, data: data, options: options(5)).collect()

        let checkpoint = folder.appendingPathComponent("state")
        let first = try await Tuner(model: model, data: data, options: options(5, checkpoint: checkpoint))
        for try await case .step(let step) in first where step.number == 2 { first.cancel() }
        let cut = try await first.collect()
        XCTAssertEqual(cut.report.stop, .cancelled)
        XCTAssertLessThan(cut.report.steps, 5)
        let second = try await Tuner(model: model, data: data, options: options(5, checkpoint: checkpoint)).collect()
        XCTAssertEqual(second.report.steps, 5)
        XCTAssertEqual(second.report.losses, straight.report.losses)
        let (one, two) = (try await straight.adapter.data(), try await second.adapter.data())
        XCTAssertEqual(one, two)
        XCTAssertFalse(FileManager.default.fileExists(atPath: checkpoint.path))
    }

    func testCancellingTheTaskEndsTheRunAndKeepsWhatWasLearnt() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let tuner = try await Tuner(model: model, data: .file(Fixtures.texts), options: options(10_000))
        let steps = Locked(0)
        let task = Task {
            for try await case .step in tuner { steps.with { $0 += 1 } }
        }
        try await eventually("two steps") { steps.with { $0 >= 2 } }
        task.cancel()
        let failure = await error { try await task.value }
        XCTAssertTrue(failure is CancellationError, "\(failure)")
        let result = try await tuner.collect()
        XCTAssertEqual(result.report.stop, .cancelled)
        XCTAssertGreaterThanOrEqual(result.report.steps, 2)

        let waiting = try await Tuner(model: model, data: .file(Fixtures.texts), options: options(10_000))
        let collecting = Task { try await waiting.collect() }
        try await Task.sleep(for: .milliseconds(300))
        collecting.cancel()
        let other = await error { _ = try await collecting.value }
        XCTAssertTrue(other is CancellationError, "\(other)")
    }

    func testAPausedRunWaits() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let tuner = try await Tuner(model: model, data: .file(Fixtures.texts), options: options(3))
        var seen: [String] = []
        tuner.pause()
        for try await event in tuner {
            switch event {
            case .paused:
                seen.append("paused")
                try await Task.sleep(for: .milliseconds(200))
                tuner.resume()
            case .resumed: seen.append("resumed")
            case .step: seen.append("step")
            default: break
            }
        }
        XCTAssertEqual(seen.filter { $0 == "step" }.count, 3)
        let paused = try XCTUnwrap(seen.firstIndex(of: "paused"))
        XCTAssertEqual(seen[paused + 1], "resumed")
    }

    func testEveryKindOfDataIsLearntFrom() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let texts = (1...6).map { "Note number \($0): the lighthouse keeper writes again, and nobody answers him." }
        let chats = texts.map { [Message(role: .user, content: "Go on."), Message(role: .assistant, content: $0)] }
        let data: [TuningData] = [
            .texts(texts),
            .completions(texts.map { .init(prompt: "Write a note.", completion: $0) }),
            .chats(chats),
        ]
        for data in data {
            let options = TuningOptions(method: .lora(rank: 2, alpha: 4), budget: .steps(2), layers: "28-29", heldOutShare: 0)
            let result = try await Tuner(model: model, data: data, options: options).collect()
            XCTAssertEqual(result.report.steps, 2)
            XCTAssertEqual(result.report.examples, 6)
            XCTAssertEqual(result.adapter.info.kind, .lora)
            XCTAssertEqual(result.adapter.info.modules.count, 4)
        }
    }

    func testTheModelAnswersWhileItLearns() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let tuner = try await Tuner(model: model, data: .file(Fixtures.texts), options: options(3))
        tuner.start()
        let session = try await Session(model: model)
        let response = try await session.respond(to: question, options: GenerationOptions(maximumResponseTokens: 8))
        XCTAssertEqual(response.statistics.generatedTokens, 8)
        let result = try await tuner.collect()
        XCTAssertEqual(result.report.steps, 3)
    }

    func testLettingGoOfATunerEndsItsRun() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        weak var gone: Tuner?
        do {
            let tuner = try await Tuner(model: model, data: .file(Fixtures.texts), options: options(10_000))
            tuner.start()
            gone = tuner
        }
        XCTAssertNil(gone)
    }
}
