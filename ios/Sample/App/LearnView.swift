import Charts
import SwiftUI
import Timbre

/// Learning the user's voice from the chat's messages and from notes.
struct LearnView: View {
    let chat: Chat
    @Bindable var learning: Learning
    @State private var name = "me"
    @State private var seconds = 60.0

    var body: some View {
        NavigationStack {
            Form {
                Section("From") {
                    LabeledContent("Messages in the chat", value: "\(chat.mine.count)")
                    TextEditor(text: $learning.notes).frame(minHeight: 120)
                        .overlay(alignment: .topLeading) {
                            if learning.notes.isEmpty {
                                Text("Paste what you have written, a paragraph each.").foregroundStyle(.tertiary).padding(8)
                                    .allowsHitTesting(false)
                            }
                        }
                }
                Section("Voice") {
                    TextField("Name", text: $name).autocorrectionDisabled()
                    Slider(value: $seconds, in: 15...300, step: 15) { Text("Seconds") }
                    Text("\(Int(seconds)) seconds, on this device. Nothing leaves it.").font(.footnote)
                }
                .disabled(learning.isRunning)
                Section {
                    controls
                    status
                }
                if learning.losses.count > 1 {
                    Section("Loss") {
                        Chart(Array(learning.losses.enumerated()), id: \.offset) { step, loss in
                            LineMark(x: .value("Step", step + 1), y: .value("Loss", loss))
                        }
                        .chartYScale(domain: .automatic(includesZero: false))
                        .frame(height: 140)
                    }
                }
            }
            .navigationTitle("Learn from my messages")
            .navigationBarTitleDisplayMode(.inline)
        }
    }

    @ViewBuilder
    private var controls: some View {
        if learning.isRunning {
            ProgressView(value: learning.progress)
            HStack {
                if learning.phase == .paused {
                    Button("Go on") { learning.resume() }
                } else {
                    Button("Pause") { learning.pause() }
                }
                Spacer()
                Button("Cancel", role: .destructive) { learning.cancel() }
            }
            .buttonStyle(.borderless)
        } else {
            Button("Learn") {
                learning.start(messages: chat.mine, name: name, options: TuningOptions(budget: .seconds(seconds)))
            }
            .disabled(name.isEmpty)
        }
    }

    @ViewBuilder
    private var status: some View {
        switch learning.phase {
        case .idle: EmptyView()
        case .preparing: Text("Preparing")
        case .learning:
            if let remaining = learning.remaining {
                Text("\(Int(remaining / .seconds(1))) seconds to go").monospacedDigit()
            }
        case .paused: Text("Paused")
        case .stopped: Text("Stopped; nothing was kept.")
        case .done(let before?, let after?):
            Text("Learnt: the loss of held-out texts fell from \(rounded(before)) to \(rounded(after)). The chat speaks with it.")
        case .done: Text("Learnt. The chat speaks with it.")
        case .failed(let message): Text(message).foregroundStyle(.red)
        }
    }

    private func rounded(_ loss: Double) -> String {
        loss.formatted(.number.precision(.fractionLength(2)))
    }
}
