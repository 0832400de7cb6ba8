import SwiftUI
import Timbre

/// A conversation; the voice is picked above it and changes between two replies.
struct ChatView: View {
    let studio: Studio
    @Bindable var chat: Chat

    var body: some View {
        NavigationStack {
            VStack(spacing: 0) {
                VoicePicker(studio: studio, chat: chat)
                Divider()
                bubbles
                if let problem = chat.problem {
                    Text(problem).font(.footnote).foregroundStyle(.red).padding(.horizontal)
                }
                composer
            }
            .navigationTitle(studio.info?.name ?? "Timbre")
            .navigationBarTitleDisplayMode(.inline)
            .toolbar {
                Button("New", systemImage: "square.and.pencil") { Task { await chat.clear() } }
            }
        }
    }

    private var bubbles: some View {
        ScrollViewReader { scroller in
            ScrollView {
                LazyVStack(spacing: 8) {
                    ForEach(chat.bubbles) { bubble in
                        BubbleView(bubble: bubble).id(bubble.id)
                    }
                }
                .padding()
            }
            .onChange(of: chat.bubbles.last?.text) {
                if let last = chat.bubbles.last { scroller.scrollTo(last.id, anchor: .bottom) }
            }
        }
    }

    private var composer: some View {
        HStack(alignment: .bottom) {
            TextField("Message", text: $chat.draft, axis: .vertical)
                .textFieldStyle(.roundedBorder)
                .lineLimit(1...5)
                .onSubmit { chat.send() }
            if chat.isResponding {
                Button("Stop", systemImage: "stop.circle.fill") { chat.stop() }
            } else {
                Button("Send", systemImage: "arrow.up.circle.fill") { chat.send() }
                    .disabled(chat.draft.isEmpty)
            }
        }
        .labelStyle(.iconOnly)
        .font(.title2)
        .padding()
    }
}

/// The voices there are, and how long the last change took.
struct VoicePicker: View {
    let studio: Studio
    let chat: Chat

    var body: some View {
        HStack {
            ScrollView(.horizontal, showsIndicators: false) {
                HStack {
                    ForEach(studio.voices) { voice in
                        Button(voice.name) { Task { await chat.speak(as: voice) } }
                            .buttonStyle(.bordered)
                            .tint(voice == studio.voice ? .accentColor : .secondary)
                    }
                }
            }
            if let swap = studio.lastSwap {
                Text("\(Int(swap / .microseconds(1))) µs").font(.caption.monospacedDigit()).foregroundStyle(.secondary)
            }
        }
        .padding(.horizontal)
        .padding(.vertical, 8)
        .disabled(chat.isResponding)
    }
}

/// One message.
struct BubbleView: View {
    let bubble: Chat.Bubble

    var body: some View {
        VStack(alignment: bubble.isMine ? .trailing : .leading, spacing: 2) {
            Text(bubble.text.isEmpty ? "…" : bubble.text)
                .padding(10)
                .background(bubble.isMine ? Color.accentColor.opacity(0.2) : Color.secondary.opacity(0.12))
                .clipShape(.rect(cornerRadius: 14))
                .textSelection(.enabled)
            if !bubble.isMine {
                Text(bubble.voice).font(.caption2).foregroundStyle(.secondary)
            }
        }
        .frame(maxWidth: .infinity, alignment: bubble.isMine ? .trailing : .leading)
    }
}
