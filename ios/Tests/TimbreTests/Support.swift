import Foundation
import XCTest

@testable import Timbre

/// What the tests run on.
enum Fixtures {
    static let repository = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    static func model(_ name: String) throws -> URL {
        let environment = ProcessInfo.processInfo.environment["TIMBRE_TEST_MODELS"]
        let models = environment.map { URL(fileURLWithPath: $0) } ?? repository.appendingPathComponent("target/models")
        let url = models.appendingPathComponent(name)
        guard FileManager.default.fileExists(atPath: url.path) else {
            throw Missing(what: "\(url.path): run `just models` first")
        }
        return url
    }

    static var smolLM2: URL { get throws { try model("SmolLM2-135M-Instruct.Q4_1.gguf") } }
    static var gemma3: URL { get throws { try model("gemma-3-270m-Q4_K_M.gguf") } }

    static func adapter(_ name: String) -> URL {
        repository.appendingPathComponent("assets/adapters/\(name)")
    }

    static let texts = repository.appendingPathComponent("assets/texts/devil-short.jsonl")

    /// Where tests keep what is found out about GPUs, which outlives them.
    static let gpuCache = repository.appendingPathComponent("target/gpu-cache/swift")

    struct Missing: Error {
        let what: String
    }
}

/// A folder of its own, removed with the test.
func temporaryFolder(for test: XCTestCase) throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("timbre-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    test.addTeardownBlock { try? FileManager.default.removeItem(at: folder) }
    return folder
}

/// Runs `body`, which must fail, and returns its error.
func error(of body: () async throws -> Void, file: StaticString = #filePath, line: UInt = #line) async -> any Error {
    do {
        try await body()
    } catch {
        return error
    }
    XCTFail("no error", file: file, line: line)
    return Fixtures.Missing(what: "error")
}

/// Asks again and again until it is so, for a minute at most.
func eventually(
    _ what: String, file: StaticString = #filePath, line: UInt = #line, _ isSo: () async throws -> Bool
) async throws {
    for _ in 0..<6000 {
        if try await isSo() { return }
        try await Task.sleep(for: .milliseconds(10))
    }
    XCTFail("never: \(what)", file: file, line: line)
}

let question = "Define money."
/// Long enough not to end by itself while a test looks.
let story = "Write a very long story about a lighthouse and the sea, with many chapters."
