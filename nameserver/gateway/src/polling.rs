//! How long a ReceiveMessage waits that names no time, as those of the SDK for Go.
//!
//! Only a server to which the client told its settings can say; it fills the time in before it passes the call on.

use std::time::Duration;

use kerolox_proto::v2;

use crate::clients::ClientSessions;
use crate::headers::ClientHeaders;

/// What clients set their deadline beyond the wait by, of which half is for the way back; when they have not said: the default
/// of the SDK for Go.
const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
/// The shortest wait that a server decides on (RocketMQ's `grpcClientConsumerMinLongPollingTimeoutMillis`).
const POLL_MIN: Duration = Duration::from_secs(5);

/// Fills in how long a receive waits, if it does not say and its client has a deadline.
pub fn fill_in(request: &mut v2::ReceiveMessageRequest, client: &ClientHeaders, clients: &ClientSessions) {
    let (None, Some(deadline)) = (request.long_polling_timeout, client.timeout) else { return };
    let settings = clients.settings(&client.client_id);
    let request_timeout = settings.and_then(|settings| Duration::try_from(settings.request_timeout?).ok());
    request.long_polling_timeout = unnamed_poll(deadline, request_timeout).try_into().ok();
}

/// The deadline without half of the client's request timeout.
fn unnamed_poll(deadline: Duration, request_timeout: Option<Duration>) -> Duration {
    let reserve = request_timeout.unwrap_or(REQUEST_TIMEOUT_DEFAULT) / 2;
    deadline.saturating_sub(reserve).max(POLL_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(
        clients: &ClientSessions,
        asked: Option<Duration>,
        deadline: Option<Duration>,
    ) -> Option<Duration> {
        let client = ClientHeaders { client_id: "c".to_owned(), timeout: deadline, ..Default::default() };
        let long_polling_timeout = asked.map(|asked| asked.try_into().unwrap());
        let mut request = v2::ReceiveMessageRequest { long_polling_timeout, ..Default::default() };
        fill_in(&mut request, &client, clients);
        request.long_polling_timeout.map(|filled| filled.try_into().unwrap())
    }

    #[test]
    fn a_poll_without_a_time_leaves_half_of_the_request_timeout() {
        let s = Duration::from_secs;
        let clients = ClientSessions::new(s(60));
        assert_eq!(receive(&clients, None, Some(s(20))), Some(Duration::from_millis(18_500)));
        let of = |timeout: prost_types::Duration| v2::Settings {
            request_timeout: Some(timeout),
            ..Default::default()
        };
        clients.set_settings("c", of(s(10).try_into().unwrap()));
        assert_eq!(receive(&clients, None, Some(s(20))), Some(s(15)));
        assert_eq!(receive(&clients, None, Some(s(8))), Some(s(5)), "never less than the shortest poll");
        assert_eq!(receive(&clients, Some(s(1)), Some(s(20))), Some(s(1)), "who says is taken at its word");
        assert_eq!(receive(&clients, None, None), None, "nothing is known");
        clients.set_settings("c", of(prost_types::Duration { seconds: i64::MAX, nanos: 0 }));
        assert_eq!(receive(&clients, None, Some(s(20))), Some(s(5)));
        clients.set_settings("c", of(prost_types::Duration { seconds: -4, nanos: 0 }));
        assert_eq!(receive(&clients, None, Some(s(20))), Some(Duration::from_millis(18_500)));
    }
}
