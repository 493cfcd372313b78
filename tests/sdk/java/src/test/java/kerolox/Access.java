package kerolox;

/** The server that an SDK is configured with. */
enum Access {
    /** It knows all routes and stores nothing. */
    NAMESERVER,
    /** It answers for the cluster like a nameserver. */
    BROKER;

    @Override
    public String toString() {
        return name().toLowerCase(java.util.Locale.ROOT);
    }
}
