//! What every Kerolox server process needs: listeners, configuration, routes, client sessions, relay.
