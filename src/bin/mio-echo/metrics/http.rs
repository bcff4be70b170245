//! The part of HTTP/1.1 that two resources need; see RFC 9110 and RFC 9112.

use std::time::SystemTime;

/// Limit on the header fields of a request.
const MAX_FIELDS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Metrics,
    Health,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// The method is HEAD: the response has no body.
    pub(super) is_head: bool,
    /// The requested resource, or the status of the error response.
    pub(super) resource: Result<Resource, Status>,
}

impl Request {
    /// Parses the head of a request. `None` while it is incomplete.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let resource = match request.parse(head) {
            Ok(httparse::Status::Partial) => return None,
            Ok(httparse::Status::Complete(_)) => resource(&request),
            Err(httparse::Error::TooManyHeaders) => Err(Status::TOO_LARGE),
            Err(_) => Err(Status::BAD_REQUEST),
        };
        let is_head = request.method == Some("HEAD");
        Some(Request { is_head, resource })
    }

    pub(super) fn error(status: Status) -> Self {
        Request {
            is_head: false,
            resource: Err(status),
        }
    }
}

fn resource(request: &httparse::Request<'_, '_>) -> Result<Resource, Status> {
    let hosts = request.headers.iter();
    let hosts = hosts.filter(|it| it.name.eq_ignore_ascii_case("host"));
    let mut bytes = hosts.clone().flat_map(|it| it.value);
    // HTTP/1.1 requires one valid `Host` field (RFC 9112, section 3.2), HTTP/1.0 none.
    let is_valid_count = matches!((hosts.count(), request.version), (1, _) | (0, Some(0)));
    if !is_valid_count || !bytes.all(|it| is_of_host(*it)) {
        return Err(Status::BAD_REQUEST);
    }
    let resource = match path(request.path.unwrap_or_default()) {
        "/metrics" => Resource::Metrics,
        "/healthz" => Resource::Health,
        _ => return Err(Status::NOT_FOUND),
    };
    match request.method {
        Some("GET" | "HEAD") => Ok(resource),
        _ => Err(Status::METHOD_NOT_ALLOWED),
    }
}

/// Whether a host with a port can have this character (RFC 3986, section 3.2).
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}

/// The path of a request target, which can also be a whole URI (RFC 9112, section 3.2.2).
fn path(target: &str) -> &str {
    let target = target.split('?').next().unwrap_or(target);
    match target.split_once("://") {
        // Without a host the URI is invalid (RFC 9110, section 4.2.1).
        Some((scheme, uri)) if scheme.eq_ignore_ascii_case("http") && !uri.starts_with('/') => {
            uri.trim_start_matches(|it| it != '/')
        }
        _ => target,
    }
}

/// A status code with its reason phrase, and the body of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(pub(super) &'static str, pub(super) &'static str);

impl Status {
    pub(super) const OK: Self = Status("200 OK", "ok");
    pub(super) const BAD_REQUEST: Self = Status("400 Bad Request", "send GET /metrics HTTP/1.1");
    const NOT_FOUND: Self = Status("404 Not Found", "use /metrics or /healthz");
    const METHOD_NOT_ALLOWED: Self = Status("405 Method Not Allowed", "use GET or HEAD");
    pub(super) const TIMEOUT: Self = Status("408 Request Timeout", "the request took too long");
    pub(super) const TOO_LARGE: Self = Status(
        "431 Request Header Fields Too Large",
        "send at most 8 KiB and 64 fields",
    );
    pub(super) const SHUTTING_DOWN: Self = Status("503 Service Unavailable", "shutting down");
}

