import Foundation
import Observation
import Timbre

/// The third page: what the app holds and how fast it is, live.
@available(iOS 17, macOS 14, *)
@MainActor
@Observable
final class Meters {
    /// One look.
    struct Sample: Identifiable, Sendable {
        let id: Int
        let footprintBytes: Int
    }

    /// The last two minutes.
    private(set) var samples: [Sample] = []
    private(set) var availableBytes: Int?

    private static let most = 240
    private var count = 0

    /// Looks twice a second until its task is cancelled.
    func run(every interval: Duration = .milliseconds(500)) async {
        while !Task.isCancelled {
            look()
            try? await Task.sleep(for: interval)
        }
    }

    func look() {
        guard let bytes = Memory.footprintBytes else { return }
        count += 1
        samples.append(Sample(id: count, footprintBytes: bytes))
        samples.removeFirst(max(0, samples.count - Self.most))
        availableBytes = Memory.availableBytes
    }

    /// What a reply cost, a name and a number each.
    static func rows(of statistics: Statistics?, swap: Duration?) -> [(name: String, value: String)] {
        var rows: [(String, String)] = []
        if let statistics {
            rows.append(("First token", milliseconds(statistics.timeToFirstToken)))
            rows.append(("Prompt", "\(statistics.promptTokens) tokens, \(statistics.cachedTokens) of them cached"))
            rows.append(("Reading", "\(Int(statistics.prefillRate)) tokens a second"))
            rows.append(("Writing", "\(Int(statistics.decodeRate)) tokens a second"))
            rows.append(("Keys and values", megabytes(statistics.cacheBytes)))
        }
        if let swap { rows.append(("Change of voice", "\(Int(swap / .microseconds(1))) µs")) }
        return rows
    }

    static func megabytes(_ bytes: Int) -> String {
        let tenths = Int((Double(bytes) / 1e5).rounded())
        return "\(tenths / 10).\(tenths % 10) MB"
    }

    private static func milliseconds(_ duration: Duration) -> String {
        "\(Int((duration / .milliseconds(1)).rounded())) ms"
    }
}
