import TimbreNative
import XCTest

@testable import Timbre

final class ErrorTests: XCTestCase {
    private func timbre(_ error: any Error) throws -> Timbre.TimbreError {
        try XCTUnwrap(error as? Timbre.TimbreError, "\(error)")
    }

    func testAMissingFileIsIo() async throws {
        let missing = URL(fileURLWithPath: "/nowhere/model.gguf")
        for failure in [
            await error(of: { _ = try await Model(contentsOf: missing) }),
            await error(of: { _ = try await Model.memoryEstimate(contentsOf: missing) }),
            await error(of: { _ = try await Adapter(contentsOf: missing) }),
        ] {
            guard case .io(let path, let reason) = try timbre(failure) else { return XCTFail("\(failure)") }
            XCTAssertTrue(path.hasPrefix("/nowhere"), path)
            XCTAssertFalse(reason.isEmpty)
            XCTAssertTrue(failure.localizedDescription.contains("/nowhere"))
        }
    }

    func testDamagedFilesAreNamedWithTheirPlace() async throws {
        let folder = try temporaryFolder(for: self)
        let file = folder.appendingPathComponent("cut.gguf")
        let whole = try FileHandle(forReadingFrom: Fixtures.smolLM2)
        try XCTUnwrap(whole.read(upToCount: 4096)).write(to: file)
        guard case .corruptFile(let path, let offset, _) = try timbre(await error(of: { _ = try await Model(contentsOf: file) }))
        else { return XCTFail("not corrupt") }
        XCTAssertEqual(path, file.path)
        XCTAssertNotNil(offset)

        let garbage = await error(of: { _ = try await Adapter(data: Data([1, 2, 3]), name: "garbage") })
        guard case .corruptFile("garbage", _, _) = try timbre(garbage) else { return XCTFail("\(garbage)") }
        let config = await error(of: { _ = try await Adapter(configuration: Data("{".utf8), weights: Data(), name: "half") })
        guard case .corruptFile = try timbre(config) else { return XCTFail("\(config)") }

        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        let data = await error(of: { try await session.restore(from: Data("no conversation".utf8)) })
        guard case .corruptFile = try timbre(data) else { return XCTFail("\(data)") }
    }

    func testAKindOfModelThatIsNotRun() async throws {
        // A whole file of another architecture: header, one pair, no tensors.
        var bytes = Data("GGUF".utf8)
        func append(_ number: some FixedWidthInteger) { withUnsafeBytes(of: number.littleEndian) { bytes.append(contentsOf: $0) } }
        func append(_ text: String) {
            append(UInt64(text.utf8.count))
            bytes.append(contentsOf: text.utf8)
        }
        append(UInt32(3))
        append(UInt64(0))
        append(UInt64(1))
        append("general.architecture")
        append(UInt32(8))
        append("perceptron")
        let file = try temporaryFolder(for: self).appendingPathComponent("other.gguf")
        try bytes.write(to: file)
        let failure = await error(of: { _ = try await Model(contentsOf: file) })
        guard case .unsupportedModel(let what) = try timbre(failure) else { return XCTFail("\(failure)") }
        XCTAssertTrue(what.contains("perceptron"), what)
    }

    func testAnAdapterOfAnotherModelIsRefusedWhole() async throws {
        let gemma = try await Model(contentsOf: Fixtures.gemma3)
        let devil = try await Adapter(contentsOf: Fixtures.adapter("devil"))
        let session = try await Session(model: gemma, options: SessionOptions(context: 256))
        for failure in [
            await error(of: { try await devil.checkCompatibility(with: gemma) }),
            await error(of: { try await session.setAdapters([devil]) }),
            await error(of: { _ = try await Session(model: gemma, adapters: [devil]) }),
        ] {
            guard case .incompatibleAdapter(let what, let expected, let found) = try timbre(failure) else {
                return XCTFail("\(failure)")
            }
            XCTAssertFalse(what.isEmpty || expected.isEmpty || found.isEmpty, failure.localizedDescription)
        }
        let continued = session.streamCompletion(of: question, options: GenerationOptions(maximumResponseTokens: 4))
        let response = try await continued.collect()
        XCTAssertEqual(response.statistics.generatedTokens, 4)

        // That file has no chat template either.
        let chat = await error(of: { _ = try await session.respond(to: question) })
        guard case .unsupportedModel = try timbre(chat) else { return XCTFail("\(chat)") }
        let instructed = await error(of: { _ = try await Session(model: gemma, instructions: "Answer briefly.") })
        guard case .unsupportedModel = try timbre(instructed) else { return XCTFail("\(instructed)") }
    }

