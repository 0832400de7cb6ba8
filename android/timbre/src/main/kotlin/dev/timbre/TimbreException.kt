package dev.timbre

/**
 * Why a call failed. The cases are few and stay; everything Timbre throws beside them is a
 * [kotlinx.coroutines.CancellationException] of the caller's own making, or an [IllegalStateException] for an object
 * that was closed.
 *
 * No failure of the native library ends the process: what goes wrong inside it arrives here as [Internal].
 */
public sealed class TimbreException(message: String, cause: Throwable? = null) : Exception(message, cause) {

    /**
     * An adapter that does not go with the model, or that asks for what this library does not do. Nothing was applied.
     *
     * @property what what does not fit: a module, the base model, a field of its configuration
     * @property expected what would fit
     * @property found what the adapter has
     */
    public class IncompatibleAdapter(
        public val what: String,
        public val expected: String,
        public val found: String,
        cause: Throwable? = null,
    ) : TimbreException("$what: expected $expected, found $found", cause)

    /**
     * A file, or bytes, that are damaged or are not what they should be.
     *
     * @property path the file; empty for bytes that came from none
     * @property offset where in the file, in bytes from its beginning, where that is known
     * @property reason what is wrong
     */
    public class CorruptFile(
        public val path: String,
        public val offset: Long?,
        public val reason: String,
        cause: Throwable? = null,
    ) : TimbreException(if (path.isEmpty()) reason else "$path: $reason", cause)

    /**
     * A model that is whole but of a kind, or with a feature, that this library does not run.
     *
     * @property what the kind or feature
     */
    public class UnsupportedModel(public val what: String, cause: Throwable? = null) : TimbreException(what, cause)

    /**
     * More memory than there is, or than the caller allowed.
     *
     * @property needed bytes needed
     * @property available bytes there are, or are allowed
     */
    public class OutOfMemory(public val needed: Long, public val available: Long, cause: Throwable? = null) :
        TimbreException("$needed bytes of memory are needed, $available are available", cause)

    /**
     * The GPU was asked for and cannot be used.
     *
     * @property reason why
     */
    public class GpuUnavailable(public val reason: String, cause: Throwable? = null) :
        TimbreException("no GPU: $reason", cause)

    /**
     * The prompt does not fit into the session's context. A reply that fills the context later ends with
     * [Finish.CONTEXT_FULL] instead.
     *
     * @property capacity tokens the session can hold
     * @property used tokens it holds
     * @property added tokens that were to be added
     */
    public class ContextFull(
        public val capacity: Long,
        public val used: Long,
        public val added: Long,
        cause: Throwable? = null,
    ) : TimbreException("the context of $capacity tokens is full: $used are held, $added more were to be added", cause)

    /** The work was cancelled by something other than the caller's coroutine. */
    public class Cancelled(cause: Throwable? = null) : TimbreException("cancelled", cause)

    /**
     * The object is at work: a session generates one reply at a time.
     *
     * @property what what it is doing
     */
    public class Busy(public val what: String, cause: Throwable? = null) : TimbreException(what, cause)

    /**
     * An argument out of its range.
     *
     * @property what the argument
     * @property expected what is possible
     * @property found what was given
     */
    public class InvalidArgument(
        public val what: String,
        public val expected: String,
        public val found: String,
        cause: Throwable? = null,
    ) : TimbreException("$what is $found, expected $expected", cause)

    /**
     * The system could not read or write a file.
     *
     * @property path the file
     * @property reason the system's words
     */
    public class Io(public val path: String, public val reason: String, cause: Throwable? = null) :
        TimbreException("$path: $reason", cause)

    /**
     * A fault of this library.
     *
     * @property reason what is known of it
     */
    public class Internal(public val reason: String, cause: Throwable? = null) :
        TimbreException("internal error: $reason", cause)
}
