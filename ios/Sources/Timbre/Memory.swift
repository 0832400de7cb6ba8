import Foundation
internal import TimbreNative

#if canImport(Darwin)
    import Darwin
#endif
#if os(iOS) || os(tvOS) || os(watchOS) || os(visionOS)
    import os
#endif

/// What the app holds in memory.
public enum Memory {
    /// Bytes the system counts against the app: what its killer looks at, `phys_footprint` on Apple's systems, anonymous memory on
    /// Linux. A mapped model is not in it. `nil` where the system does not say.
    public static var footprintBytes: Int? {
        #if canImport(Darwin)
            var info = task_vm_info_data_t()
            let words = MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size
            var count = mach_msg_type_number_t(words)
            let status = withUnsafeMutablePointer(to: &info) { pointer in
                pointer.withMemoryRebound(to: integer_t.self, capacity: words) {
                    task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
                }
            }
            return status == KERN_SUCCESS ? Int(clamping: info.phys_footprint) : nil
        #else
            return TimbreNative.memoryUsage().map { Int(clamping: $0.anonBytes) }
        #endif
    }

    /// Bytes the system would give the app now before it ends it; `nil` where it does not say.
    public static var availableBytes: Int? {
        #if os(iOS) || os(tvOS) || os(watchOS) || os(visionOS)
            // 0 on the simulator, which has no limit.
            let bytes = os_proc_available_memory()
            return bytes == 0 ? nil : Int(bytes)
        #elseif canImport(Darwin)
            return nil
        #else
            return TimbreNative.memoryUsage().map { Int(clamping: $0.availableBytes) }
        #endif
    }
}

/// The version of the engine.
public var engineVersion: String { TimbreNative.version() }
