import Timbre
import XCTest

@testable import TimbreSampleModels

/// The sample app without its views.
@available(iOS 17, macOS 14, *)
@MainActor
final class SampleTests: XCTestCase {
    private func folder() throws -> URL {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sample-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        addTeardownBlock { try? FileManager.default.removeItem(at: folder) }
        return folder
    }

    private func studio() async throws -> Studio {
        let repository = URL(fileURLWithPath: #filePath)
            .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let models = ProcessInfo.processInfo.environment["TIMBRE_TEST_MODELS"].map { URL(fileURLWithPath: $0) }
        let file = (models ?? repository.appendingPathComponent("target/models"))
            .appendingPathComponent("SmolLM2-135M-Instruct.Q4_1.gguf")
        let studio = Studio(folder: try folder(), observer: nil, options: SessionOptions(context: 512))
        await studio.open()
        guard case .empty = studio.state else {
            XCTFail("\(studio.state)")
            return studio
        }
        await studio.take(file)
        guard case .ready = studio.state else {
            XCTFail("\(studio.state)")
            return studio
        }
        return studio
    }

    func testAChatIsHeldAndStopped() async throws {
        let studio = try await studio()
        XCTAssertEqual(studio.info?.architecture, "llama")
        let chat = Chat(studio: studio)
        chat.draft = "Say hello."
        chat.send()
        XCTAssertTrue(chat.isResponding)
        await chat.finish()
        XCTAssertEqual(chat.bubbles.map(\.isMine), [true, false])
        XCTAssertFalse(chat.bubbles[1].text.isEmpty)
        XCTAssertEqual(chat.mine, ["Say hello."])
        XCTAssertGreaterThan(Meters.rows(of: chat.statistics, swap: .microseconds(7)).count, 4)

        chat.draft = "Write a very long story about a lighthouse and the sea, with many chapters."
        chat.send()
        while chat.bubbles[3].text.isEmpty { try await Task.sleep(for: .milliseconds(5)) }
        chat.stop()
        await chat.finish()
        XCTAssertFalse(chat.isResponding)
        XCTAssertNil(chat.problem)
        await chat.clear()
        XCTAssertTrue(chat.bubbles.isEmpty)
    }

    func testAVoiceIsLearntKeptAndSpoken() async throws {
        let studio = try await studio()
        let learning = Learning(studio: studio, observer: nil)
        learning.notes = (1...5).map { "Note \($0): the keeper of the lighthouse writes again, nobody answers." }.joined(separator: "\n\n")
        let options = TuningOptions(budget: .steps(3), batchSize: 2, heldOutShare: 0)
        learning.start(messages: ["One more, from the chat, about the sea and the light."], name: "keeper", options: options)
        XCTAssertTrue(learning.isRunning)
        await learning.finish()
        guard case .done = learning.phase else { return XCTFail("\(learning.phase)") }
        XCTAssertEqual(learning.losses.count, 3)
        XCTAssertGreaterThan(learning.progress, 0.9)
        XCTAssertEqual(studio.voices.map(\.name), ["base model", "keeper"])
        XCTAssertEqual(studio.voice.name, "keeper")
        XCTAssertNotNil(studio.lastSwap)
        try await studio.speak(as: .base)
        XCTAssertEqual(studio.voice, .base)

        // The voice is there at the next start.
        await studio.open()
        XCTAssertEqual(studio.voices.map(\.name), ["base model", "keeper"])
    }

    func testLearningIsCancelled() async throws {
        let studio = try await studio()
        let learning = Learning(studio: studio, observer: nil)
        let texts = (1...6).map { "Message \($0) about nothing in particular, but long enough to be learnt from." }
        learning.start(messages: texts, name: "never", options: TuningOptions(budget: .steps(10_000), heldOutShare: 0))
        while learning.losses.isEmpty { try await Task.sleep(for: .milliseconds(5)) }
        learning.cancel()
        await learning.finish()
        XCTAssertEqual(learning.phase, .stopped)
        XCTAssertEqual(studio.voices, [.base])

        learning.start(messages: [], name: "nothing")
        await learning.finish()
        guard case .failed = learning.phase else { return XCTFail("\(learning.phase)") }
    }

    func testMetersLook() async throws {
        let meters = Meters()
        let task = Task { await meters.run(every: .milliseconds(1)) }
        while meters.samples.count < 3 { try await Task.sleep(for: .milliseconds(5)) }
        task.cancel()
        await task.value
        XCTAssertGreaterThan(meters.samples[0].footprintBytes, 0)
        XCTAssertEqual(Meters.megabytes(12_345_678), "12.3 MB")
    }

    func testADamagedModelIsAMessage() async throws {
        let folder = try folder()
        try Data("not a model".utf8).write(to: folder.appendingPathComponent("x.gguf"))
        let studio = Studio(folder: folder, observer: nil)
        await studio.open()
        guard case .failed(let message) = studio.state else { return XCTFail("\(studio.state)") }
        XCTAssertTrue(message.contains("x.gguf"), message)
    }
}
