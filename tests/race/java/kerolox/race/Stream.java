package kerolox.race;

import java.nio.ByteBuffer;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;

/** The leg from producer to listener at a steady rate. */
final class Stream {
    /** Sends without waiting. */
    interface Sender {
        CompletableFuture<?> send(byte[] body) throws Exception;
    }

    private static final long DRAIN_NANOS = 10_000_000_000L;

    private final Clock clock;
    private final Tally arrivals = new Tally();
    private final Set<Long> seen = ConcurrentHashMap.newKeySet();

    Stream(Clock clock) {
        this.clock = clock;
    }

    /** What the listener got; its first words are number and time. */
    void heard(ByteBuffer body) {
        long number = body.getLong(body.position());
        long sent = body.getLong(body.position() + 8);
        if (seen.add(number)) {
            arrivals.note(clock, sent, 1);
        }
    }

    /** Sends through warm-up and window, waits for calls under way, and finishes. */
    void run(Task task, Sender sender) throws Exception {
        AtomicLong acknowledged = new AtomicLong();
        clock.run(task, java.util.List.of(tally -> {
            long next = System.nanoTime();
            for (long number = 0; !clock.isOver(); number++) {
                byte[] body = task.body();
                ByteBuffer.wrap(body).putLong(number).putLong(System.nanoTime());
                sender.send(body).whenComplete((done, error) -> {
                    if (error != null) {
                        Clock.fail(error);
                    }
                    acknowledged.incrementAndGet();
                });
                tally.total++;
                next += 1_000_000_000L / Task.PACE;
                LockSupport.parkNanos(next - System.nanoTime());
            }
            long over = System.nanoTime();
            while ((acknowledged.get() < tally.total || seen.size() < tally.total) && System.nanoTime() - over < DRAIN_NANOS) {
                Thread.sleep(10);
            }
        }));
        clock.finish(arrivals, acknowledged.get(), (long) seen.size());
    }
}
