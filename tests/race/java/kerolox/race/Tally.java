package kerolox.race;

import org.HdrHistogram.Histogram;

/** What one caller counts. */
final class Tally {
    /** Messages in the window. */
    long messages;
    /** Messages in all phases. */
    long total;
    private final Histogram latencies = new Histogram(3);

    /** Notes what ends now, for so many messages. */
    synchronized void note(Clock clock, long began, long count) {
        total += count;
        if (clock.isMeasured()) {
            messages += count;
            latencies.recordValue(System.nanoTime() - began);
        }
    }

    void add(Tally other) {
        messages += other.messages;
        total += other.total;
        latencies.add(other.latencies);
    }

    /** The latency at a percentile, microseconds. */
    double at(double percentile) {
        return latencies.getValueAtPercentile(percentile) / 1e3;
    }
}
