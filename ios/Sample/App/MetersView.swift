import Charts
import SwiftUI
import Timbre

/// What the app holds and how fast it is, live.
struct MetersView: View {
    let studio: Studio
    let chat: Chat
    let meters: Meters

    var body: some View {
        NavigationStack {
            List {
                Section("Memory counted against the app") {
                    if let last = meters.samples.last {
                        Text(Meters.megabytes(last.footprintBytes)).font(.largeTitle.monospacedDigit())
                    }
                    Chart(meters.samples) { sample in
                        AreaMark(x: .value("Look", sample.id), y: .value("MB", Double(sample.footprintBytes) / 1e6))
                            .foregroundStyle(.tint.opacity(0.4))
                    }
                    .chartXAxis(.hidden)
                    .frame(height: 140)
                    if let available = meters.availableBytes {
                        LabeledContent("Still to be had", value: Meters.megabytes(available))
                    }
                    if let info = studio.info {
                        LabeledContent("The model's file, mapped and not counted", value: Meters.megabytes(info.fileBytes))
                    }
                }
                Section("Last reply") {
                    ForEach(Meters.rows(of: chat.statistics, swap: studio.lastSwap), id: \.name) { row in
                        LabeledContent(row.name, value: row.value)
                    }
                }
                if let info = studio.info {
                    Section("Engine") {
                        LabeledContent("Kernels", value: info.kernels)
                        LabeledContent("Threads", value: "\(info.threads)")
                        LabeledContent("Version", value: engineVersion)
                    }
                }
            }
            .navigationTitle("Meters")
            .navigationBarTitleDisplayMode(.inline)
            .task { await meters.run() }
        }
    }
}
