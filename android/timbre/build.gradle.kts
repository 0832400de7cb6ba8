plugins {
    alias(libs.plugins.android.library)
    `maven-publish`
}

group = "dev.timbre"
version = providers.gradleProperty("timbre.version").getOrElse("0.1.0")

android {
    namespace = "dev.timbre"
    compileSdk = libs.versions.compile.sdk.get().toInt()
    ndkVersion = libs.versions.ndk.get()

    defaultConfig {
        // Android 8.0. The NDK and Rust go down to 21; what is older than 26 are phones of 2016 and before, without the memory
        // and the instructions that a language model wants.
        minSdk = libs.versions.min.sdk.get().toInt()
        consumerProguardFiles("consumer-rules.pro")
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    // Stripped by the task that builds them, which knows where the symbols are still needed.
    packaging { jniLibs { keepDebugSymbols += "**/libtimbre_bindings.so" } }

    publishing {
        singleVariant("release") { withSourcesJar() }
    }
}

val repository = rootProject.layout.projectDirectory.dir("..")

val buildNative = tasks.register<BuildNative>("buildNative") {
    group = "build"
    description = "Builds the Rust library for Android and generates its Kotlin"
    root = repository
    sources.from(
        repository.files("Cargo.toml", "Cargo.lock"),
        repository.dir("core/src").asFileTree,
        repository.dir("bindings").asFileTree.matching { exclude("tests") },
    )
    abis = listOf("arm64-v8a", "x86_64")
    minSdk = libs.versions.min.sdk.get().toInt()
    gpu = providers.gradleProperty("timbre.gpu").map { it.toBoolean() }.orElse(true)
    ndk = androidComponents.sdkComponents.ndkDirectory
    libraries = layout.buildDirectory.dir("native/jniLibs")
    kotlin = layout.buildDirectory.dir("native/kotlin")
}

androidComponents {
    onVariants { variant ->
        variant.sources.jniLibs?.addGeneratedSourceDirectory(buildNative, BuildNative::libraries)
        variant.sources.kotlin?.addGeneratedSourceDirectory(buildNative, BuildNative::kotlin)
    }
}

dependencies {
    api(libs.coroutines.core)
    implementation(libs.jna) { artifact { type = "aar" } }
    testImplementation(libs.junit)
    testImplementation(libs.jna)
}

// The tests run on this machine's JVM, against the library that `cargo build --release -p timbre-bindings` makes for it.
tasks.withType<Test>().configureEach {
    val library = repository.file("target/release/${System.mapLibraryName("timbre_bindings")}").asFile.path
    systemProperty("uniffi.component.timbre_bindings.libraryOverride", library)
    environment("TIMBRE_ROOT", repository.asFile.path)
}

publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = "timbre"
            afterEvaluate { from(components["release"]) }
            pom {
                name = "Timbre"
                description = "On-device language models that take on a person's voice"
                licenses {
                    license { name = "MIT" }
                    license { name = "Apache-2.0" }
                }
            }
        }
    }
}
