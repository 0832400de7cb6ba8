import javax.inject.Inject
import org.gradle.api.DefaultTask
import org.gradle.api.GradleException
import org.gradle.api.file.ConfigurableFileCollection
import org.gradle.api.file.DirectoryProperty
import org.gradle.api.provider.ListProperty
import org.gradle.api.provider.Property
import org.gradle.api.tasks.Input
import org.gradle.api.tasks.InputFiles
import org.gradle.api.tasks.Internal
import org.gradle.api.tasks.OutputDirectory
import org.gradle.api.tasks.PathSensitive
import org.gradle.api.tasks.PathSensitivity
import org.gradle.api.tasks.TaskAction
import org.gradle.process.ExecOperations

/** Builds the Rust library for Android with cargo-ndk, generates its Kotlin, strips it, and checks its alignment. */
abstract class BuildNative @Inject constructor(private val exec: ExecOperations) : DefaultTask() {
    /** The repository. */
    @get:Internal abstract val root: DirectoryProperty

    /** What the library is made of. */
    @get:InputFiles
    @get:PathSensitive(PathSensitivity.RELATIVE)
    abstract val sources: ConfigurableFileCollection

    /** Android's names of the processors it is built for. */
    @get:Input abstract val abis: ListProperty<String>

    /** The oldest API level it runs on. */
    @get:Input abstract val minSdk: Property<Int>

    /** Whether it computes on GPUs too. */
    @get:Input abstract val gpu: Property<Boolean>

    /** The installed NDK. */
    @get:Internal abstract val ndk: DirectoryProperty

    /** Libraries, in a folder for each processor. */
    @get:OutputDirectory abstract val libraries: DirectoryProperty

    /** Generated Kotlin. */
    @get:OutputDirectory abstract val kotlin: DirectoryProperty

    @TaskAction
    fun build() {
        val out = libraries.get().asFile
        out.deleteRecursively()
        val targets = abis.get().flatMap { listOf("-t", it) }
        // The NDK's linker aligns to 16 KB by itself from r28 on; said here so that an older one does too.
        val flags = "-C link-arg=-Wl,-z,max-page-size=16384"
        run(
            listOf("cargo", "ndk") + targets + listOf("--platform", "${minSdk.get()}", "-o", out.path) +
                listOf("build", "--profile", "mobile", "-p", "timbre-bindings", "--lib") +
                (if (gpu.get()) emptyList() else listOf("--no-default-features")),
            mapOf(
                "ANDROID_NDK_HOME" to ndk.get().asFile.path,
                "CARGO_TARGET_AARCH64_LINUX_ANDROID_RUSTFLAGS" to flags,
                "CARGO_TARGET_X86_64_LINUX_ANDROID_RUSTFLAGS" to flags,
            ),
        )
        val built = out.walk().filter { it.name == LIBRARY }.toList()
        if (built.size != abis.get().size) throw GradleException("cargo-ndk made ${built.size} of ${abis.get().size} libraries")
        // Before they are stripped: the description of the surface is in their symbols.
        kotlin.get().asFile.deleteRecursively()
        val bindgen = listOf("cargo", "run", "--release", "-p", "timbre-bindgen", "--")
        run(bindgen + listOf("kotlin", built.first().path, kotlin.get().asFile.path))
        val strip = ndk.get().asFile.resolve("toolchains/llvm/prebuilt").walk().maxDepth(3)
            .first { it.nameWithoutExtension == "llvm-strip" }
        for (library in built) {
            run(listOf(strip.path, "--strip-unneeded", library.path))
            val problem = ElfAlignment.problem(library.readBytes())
            if (problem != null) throw GradleException("$library: $problem")
            logger.lifecycle("${library.parentFile.name}: ${library.length()} bytes, aligned for pages of 16 KB")
        }
        out.walk().filter { it.isFile && it.name != LIBRARY }.forEach { it.delete() }
    }

    private fun run(command: List<String>, environment: Map<String, String> = emptyMap()) {
        exec.exec {
            workingDir = root.get().asFile
            commandLine = command
            environment(environment)
        }
    }

    private companion object {
        const val LIBRARY = "libtimbre_bindings.so"
    }
}
