import XCTest

@testable import Timbre

final class SessionTests: XCTestCase {
    private let short = GenerationOptions(maximumResponseTokens: 24)

    func testAReplyInPiecesIsTheReplyInWhole() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        let generation = session.streamResponse(to: question, options: short)
        var pieces: [String] = []
        for try await piece in generation { pieces.append(piece) }
        let response = try await generation.collect()
        XCTAssertGreaterThan(pieces.count, 5)
        XCTAssertEqual(pieces.joined(), response.content)
        XCTAssertEqual(response.finish, .length)
        XCTAssertEqual(response.statistics.generatedTokens, 24)
        XCTAssertGreaterThan(response.statistics.timeToFirstToken, .zero)
        XCTAssertGreaterThan(response.statistics.decodeRate, 0)
        XCTAssertNil(response.statistics.gpu)
        XCTAssertGreaterThan(try XCTUnwrap(response.statistics.footprintBytes), 0)

        try await session.clear()
        let again = try await session.respond(to: question, options: short)
        XCTAssertEqual(again.content, response.content)
        let transcript = await session.transcript
        XCTAssertEqual(transcript, [Message(role: .user, content: question), Message(role: .assistant, content: again.content)])
    }

    func testCancellingTheTaskEndsTheReplyWithinAToken() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        let started = Locked(false)
        let task = Task {
            let generation = session.streamResponse(to: story, options: GenerationOptions(maximumResponseTokens: 4000))
            for try await _ in generation { started.with { $0 = true } }
        }
        try await eventually("the first piece") { started.with { $0 } }
        let clock = ContinuousClock()
        let begin = clock.now
        task.cancel()
        let failure = await error { try await task.value }
        XCTAssertTrue(failure is CancellationError, "\(failure)")
        // The session is free as soon as its thread has seen it: a question is answered at once.
        let next = try await session.respond(to: question, options: GenerationOptions(maximumResponseTokens: 1))
        XCTAssertEqual(next.statistics.generatedTokens, 1)
        XCTAssertLessThan(clock.now - begin, .seconds(20))
    }

    func testCancellingRespondThrows() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        let task = Task {
            _ = try await session.respond(to: story, options: GenerationOptions(maximumResponseTokens: 4000))
        }
        try await eventually("responding") { session.isResponding }
        task.cancel()
        let failure = await error { try await task.value }
        XCTAssertTrue(failure is CancellationError, "\(failure)")
        try await eventually("idle") { !session.isResponding }
    }

    func testACancelledReplyIsWhatItHadComeTo() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        let generation = session.streamResponse(to: story, options: GenerationOptions(maximumResponseTokens: 4000))
        var text = ""
        for try await piece in generation {
            text += piece
            if text.count > 40 { generation.cancel() }
        }
        let response = try await generation.collect()
        XCTAssertEqual(response.finish, .cancelled)
        XCTAssertEqual(response.content, text)
        XCTAssertLessThan(response.statistics.generatedTokens, 100)
        let transcript = await session.transcript
        XCTAssertEqual(transcript.last, Message(role: .assistant, content: text))

        let other = session.streamResponse(to: story, options: GenerationOptions(maximumResponseTokens: 4000))
        session.cancel()
        let ended = try await other.collect()
        XCTAssertEqual(ended.finish, .cancelled)
    }

    func testLettingGoOfAReplyEndsIt() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        for try await _ in session.streamResponse(to: story, options: GenerationOptions(maximumResponseTokens: 4000)) { break }
        try await eventually("idle") { !session.isResponding }
        _ = session.streamResponse(to: story, options: GenerationOptions(maximumResponseTokens: 4000))
        try await eventually("idle") { !session.isResponding }
    }

    func testASwapChangesTheVoiceAndBack() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let session = try await Session(model: model)
        let devil = try await Adapter(contentsOf: Fixtures.adapter("devil"))
        try await devil.checkCompatibility(with: model)
        func reply() async throws -> String {
            try await session.clear()
            return try await session.respond(to: question, options: short).content
        }
        let plain = try await reply()
        try await session.setAdapters([devil])
        let changed = try await reply()
        XCTAssertNotEqual(changed, plain)
        try await session.setAdapters([])
        let back = try await reply()
        XCTAssertEqual(back, plain)
        let swap = try await session.setAdapters([devil])
        XCTAssertLessThan(swap, .milliseconds(5))
        let again = try await reply()
        XCTAssertEqual(again, changed)
        try await session.setAdapters(mixing: [devil.weighted(0)])
        let none = try await reply()
        XCTAssertEqual(none, plain)
        let other = try await Session(model: model, adapters: [devil])
        let first = try await other.respond(to: question, options: short)
        XCTAssertEqual(first.content, changed)
    }

    func testTheNextReplyAfterASwapIsReadAnewUnlessItIsKept() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let devil = try await Adapter(contentsOf: Fixtures.adapter("devil"))
        for policy in [SwapPolicy.recompute, .keep] {
            let session = try await Session(model: model)
            _ = try await session.respond(to: question, options: short)
            try await session.setAdapters([devil], policy: policy)
            let next = try await session.respond(to: "And love?", options: short)
            XCTAssertEqual(next.statistics.cachedTokens == 0, policy == .recompute, "\(next.statistics)")
        }
    }

    func testInstructionsAreFollowedByTheConversation() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2), instructions: "Answer briefly.")
        var transcript = await session.transcript
        XCTAssertEqual(transcript, [Message(role: .system, content: "Answer briefly.")])
        _ = try await session.respond(to: question, options: short)
        transcript = await session.transcript
        XCTAssertEqual(transcript.map(\.role), [.system, .user, .assistant])
        let tokens = try await session.tokenCount
        XCTAssertGreaterThan(tokens, 20)
        try await session.clear()
        transcript = await session.transcript
        XCTAssertEqual(transcript.map(\.role), [.system])
        try await session.setTranscript([Message(role: .user, content: "Hi"), Message(role: .assistant, content: "Hello")])
        transcript = await session.transcript
        XCTAssertEqual(transcript.map(\.content), ["Hi", "Hello"])
        let context = try await session.contextSize
        XCTAssertGreaterThan(context, 1000)
    }

    func testAConversationGoesOnAfterItWasSaved() async throws {
        let folder = try temporaryFolder(for: self)
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let session = try await Session(model: model)
        _ = try await session.respond(to: question, options: short)
        let file = folder.appendingPathComponent("conversation")
        try await session.save(to: file)
        let data = try await session.data()
        let expected = try await session.respond(to: "And love?", options: short)

        let fromFile = try await Session(model: model)
        try await fromFile.restore(contentsOf: file)
        let first = try await fromFile.respond(to: "And love?", options: short)
        XCTAssertEqual(first.content, expected.content)
        let fromData = try await Session(model: model)
        try await fromData.restore(from: data)
        let second = try await fromData.respond(to: "And love?", options: short)
        XCTAssertEqual(second.content, expected.content)
    }

    func testMemoryIsGivenBackAndTheReplyStaysTheSame() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2), options: SessionOptions(context: 4096))
        let first = try await session.respond(to: question, options: short)
        let before = try XCTUnwrap(Memory.footprintBytes)
        let trimmed = try await session.trimMemory()
        XCTAssertTrue(trimmed)
        let after = try XCTUnwrap(Memory.footprintBytes)
        XCTAssertLessThan(after, before)
        try await session.clear()
        let again = try await session.respond(to: question, options: short)
        XCTAssertEqual(again.content, first.content)
    }

    func testTheEightBitCacheTakesHalfTheMemory() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let half = try await model.memoryEstimate(for: SessionOptions(context: 2048))
        let eight = try await model.memoryEstimate(for: SessionOptions(context: 2048, cache: .eightBit))
        XCTAssertLessThan(eight.cacheBytes, half.cacheBytes * 6 / 10)
        let unopened = try await Model.memoryEstimate(contentsOf: Fixtures.smolLM2, for: SessionOptions(context: 2048))
        XCTAssertEqual(unopened.cacheBytes, half.cacheBytes)
        XCTAssertTrue(half.fits)
        let session = try await Session(model: model, options: SessionOptions(context: 2048, cache: .eightBit))
        let response = try await session.respond(to: question, options: short)
        XCTAssertEqual(response.statistics.cacheBytes, eight.cacheBytes)
        XCTAssertEqual(response.statistics.generatedTokens, 24)
    }

    func testAModelOnTheCPUGoesOnWhileTheGPUIsSuspended() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let session = try await Session(model: model)
        let before = try await session.respond(to: question, options: short)
        await model.suspendGPU()
        try await session.clear()
        let during = try await session.respond(to: question, options: short)
        XCTAssertEqual(during.content, before.content)
        await model.resumeGPU()
    }

    func testADrawFollowsItsSeed() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        func reply(_ mode: GenerationOptions.SamplingMode, _ temperature: Double) async throws -> String {
            try await session.clear()
            let options = GenerationOptions(sampling: mode, temperature: temperature, maximumResponseTokens: 16)
            return try await session.respond(to: question, options: options).content
        }
        let one = try await reply(.random(top: 50, seed: 1), 1.2)
        let same = try await reply(.random(top: 50, seed: 1), 1.2)
        let two = try await reply(.random(top: 50, seed: 2), 1.2)
        XCTAssertEqual(one, same)
        XCTAssertNotEqual(one, two)
        let greedy = try await reply(.greedy, 1.2)
        let nearly = try await reply(.random(probabilityThreshold: 1e-6, seed: 3), 1)
        XCTAssertEqual(greedy, nearly)
    }

    func testAStopTextEndsTheReply() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        let whole = try await session.respond(to: question, options: short).content
        let stop = try XCTUnwrap(whole.split(separator: " ").dropFirst(4).first.map(String.init))
        try await session.clear()
        let options = GenerationOptions(maximumResponseTokens: 24, stop: [stop])
        let cut = try await session.respond(to: question, options: options)
        XCTAssertEqual(cut.finish, .stopText)
        XCTAssertTrue(whole.hasPrefix(cut.content))
        XCTAssertFalse(cut.content.contains(stop))
    }

    func testATextIsContinuedBesideTheConversation() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.gemma3))
        let generation = session.streamCompletion(of: "The capital of France is", options: short)
        let response = try await generation.collect()
        XCTAssertTrue(response.content.contains("France"), response.content)
        let transcript = await session.transcript
        XCTAssertEqual(transcript, [])
    }
}
