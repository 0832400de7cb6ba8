import XCTest

@testable import Timbre

final class SystemObserverTests: XCTestCase {
    private let center = NotificationCenter()
    private let names = SystemObserver.Notifications(
        memoryWarning: Notification.Name("memory"), didEnterBackground: Notification.Name("background"),
        willEnterForeground: Notification.Name("foreground"))

    func testAMemoryWarningTrimsIdleSessions() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        let short = GenerationOptions(maximumResponseTokens: 8)
        let first = try await session.respond(to: story, options: short)
        let observer = SystemObserver(center: center, notifications: names)
        observer.add(session)
        let before = try XCTUnwrap(Memory.footprintBytes)
        center.post(name: names.memoryWarning, object: nil)
        try await eventually("less memory") { try XCTUnwrap(Memory.footprintBytes) < before - 100_000 }
        // What was trimmed is read anew.
        let next = try await session.respond(to: "Go on.", options: short)
        XCTAssertEqual(next.statistics.cachedTokens, 0)
        XCTAssertFalse(first.content.isEmpty)
    }

    func testTheBackgroundEndsReplies() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        let observer = SystemObserver(center: center, notifications: names)
        observer.add(session)
        let generation = session.streamResponse(to: story, options: GenerationOptions(maximumResponseTokens: 4000))
        center.post(name: names.didEnterBackground, object: nil)
        let response = try await generation.collect()
        XCTAssertEqual(response.finish, .cancelled)

        let patient = SystemObserver(center: center, notifications: names, cancelsInBackground: false)
        let other = try await Session(model: session.model)
        patient.add(other)
        let going = other.streamResponse(to: question, options: GenerationOptions(maximumResponseTokens: 12))
        center.post(name: names.didEnterBackground, object: nil)
        let whole = try await going.collect()
        XCTAssertEqual(whole.statistics.generatedTokens, 12)
    }

    func testTunersPauseInTheBackground() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let options = TuningOptions(budget: .steps(3), batchSize: 2, maximumLength: 48, heldOutShare: 0)
        let tuner = try await Tuner(model: model, data: .file(Fixtures.texts), options: options)
        let observer = SystemObserver(center: center, notifications: names)
        observer.add(tuner)
        center.post(name: names.didEnterBackground, object: nil)
        var paused = false
        for try await event in tuner {
            if case .paused = event {
                paused = true
                center.post(name: names.willEnterForeground, object: nil)
            }
        }
        XCTAssertTrue(paused)
    }

    func testWhatIsGoneIsNotHeld() async throws {
        let observer = SystemObserver(center: center, notifications: names)
        weak var gone: Session?
        do {
            let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2), options: SessionOptions(context: 64))
            observer.add(session)
            gone = session
        }
        XCTAssertNil(gone)
        center.post(name: names.memoryWarning, object: nil)
    }
}
