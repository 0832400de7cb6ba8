import SwiftUI
import Timbre
import UniformTypeIdentifiers

@main
struct SampleApp: App {
    @State private var pages = Pages()

    var body: some Scene {
        WindowGroup {
            RootView(pages: pages)
                .task { await pages.studio.open() }
        }
    }
}

/// What the pages show, made once.
@MainActor
@Observable
final class Pages {
    let studio: Studio
    let chat: Chat
    let learning: Learning
    let meters = Meters()

    init() {
        let observer = SystemObserver()
        studio = Studio(folder: .documentsDirectory, observer: observer)
        chat = Chat(studio: studio)
        learning = Learning(studio: studio, observer: observer)
    }
}

struct RootView: View {
    let pages: Pages

    var body: some View {
        switch pages.studio.state {
        case .ready:
            TabView {
                ChatView(studio: pages.studio, chat: pages.chat)
                    .tabItem { Label("Chat", systemImage: "bubble.left.and.bubble.right") }
                LearnView(chat: pages.chat, learning: pages.learning)
                    .tabItem { Label("Learn", systemImage: "waveform") }
                MetersView(studio: pages.studio, chat: pages.chat, meters: pages.meters)
                    .tabItem { Label("Meters", systemImage: "gauge") }
            }
        case .opening(let fraction):
            ProgressView("Reading the model", value: fraction).padding()
        case .empty:
            ModelPicker(studio: pages.studio, problem: nil)
        case .failed(let message):
            ModelPicker(studio: pages.studio, problem: message)
        }
    }
}

/// Asks for a model where there is none that runs.
struct ModelPicker: View {
    let studio: Studio
    let problem: String?
    @State private var isPicking = false

    var body: some View {
        ContentUnavailableView {
            Label("No model", systemImage: "shippingbox")
        } description: {
            Text(problem ?? "Pick a GGUF file. The app keeps a copy of it in its documents.")
        } actions: {
            Button("Pick a file") { isPicking = true }.buttonStyle(.borderedProminent)
        }
        .fileImporter(isPresented: $isPicking, allowedContentTypes: [.data]) { picked in
            guard case .success(let url) = picked else { return }
            Task { await studio.take(url) }
        }
    }
}
