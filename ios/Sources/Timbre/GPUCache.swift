import Foundation
internal import TimbreNative

/// What was found out about GPUs, kept from one launch of the app to the next.
///
/// Which kernels compute right on a GPU, and what its driver compiles, is kept in a folder. Without one every launch tries and compiles
/// each kernel anew. An app that runs models on the GPU names it once, before it opens one:
///
/// ```swift
/// try await GPUCache.keep()
/// let model = try await Model(contentsOf: url, options: ModelOptions(backend: .gpu))
/// ```
public enum GPUCache {
    /// A folder of the app's own among its caches, which the system may empty and does not back up.
    public static var defaultFolder: URL {
        let caches = FileManager.default.urls(for: .cachesDirectory, in: .userDomainMask).first
        // On a Mac the folder of caches may be one for all apps.
        let app = Bundle.main.bundleIdentifier ?? ProcessInfo.processInfo.processName
        return (caches ?? FileManager.default.temporaryDirectory)
            .appendingPathComponent(app, isDirectory: true).appendingPathComponent("timbre", isDirectory: true)
    }

    /// Keeps in a folder what is found out about GPUs.
    ///
    /// Holds for models that come to a GPU from then on; a model that is on a GPU goes on as it did. Of several calls the last counts, and
    /// one that fails changes nothing.
    ///
    /// - Parameter folder: It is made where there is none, and what the system removes from it is found out again. No other app may be
    ///   able to write there, for what was compiled goes back to the driver.
    /// - Throws: ``TimbreError/io(path:reason:)`` if the folder cannot be made or written to.
    public static func keep(in folder: URL = GPUCache.defaultFolder) async throws {
        let path = folder.path
        try await OffPool.shared.run { try TimbreNative.keepGpuCache(folder: path) }
    }
}