/// The bytes of a response, after which the connection ends.
pub(super) fn response(status: Status, body: &str, is_head: bool, now: SystemTime) -> Vec<u8> {
    let allow = match status {
        Status::METHOD_NOT_ALLOWED => "Allow: GET, HEAD\r\n",
        _ => "",
    };
    format!(
        "HTTP/1.1 {}\r\nDate: {}\r\n{allow}Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{}",
        status.0,
        httpdate::fmt_http_date(now),
        body.len(),
        if is_head { "" } else { body },
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str) -> String {
        match Request::parse(head.as_bytes()).expect(head).resource {
            Ok(resource) => format!("{resource:?}"),
            Err(status) => status.0.to_owned(),
        }
    }

    #[test]
    fn request_line_selects_resource_or_error() {
        for (line, expected) in [
            ("GET /metrics HTTP/1.1", "Metrics"),
            ("GET /metrics?name[]=up&x=http://a/b HTTP/1.1", "Metrics"),
            ("GET http://localhost:9007/metrics HTTP/1.1", "Metrics"),
            ("HEAD /healthz HTTP/1.1", "Health"),
            ("GET HTTP://localhost/metrics?a HTTP/1.1", "Metrics"),
            ("GET http://localhost HTTP/1.1", "404 Not Found"),
            ("GET http://localhost?/metrics HTTP/1.1", "404 Not Found"),
            ("GET http:///metrics HTTP/1.1", "404 Not Found"),
            ("GET /metrics/ HTTP/1.1", "404 Not Found"),
            ("GET metrics HTTP/1.1", "404 Not Found"),
            ("OPTIONS * HTTP/1.1", "404 Not Found"),
            ("POST /nowhere HTTP/1.1", "404 Not Found"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
            ("get /healthz HTTP/1.1", "405 Method Not Allowed"),
            ("GET /metrics HTTP/2.0", "400 Bad Request"),
            ("GET /metrics HTTP/0.9", "400 Bad Request"),
            ("GET /metrics GOPHER/1", "400 Bad Request"),
            ("GET  /metrics HTTP/1.1", "400 Bad Request"),
            ("GET /metrics", "400 Bad Request"),
            ("\u{16}\u{3}\u{1}", "400 Bad Request"),
        ] {
            let head = format!("{line}\r\nHost: here\r\n\r\n");
            assert_eq!(parsed(&head), expected, "{line}");
        }
        let http2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert_eq!(parsed(http2), "400 Bad Request");
    }

    #[test]
    fn http_1_1_requires_one_host_and_http_1_0_none() {
        for (head, expected) in [
            ("GET /metrics HTTP/1.1\r\n", "400 Bad Request"),
            ("GET /metrics HTTP/1.1\r\nhOsT:\r\n", "Metrics"),
            (
                "GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
                "400 Bad Request",
            ),
            ("GET /metrics HTTP/1.0\r\n", "Metrics"),
            ("GET /metrics HTTP/1.1\r\nHost: [::1]:9007\r\n", "Metrics"),
            ("GET /metrics HTTP/1.1\r\nHost: a b\r\n", "400 Bad Request"),
            ("GET /metrics HTTP/1.1\r\nHost : a\r\n", "400 Bad Request"),
            ("GET /metrics HTTP/1.1\r\n Host: a\r\n", "400 Bad Request"),
        ] {
            assert_eq!(parsed(&format!("{head}\r\n")), expected, "{head}");
        }
    }

    #[test]
    fn incomplete_head_is_no_request() {
        let head = b"HEAD /metrics HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(Request::parse(&head[..end]), None, "{end}");
        }
        let request = Request::parse(head).unwrap();
        assert!(request.is_head);
        assert_eq!(request.resource, Ok(Resource::Metrics));
    }

    #[test]
    fn more_than_max_fields_are_too_large() {
        let head = |fields: usize| {
            let fields = "A: b\r\n".repeat(fields);
            format!("GET /metrics HTTP/1.1\r\nHost: here\r\n{fields}\r\n")
        };
        assert_eq!(parsed(&head(MAX_FIELDS - 1)), "Metrics");
        assert_eq!(parsed(&head(MAX_FIELDS)), Status::TOO_LARGE.0);
    }

    #[test]
    fn response_has_date_and_length() {
        let head = "HTTP/1.1 405 Method Not Allowed\r\n\
                    Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                    Allow: GET, HEAD\r\n\
                    Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
                    Content-Length: 4\r\n\
                    Connection: close\r\n\r\n";
        let status = Status::METHOD_NOT_ALLOWED;
        let bytes = |is_head| response(status, "body", is_head, SystemTime::UNIX_EPOCH);
        assert_eq!(bytes(true), head.as_bytes());
        assert_eq!(bytes(false), format!("{head}body").as_bytes());
    }
}
