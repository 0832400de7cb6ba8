// Runs the JUnit tests named on the command line without Gradle: a line for each, and one that counts them.

import kotlin.system.exitProcess
import org.junit.runner.Description
import org.junit.runner.JUnitCore
import org.junit.runner.notification.Failure
import org.junit.runner.notification.RunListener

private class Lines : RunListener() {
    private var begin = 0L
    private val failures = mutableListOf<Failure>()
    private var failed = false
    var passed = 0
        private set
    val failedCount get() = failures.size

    override fun testStarted(description: Description) {
        begin = System.nanoTime()
        failed = false
    }

    override fun testFailure(failure: Failure) {
        failed = true
        failures += failure
    }

    override fun testFinished(description: Description) {
        val ms = (System.nanoTime() - begin) / 1_000_000
        if (!failed) passed++
        val name = "${description.testClass.simpleName}: ${description.methodName.orEmpty()}"
        println("${if (failed) "FAILED" else "ok    "} $name ($ms ms)")
    }

    fun details() = failures.forEach { println("\n${it.description}\n${it.trace.lines().take(25).joinToString("\n")}") }
}

fun main(names: Array<String>) {
    val lines = Lines()
    val core = JUnitCore()
    core.addListener(lines)
    core.run(*names.map { Class.forName(it) }.toTypedArray())
    lines.details()
    println("${lines.passed} passed, ${lines.failedCount} failed")
    exitProcess(if (lines.failedCount == 0 && lines.passed > 0) 0 else 1)
}
