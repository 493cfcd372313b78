package kerolox.race;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** The window on the clock, the callers in it, and the result. */
final class Clock {
    private enum Phase { WARM_UP, MEASURED, OVER }

    /** One caller, which counts in a tally until the clock is over. */
    interface Caller {
        void run(Tally tally) throws Exception;
    }

    /** One call, which says how many messages it was for. */
    interface Call {
        long call() throws Exception;
    }

    private volatile Phase phase = Phase.WARM_UP;
    private long window;

    boolean isOver() {
        return phase == Phase.OVER;
    }

    boolean isMeasured() {
        return phase == Phase.MEASURED;
    }

    void stop() {
        phase = Phase.OVER;
    }

    /** A caller that makes a call again and again. */
    Caller repeating(Call call) {
        return tally -> {
            while (!isOver()) {
                long began = System.nanoTime();
                tally.note(this, began, call.call());
            }
        };
    }

    /** Runs callers through warm-up and window to their end, and adds up what they counted. */
    Tally run(Task task, List<Caller> callers) throws Exception {
        ExecutorService threads = Executors.newCachedThreadPool();
        List<Future<Tally>> running = start(threads, callers);
        Thread.sleep((long) (task.warmup() * 1000));
        long began = begin();
        Thread.sleep((long) (task.seconds() * 1000));
        end(began);
        Tally sum = sum(running);
        threads.shutdown();
        return sum;
    }

    /** Runs callers for some time, or until all have ended by themselves; only on the clock if it is the race. */
    Tally runUntilDone(double seconds, boolean race, List<Caller> callers) throws Exception {
        ExecutorService threads = Executors.newCachedThreadPool();
        long began = race ? begin() : System.nanoTime();
        List<Future<Tally>> running = start(threads, callers);
        threads.shutdown();
        if (!threads.awaitTermination((long) (seconds * 1000), TimeUnit.MILLISECONDS) || race) {
            stop();
        }
        if (race) {
            end(began);
        }
        return sum(running);
    }

    private long begin() {
        System.out.println("begin");
        phase = Phase.MEASURED;
        return System.nanoTime();
    }

    private void end(long began) {
        window = System.nanoTime() - began;
        stop();
        System.out.println("end");
    }

    private static List<Future<Tally>> start(ExecutorService threads, List<Caller> callers) {
        List<Future<Tally>> running = new ArrayList<>();
        for (Caller caller : callers) {
            running.add(threads.submit(() -> {
                Tally tally = new Tally();
                caller.run(tally);
                return tally;
            }));
        }
        return running;
    }

    private static Tally sum(List<Future<Tally>> running) throws ExecutionException, InterruptedException, TimeoutException {
        Tally sum = new Tally();
        for (Future<Tally> each : running) {
            sum.add(each.get(60, TimeUnit.SECONDS));
        }
        return sum;
    }

    /** Prints the result, without `verified` where another program counts, and ends the process: clients leave threads behind. */
    void finish(Tally tally, long acknowledged, Long verified) {
        System.out.printf(
                Locale.ROOT,
                "{\"messages\":%d,\"seconds\":%f,\"acknowledged\":%d,\"verified\":%s,\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f}%n",
                tally.messages, window / 1e9, acknowledged, verified, tally.at(50), tally.at(99), tally.at(99.9));
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    /** Ends the process with what went wrong. */
    static void fail(Throwable error) {
        error.printStackTrace();
        System.err.flush();
        Runtime.getRuntime().halt(1);
    }
}
