import XCTest

final class GuideTests: XCTestCase {
    func testTheGuideIsWhatIsCompiledHere() throws {
        let code = try String(contentsOf: Fixtures.repository.appendingPathComponent("ios/Tests/TimbreTests/Guide.swift"), encoding: .utf8)
        let readme = try String(contentsOf: Fixtures.repository.appendingPathComponent("ios/README.md"), encoding: .utf8)
        XCTAssertTrue(readme.contains("```swift\n\(code)```"), "the guide of ios/README.md differs from Guide.swift")
        XCTAssertLessThanOrEqual(code.split(separator: "\n").count, 30)
    }

    func testTheGuideLearnsAVoiceOnceAndSpeaksWithIt() async throws {
        let voice = try temporaryFolder(for: self).appendingPathComponent("mine.safetensors")
        let messages = (1...6).map { "Message \($0): see you at the harbour, bring bread, the boat leaves at noon sharp." }
        // Where a reply is cut into pieces depends on how fast they are read; what they say together does not.
        var shown = [String]()
        for _ in 0..<2 {
            var text = ""
            try await personalise(
                modelURL: Fixtures.smolLM2, voiceURL: voice, messages: messages, budget: .steps(3)
            ) { text += $0 }
            shown.append(text)
        }
        XCTAssertTrue(FileManager.default.fileExists(atPath: voice.path))
        XCTAssertGreaterThan(shown[0].count, 40)
        XCTAssertEqual(shown[0], shown[1])
    }
}
