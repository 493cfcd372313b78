//! Paths of calls, `/SERVICE/METHOD`, from the names that the generated code gives to services.

/// The path of a method of a service, as a constant: `call_path!(messaging_service_server::SERVICE_NAME, "Heartbeat")`.
#[macro_export]
macro_rules! call_path {
    ($service:expr, $method:literal) => {{
        const BYTES: [u8; $service.len() + $method.len() + 2] = $crate::path::joined($service, $method);
        const PATH: &str = match ::std::str::from_utf8(&BYTES) {
            Ok(path) => path,
            Err(_) => panic!("names of services and methods are ASCII"),
        };
        PATH
    }};
}

/// The bytes of `/SERVICE/METHOD`, for [`call_path!`].
///
/// # Panics
/// `N` is not their number.
pub const fn joined<const N: usize>(service: &str, method: &str) -> [u8; N] {
    assert!(N == service.len() + method.len() + 2, "two slashes beside the names");
    let mut path = [b'/'; N];
    let (_, names) = path.split_at_mut(1);
    let (first, rest) = names.split_at_mut(service.len());
    let (_, second) = rest.split_at_mut(1);
    first.copy_from_slice(service.as_bytes());
    second.copy_from_slice(method.as_bytes());
    path
}

/// The service and the method that a path names, both empty where it names none.
pub fn service_and_method(path: &str) -> (&str, &str) {
    path.strip_prefix('/').and_then(|names| names.split_once('/')).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tonic::server::NamedService;

    use super::service_and_method;
    use crate::v2::messaging_service_server::{MessagingServiceServer, SERVICE_NAME};

    #[test]
    fn a_path_begins_with_the_name_that_the_service_is_routed_by() {
        const HEARTBEAT: &str = call_path!(SERVICE_NAME, "Heartbeat");
        assert_eq!(HEARTBEAT, format!("/{}/Heartbeat", <MessagingServiceServer<()> as NamedService>::NAME));
        assert_eq!(HEARTBEAT, "/apache.rocketmq.v2.MessagingService/Heartbeat");
        assert_eq!(service_and_method(HEARTBEAT), (SERVICE_NAME, "Heartbeat"));
        assert_eq!(
            crate::raw::messaging_service_server::SERVICE_NAME,
            SERVICE_NAME,
            "one service, two codes"
        );
    }

    #[test]
    fn what_is_no_path_of_a_call_names_nothing() {
        for path in ["", "/", "*", "/only", "service/method"] {
            assert_eq!(service_and_method(path), ("", ""), "{path:?}");
        }
    }
}
