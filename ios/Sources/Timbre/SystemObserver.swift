import Foundation

#if canImport(UIKit) && !os(watchOS)
    import UIKit
#endif

/// Listens to what the system asks of an app and lets sessions and tuners comply, as long as it lives.
///
/// On a memory warning, idle sessions give all they can back: the next reply reads its history anew. When the app goes into the
/// background, nothing is submitted to the GPU any more, for which an app there is ended; replies are cancelled, buffers are given back and
/// tuners pause. In the foreground the GPU is used again and tuners go on. Sessions and tuners are held weakly.
///
/// ```swift
/// let observer = SystemObserver()
/// observer.add(session)
/// ```
public final class SystemObserver: Sendable {
    /// What the notifications of the system are called.
    public struct Notifications: Sendable {
        /// Memory is short.
        public var memoryWarning: Notification.Name
        /// The app left the screen.
        public var didEnterBackground: Notification.Name
        /// The app comes back to it.
        public var willEnterForeground: Notification.Name

        /// Names, for a system that has its own.
        public init(
            memoryWarning: Notification.Name,
            didEnterBackground: Notification.Name,
            willEnterForeground: Notification.Name
        ) {
            self.memoryWarning = memoryWarning
            self.didEnterBackground = didEnterBackground
            self.willEnterForeground = willEnterForeground
        }

        #if canImport(UIKit) && !os(watchOS)
            /// UIKit's.
            @MainActor public static var uiKit: Notifications {
                Notifications(
                    memoryWarning: UIApplication.didReceiveMemoryWarningNotification,
                    didEnterBackground: UIApplication.didEnterBackgroundNotification,
                    willEnterForeground: UIApplication.willEnterForegroundNotification)
            }
        #endif
    }

    private struct Watched {
        var sessions: [Weak<Session>] = []
        var tuners: [Weak<Tuner>] = []
    }

    private struct Weak<Object: AnyObject & Sendable>: Sendable {
        weak var object: Object?
    }

    private let watched = Locked(Watched())
    private let center: NotificationCenter
    private let tokens: Locked<[any NSObjectProtocol]>

    #if canImport(UIKit) && !os(watchOS)
        /// Listens to UIKit.
        ///
        /// - Parameter cancelsInBackground: Whether replies end when the app goes into the background. Else they go on there, on the
        ///   CPU, for as long as the system lets them.
        @MainActor public convenience init(cancelsInBackground: Bool = true) {
            self.init(center: .default, notifications: .uiKit, cancelsInBackground: cancelsInBackground)
        }
    #endif

    /// Listens to notifications by these names.
    public init(center: NotificationCenter, notifications: Notifications, cancelsInBackground: Bool = true) {
        self.center = center
        let watched = watched
        let observe = { (name: Notification.Name, react: @escaping @Sendable (Watched) -> Void) -> any NSObjectProtocol in
            center.addObserver(forName: name, object: nil, queue: nil) { _ in react(watched.with { $0 }) }
        }
        tokens = Locked([
            observe(notifications.memoryWarning) { watched in
                watched.sessions.forEach { $0.object?.trim(.all) }
            },
            observe(notifications.didEnterBackground) { watched in
                for session in watched.sessions {
                    if cancelsInBackground { session.object?.cancel() }
                    session.object?.model.setGPU(suspended: true)
                    session.object?.trim(.buffers)
                }
                watched.tuners.forEach { $0.object?.pause() }
            },
            observe(notifications.willEnterForeground) { watched in
                watched.sessions.forEach { $0.object?.model.setGPU(suspended: false) }
                watched.tuners.forEach { $0.object?.resume() }
            },
        ])
    }

    deinit {
        tokens.with { tokens in tokens.forEach(center.removeObserver) }
    }

    /// Lets a session comply from now on.
    public func add(_ session: Session) {
        watched.with { watched in
            watched.sessions.removeAll { $0.object == nil }
            watched.sessions.append(Weak(object: session))
        }
    }

    /// Lets a tuner comply from now on.
    public func add(_ tuner: Tuner) {
        watched.with { watched in
            watched.tuners.removeAll { $0.object == nil }
            watched.tuners.append(Weak(object: tuner))
        }
    }
}

extension Session {
    /// Gives memory back as soon as the session is asked, which nobody waits for. A reply that is running keeps it.
    fileprivate func trim(_ level: TrimLevel) {
        Task { try await trimMemory(level) }
    }
}