    func testASessionLargerThanMemory() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let estimate = try await model.memoryEstimate(for: SessionOptions(context: 1000))
        guard let available = estimate.availableBytes else { throw XCTSkip("the system does not say what it could give") }
        // A context whose keys and values take twice what the system has.
        let context = 2000 * (available / estimate.cacheBytes + 1)
        let failure = await error(of: { _ = try await Session(model: model, options: SessionOptions(context: context)) })
        switch try timbre(failure) {
        case .outOfMemory(let needed, let available): XCTAssertGreaterThan(needed, available)
        case .invalidArgument: break  // A machine with room for more than the longest context there may be.
        default: XCTFail("\(failure)")
        }
    }

    func testAFineTuneLargerThanItsLimit() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let options = TuningOptions(budget: .steps(1), memoryLimit: 1000)
        let tuner = await error(of: { _ = try await Tuner(model: model, data: .file(Fixtures.texts), options: options) })
        guard case .outOfMemory(let needed, 1000) = try timbre(tuner) else { return XCTFail("\(tuner)") }
        XCTAssertGreaterThan(needed, 1000)
    }

    func testAPromptLongerThanTheContext() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2), options: SessionOptions(context: 16))
        let failure = await error(of: { _ = try await session.respond(to: story + story + story) })
        guard case .contextFull(16, let used, let added) = try timbre(failure) else { return XCTFail("\(failure)") }
        XCTAssertGreaterThan(used + added, 16)
        let transcript = await session.transcript
        XCTAssertEqual(transcript, [], "a failed reply leaves the history as it was")
        // The same through the stream.
        let streamed = await error(of: { for try await _ in session.streamResponse(to: story + story + story) {} })
        guard case .contextFull = try timbre(streamed) else { return XCTFail("\(streamed)") }
    }

    func testABusySession() async throws {
        let session = try await Session(model: Model(contentsOf: Fixtures.smolLM2))
        let generation = session.streamResponse(to: story, options: GenerationOptions(maximumResponseTokens: 4000))
        for failure in [
            await error(of: { try await session.setAdapters([]) }),
            await error(of: { _ = try await session.respond(to: question) }),
            await error(of: { try await session.clear() }),
            await error(of: { _ = try await session.data() }),
        ] {
            guard case .busy = try timbre(failure) else { return XCTFail("\(failure)") }
        }
        let trimmed = try await session.trimMemory()
        XCTAssertFalse(trimmed)
        generation.cancel()
        // A cancelled reply is waited for.
        try await session.clear()
    }

    func testArgumentsOutOfRange() async throws {
        let model = try await Model(contentsOf: Fixtures.smolLM2)
        let session = try await Session(model: model)
        let devil = try await Adapter(contentsOf: Fixtures.adapter("devil"))
        let folder = try temporaryFolder(for: self)
        let data = TuningData.file(Fixtures.texts)
        let calls: [(String, () async throws -> Void)] = [
            ("threads", { _ = try await Model(contentsOf: Fixtures.smolLM2, options: ModelOptions(threads: 0)) }),
            ("threads", { _ = try await Model(contentsOf: Fixtures.smolLM2, options: ModelOptions(threads: 1_000_000)) }),
            ("context", { _ = try await Session(model: model, options: SessionOptions(context: 0)) }),
            ("context", { _ = try await Session(model: model, options: SessionOptions(context: -1)) }),
            ("temperature", { _ = try await session.respond(to: question, options: .init(temperature: -1)) }),
            ("maximumResponseTokens", { _ = try await session.respond(to: question, options: .init(maximumResponseTokens: -1)) }),
            ("weight", { try await session.setAdapters(mixing: [devil.weighted(.nan)]) }),
            ("path", { try await devil.save(to: folder.appendingPathComponent("directory"), precision: .half) }),
            ("no parts", { _ = try await Adapter.mix([], name: "none") }),
            ("steps", { _ = try await Tuner(model: model, data: data, options: TuningOptions(budget: .steps(0))) }),
            ("n", { _ = try await Tuner(model: model, data: data, options: TuningOptions(method: .fourier(n: 0))) }),
            ("targets", { _ = try await Tuner(model: model, data: data, options: TuningOptions(targets: ["nothing"])) }),
            ("layers", { _ = try await Tuner(model: model, data: data, options: TuningOptions(layers: "x")) }),
            ("no texts", { _ = try await Tuner(model: model, data: .texts([])) }),
        ]
        for (what, call) in calls {
            print("argument: \(what)")
            let failure = await error(of: call)
            guard case .invalidArgument = try timbre(failure) else {
                XCTFail("\(what): \(failure)")
                continue
            }
        }
    }

    func testAGpuThatIsNotThere() async throws {
        let options = ModelOptions(backend: .gpu)
        try? FileManager.default.removeItem(at: Fixtures.gpuCache)
        try await GPUCache.keep(in: Fixtures.gpuCache)
        do {
            let model = try await Model(contentsOf: Fixtures.smolLM2, options: options)
            // A build with the GPU, on a machine with one.
            XCTAssertFalse(model.info.kernels.isEmpty)
            let verdicts = Fixtures.gpuCache.appendingPathComponent("gpu-verdicts.json")
            XCTAssertTrue(FileManager.default.fileExists(atPath: verdicts.path), "what was found out is kept")
        } catch {
            guard case .gpuUnavailable(let reason) = try timbre(error) else { return XCTFail("\(error)") }
            XCTAssertFalse(reason.isEmpty)
        }
        let automatic = try await Model(contentsOf: Fixtures.smolLM2, options: ModelOptions(backend: .automatic))
        XCTAssertEqual(automatic.info.architecture, "llama")
        XCTAssertEqual(automatic.info.activations, .int15)
        let coarse = try await Model(contentsOf: Fixtures.smolLM2, options: ModelOptions(activations: .int8))
        XCTAssertEqual(coarse.info.activations, .int8)
    }

    func testAFolderForWhatIsFoundOutAboutGpus() async throws {
        try? FileManager.default.removeItem(at: Fixtures.gpuCache)
        try await GPUCache.keep(in: Fixtures.gpuCache)
        try await GPUCache.keep(in: Fixtures.gpuCache)
        XCTAssertTrue(FileManager.default.fileExists(atPath: Fixtures.gpuCache.path))
        let file = try temporaryFolder(for: self).appendingPathComponent("file")
        try Data("no folder".utf8).write(to: file)
        for bad in [file, file.appendingPathComponent("below")] {
            let failure = await error(of: { try await GPUCache.keep(in: bad) })
            guard case .io(bad.path, let reason) = try timbre(failure) else { return XCTFail("\(failure)") }
            XCTAssertFalse(reason.isEmpty)
        }
        XCTAssertEqual(try Data(contentsOf: file), Data("no folder".utf8))
        XCTAssertEqual(GPUCache.defaultFolder.lastPathComponent, "timbre")
        XCTAssertTrue(GPUCache.defaultFolder.isFileURL)
    }

    func testCancellingTheOpening() async throws {
        let url = try Fixtures.smolLM2
        let task = Task {
            while !Task.isCancelled { await Task.yield() }
            _ = try await Model(contentsOf: url, options: ModelOptions(warmUp: true))
        }
        task.cancel()
        let failure = await error { try await task.value }
        XCTAssertTrue(failure is CancellationError, "\(failure)")

        let fractions = Locked([Double]())
        _ = try await Model(contentsOf: url, options: ModelOptions(warmUp: true)) { fraction in
            fractions.with { $0.append(fraction) }
        }
        let seen = fractions.with { $0 }
        XCTAssertEqual(seen, seen.sorted())
        XCTAssertEqual(seen.last, 1)
    }

    func testEveryErrorOfTheEngineIsTranslated() {
        let pairs: [(TimbreNative.TimbreError, Timbre.TimbreError)] = [
            (
                .IncompatibleAdapter(what: "a", expected: "b", found: "c"),
                .incompatibleAdapter(what: "a", expected: "b", found: "c")
            ),
            (.CorruptFile(path: "p", offset: 7, reason: "r"), .corruptFile(path: "p", offset: 7, reason: "r")),
            (.UnsupportedModel(what: "w"), .unsupportedModel(what: "w")),
            (.OutOfMemory(needed: .max, available: 1), .outOfMemory(needed: .max, available: 1)),
            (.GpuUnavailable(reason: "r"), .gpuUnavailable(reason: "r")),
            (.ContextFull(capacity: 1, used: 2, added: 3), .contextFull(capacity: 1, used: 2, added: 3)),
            (.Busy(what: "w"), .busy(what: "w")),
            (
                .InvalidArgument(what: "a", expected: "b", found: "c"),
                .invalidArgument(what: "a", expected: "b", found: "c")
            ),
            (.Io(path: "p", reason: "r"), .io(path: "p", reason: "r")),
            (.Internal(reason: "r"), .internal(reason: "r")),
        ]
        for (native, expected) in pairs {
            XCTAssertEqual(translated(native) as? Timbre.TimbreError, expected)
            XCTAssertFalse(expected.description.isEmpty)
        }
        XCTAssertTrue(translated(TimbreNative.TimbreError.Cancelled) is CancellationError)
    }
}
