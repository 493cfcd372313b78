package kerolox;

import java.io.PrintWriter;
import java.io.StringWriter;
import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;
import org.junit.platform.launcher.TestPlan;

/** Prints a line for each test, why a test failed, and the figures that tests/run.sh adds up. */
public final class Reporter implements TestExecutionListener {
    private int passed;
    private int failed;

    @Override
    public synchronized void executionFinished(TestIdentifier test, TestExecutionResult result) {
        var cause = result.getThrowable();
        // What fails around tests, a class that does not load for example, is no test and counts all the same.
        if (cause.isPresent()) {
            failed++;
            var trace = new StringWriter();
            cause.get().printStackTrace(new PrintWriter(trace));
            System.out.println(test.getDisplayName() + " ... FAILED\n" + trace);
        } else if (test.isTest()) {
            passed++;
            System.out.println(test.getDisplayName() + " ... ok");
        }
    }

    @Override
    public synchronized void testPlanExecutionFinished(TestPlan plan) {
        System.out.println("sdk java: " + passed + " passed, " + failed + " failed");
    }
}
