import XCTest

@testable import Timbre

final class AdapterTests: XCTestCase {
    func testAnAdapterSaysWhatItIs() async throws {
        let devil = try await Adapter(contentsOf: Fixtures.adapter("devil"))
        XCTAssertEqual(devil.name, "devil")
        XCTAssertEqual(devil.info.kind, .fourier)
        XCTAssertEqual(devil.info.n, 1000)
        XCTAssertNil(devil.info.rank)
        XCTAssertEqual(devil.info.parameters, 60_000)
        XCTAssertEqual(devil.info.modules.count, 60)
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        XCTAssertEqual(model.info.architecture, "llama")
        XCTAssertEqual(model.info.layers, 30)
        XCTAssertTrue(model.info.supportsChat)
        let tokens = try await model.tokenCount(of: "Hello, world")
        XCTAssertEqual(tokens, 3)
        XCTAssertFalse(engineVersion.isEmpty)
    }

    func testAnAdapterIsTheSameFromEveryForm() async throws {
        let folder = try temporaryFolder(for: self)
        let source = Fixtures.adapter("devil")
        let devil = try await Adapter(contentsOf: source)
        let directory = folder.appendingPathComponent("directory")
        let file = folder.appendingPathComponent("file.safetensors")
        try await devil.save(to: directory)
        try await devil.save(to: file)
        let forms = [
            try await Adapter(contentsOf: directory),
            try await Adapter(contentsOf: file),
            try await Adapter(data: try await devil.data(), name: "data"),
            try await Adapter(
                configuration: Data(contentsOf: source.appendingPathComponent("adapter_config.json")),
                weights: Data(contentsOf: source.appendingPathComponent("adapter_model.safetensors")), name: "bytes"),
        ]
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2), adapters: [devil])
        let options = GenerationOptions(maximumResponseTokens: 16)
        let expected = try await session.respond(to: question, options: options)
        for form in forms {
            try await session.clear()
            try await session.setAdapters([form])
            let reply = try await session.respond(to: question, options: options)
            XCTAssertEqual(reply.content, expected.content, form.name)
        }
        let half = try await devil.data(precision: .half)
        let single = try await devil.data()
        XCTAssertLessThan(half.count, single.count)
    }

    func testAMixtureIsTheSumOfItsParts() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let devil = try await Adapter(contentsOf: Fixtures.adapter("devil"))
        let kjv = try await Adapter(contentsOf: Fixtures.adapter("kjv"))
        let mixed = try await Adapter.mix([devil.weighted(0.6), kjv.weighted(0.4)], name: "both", model: model)
        XCTAssertEqual(mixed.name, "both")
        let session = try await Session(model: model, adapters: [mixed])
        let options = GenerationOptions(maximumResponseTokens: 12)
        let one = try await session.respond(to: question, options: options)
        try await session.clear()
        try await session.setAdapters(mixing: [devil.weighted(0.6), kjv.weighted(0.4)])
        let two = try await session.respond(to: question, options: options)
        XCTAssertEqual(one.content, two.content)
    }
}
