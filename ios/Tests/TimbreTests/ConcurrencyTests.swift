import XCTest

@testable import Timbre

final class ConcurrencyTests: XCTestCase {
    func testTwoSessionsAtOnceSayWhatEachSaysAlone() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let adapters = [
            try await Adapter(contentsOf: Fixtures.adapter("devil")), try await Adapter(contentsOf: Fixtures.adapter("kjv")),
        ]
        @Sendable func reply(_ adapter: Adapter) async throws -> String {
            let session = try await Session(model: model, adapters: [adapter])
            let options = GenerationOptions(maximumResponseTokens: 40)
            return try await session.respond(to: question, options: options).content
        }
        let alone = [try await reply(adapters[0]), try await reply(adapters[1])]
        XCTAssertNotEqual(alone[0], alone[1])
        for _ in 0..<3 {
            async let first = reply(adapters[0])
            async let second = reply(adapters[1])
            let together = try await [first, second]
            XCTAssertEqual(together, alone)
        }
    }

    func testAHundredSessionsLeaveNoMemoryBehind() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let devil = try await Adapter(contentsOf: Fixtures.adapter("devil"))
        func openAndClose() async throws {
            let session = try await Session(model: model, adapters: [devil], options: SessionOptions(context: 1024))
            _ = try await session.respond(to: question, options: GenerationOptions(maximumResponseTokens: 2))
        }
        // The allocator's own tables and the threads' stacks come first.
        for _ in 0..<50 { try await openAndClose() }
        let before = try XCTUnwrap(Memory.footprintBytes)
        for _ in 0..<100 { try await openAndClose() }
        let after = try XCTUnwrap(Memory.footprintBytes)
        print("100 sessions: \(before) bytes before, \(after) after")
        XCTAssertLessThan(after - before, 4_000_000)
    }

    func testSwiftsPoolIsNeverBlocked() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let replies = (0..<2 * ProcessInfo.processInfo.activeProcessorCount).map { _ in
            Task {
                let session = try await Session(model: model, options: SessionOptions(context: 512))
                return try await session.respond(to: story, options: GenerationOptions(maximumResponseTokens: 40))
            }
        }
        // More replies than the pool has threads: were one of them waited for on it, nothing else would run meanwhile.
        var ticks = 0
        let clock = ContinuousClock()
        var longest = Duration.zero
        let end = clock.now + .seconds(1)
        while clock.now < end {
            let begin = clock.now
            await Task.detached { await Task.yield() }.value
            longest = max(longest, clock.now - begin)
            ticks += 1
        }
        print("the pool meanwhile: \(ticks) tasks, the longest took \(longest)")
        XCTAssertGreaterThan(ticks, 100)
        for reply in replies {
            let response = try await reply.value
            XCTAssertEqual(response.statistics.generatedTokens, 40)
        }
    }

    func testACallCostsLittleOfAToken() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        let response = try await session.respond(to: story, options: GenerationOptions(maximumResponseTokens: 60))
        let token = response.statistics.decodeTime / 59
        // Through the queue and back, and what the engine's side of it takes.
        let clock = ContinuousClock()
        let calls = 2000
        let time = try await clock.measure { for _ in 0..<calls { _ = try await session.contextSize } }
        let call = time / calls
        print("a call there and back: \(call), a token: \(token), its share: \(100 * (call / token)) %")
        XCTAssertLessThan(call / token, 0.25)
    }
}
