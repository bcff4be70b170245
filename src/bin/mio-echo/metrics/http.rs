//! As much of HTTP as two pages need: RFC 9110 and RFC 9112.

use std::fmt;
use std::time::SystemTime;

/// How many fields a request may have.
const FIELDS_MAX: usize = 64;

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    /// The counters.
    Metrics,
    /// Whether the service is well.
    Health,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// Whether it wants to know about the answer, and not the answer.
    pub(super) is_head: bool,
    /// Or else what it is told instead.
    pub(super) wanted: Result<Resource, Status>,
}

impl Request {
    /// What the head of a request asks for. `None` while its end is missing.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(head) {
            Ok(status) if status.is_partial() => None,
            Ok(_) => Some(Request {
                is_head: request.method == Some("HEAD"),
                wanted: wanted(&request),
            }),
            Err(error) => Some(Request::refused(fault(error, head))),
        }
    }

    pub(super) fn refused(status: Status) -> Self {
        Request {
            is_head: false,
            wanted: Err(status),
        }
    }

    /// Of a head that does not end: which of its parts it is that is too large.
    pub(super) fn too_large(head: &[u8]) -> Self {
        Request::refused(if head.contains(&b'\n') {
            Status::FIELDS_TOO_LARGE
        } else {
            Status::URI_TOO_LONG
        })
    }
}

fn wanted(request: &httparse::Request<'_, '_>) -> Result<Resource, Status> {
    let is_host = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("host");
    match (
        request.headers.iter().filter(is_host).count(),
        request.version,
    ) {
        (1, _) | (0, Some(0)) => {}
        // RFC 9112, section 3.2.
        _ => return Err(Status::BAD_REQUEST),
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

/// The path of a request's target, which may be a whole URI too (RFC 9112, section 3.2.2).
fn path(target: &str) -> &str {
    let rest = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => {
            &rest[rest.find('/').unwrap_or(rest.len())..]
        }
        _ => target,
    };
    rest.split('?').next().unwrap_or(rest)
}

/// What is wrong with a head that cannot be parsed.
fn fault(error: httparse::Error, head: &[u8]) -> Status {
    match error {
        httparse::Error::TooManyHeaders => Status::FIELDS_TOO_LARGE,
        httparse::Error::Version if names_http(head) => Status::VERSION_NOT_SUPPORTED,
        _ => Status::BAD_REQUEST,
    }
}

/// Whether the request line ends in a version of HTTP, and not in something else.
fn names_http(head: &[u8]) -> bool {
    let line = head.trim_ascii_start().split(|&byte| byte == b'\n').next();
    line.is_some_and(|line| line.windows(6).any(|part| part == b" HTTP/"))
}

/// A status code, and one line for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    /// With its reason phrase.
    code: &'static str,
    text: &'static str,
}

impl Status {
    pub(super) const OK: Status = Status::new("200 OK", "ok");
    pub(super) const BAD_REQUEST: Status = Status::new(
        "400 Bad Request",
        "no request of HTTP/1.1: ask GET /metrics",
    );
    const NOT_FOUND: Status = Status::new("404 Not Found", "there are /metrics and /healthz");
    pub(super) const METHOD_NOT_ALLOWED: Status =
        Status::new("405 Method Not Allowed", "ask GET or HEAD");
    pub(super) const TIMEOUT: Status =
        Status::new("408 Request Timeout", "the request took too long");
    const URI_TOO_LONG: Status = Status::new("414 URI Too Long", "ask GET /metrics");
    const FIELDS_TOO_LARGE: Status = Status::new(
        "431 Request Header Fields Too Large",
        "send 8 KiB and 64 fields at the most",
    );
    pub(super) const DRAINING: Status = Status::new("503 Service Unavailable", "shutting down");
    const VERSION_NOT_SUPPORTED: Status =
        Status::new("505 HTTP Version Not Supported", "ask by HTTP/1.1");

    const fn new(code: &'static str, text: &'static str) -> Self {
        Status { code, text }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

/// What a client is told, after which the connection ends.
pub(super) struct Response {
    pub(super) status: Status,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Response {
    /// The status, and its line.
    pub(super) fn saying(status: Status) -> Self {
        Response {
            status,
            content_type: PLAIN_TEXT,
            body: format!("{}\n", status.text),
        }
    }

    /// As it is sent at that time; to those who want the head alone, without the body.
    pub(super) fn to_bytes(&self, is_head: bool, now: SystemTime) -> Vec<u8> {
        let Response {
            status,
            content_type,
            body,
        } = self;
        let allow = match *status {
            Status::METHOD_NOT_ALLOWED => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        let body = if is_head { "" } else { body };
        format!(
            "HTTP/1.1 {status}\r\nDate: {}\r\n{allow}Content-Type: {content_type}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            httpdate::fmt_http_date(now),
            self.body.len(),
        )
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(head: &str) -> String {
        let request = Request::parse(head.as_bytes()).expect(head);
        match request.wanted {
            Ok(resource) => format!("{resource:?}"),
            Err(status) => status.to_string(),
        }
    }

    #[test]
    fn what_heads_ask_for() {
        for (line, wanted) in [
            ("GET /metrics HTTP/1.1", "Metrics"),
            ("GET /metrics?name[]=up&x=http://a/b HTTP/1.1", "Metrics"),
            ("GET http://localhost:9007/metrics HTTP/1.1", "Metrics"),
            ("HEAD /healthz HTTP/1.1", "Health"),
            ("GET http://localhost HTTP/1.1", "404 Not Found"),
            ("GET /metrics/ HTTP/1.1", "404 Not Found"),
            ("GET metrics HTTP/1.1", "404 Not Found"),
            ("OPTIONS * HTTP/1.1", "404 Not Found"),
            ("POST /nowhere HTTP/1.1", "404 Not Found"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
            ("get /healthz HTTP/1.1", "405 Method Not Allowed"),
            ("GET /metrics HTTP/2.0", "505 HTTP Version Not Supported"),
            ("GET /metrics HTTP/0.9", "505 HTTP Version Not Supported"),
            ("GET /metrics GOPHER/1", "400 Bad Request"),
            ("GET  /metrics HTTP/1.1", "400 Bad Request"),
            ("GET /metrics", "400 Bad Request"),
            ("\u{16}\u{3}\u{1}", "400 Bad Request"),
        ] {
            assert_eq!(
                status(&format!("{line}\r\nHost: here\r\n\r\n")),
                wanted,
                "{line}"
            );
        }
        assert_eq!(
            status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            "505 HTTP Version Not Supported"
        );
    }

    #[test]
    fn one_host_is_named_or_none_before_http_1_1() {
        for (head, wanted) in [
            ("GET /metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),
            ("GET /metrics HTTP/1.1\r\nhOsT:\r\n\r\n", "Metrics"),
            (
                "GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                "400 Bad Request",
            ),
            ("GET /metrics HTTP/1.0\r\n\r\n", "Metrics"),
            (
                "GET /metrics HTTP/1.1\r\nHost : a\r\n\r\n",
                "400 Bad Request",
            ),
            (
                "GET /metrics HTTP/1.1\r\n Host: a\r\n\r\n",
                "400 Bad Request",
            ),
        ] {
            assert_eq!(status(head), wanted, "{head}");
        }
    }

    #[test]
    fn no_piece_of_a_head_is_taken_for_the_whole() {
        let head = b"HEAD /metrics HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(Request::parse(&head[..end]), None, "{end}");
        }
        let request = Request::parse(head).unwrap();
        assert!(request.is_head);
        assert_eq!(request.wanted, Ok(Resource::Metrics));
    }

    #[test]
    fn more_fields_than_there_may_be_are_too_large() {
        let head = |fields: usize| {
            let fields = "A: b\r\n".repeat(fields);
            format!("GET /metrics HTTP/1.1\r\nHost: here\r\n{fields}\r\n")
        };
        assert_eq!(status(&head(FIELDS_MAX - 1)), "Metrics");
        assert_eq!(
            status(&head(FIELDS_MAX)),
            "431 Request Header Fields Too Large"
        );
    }

    #[test]
    fn a_response_tells_its_length_and_its_date() {
        let response = Response::saying(Status::METHOD_NOT_ALLOWED);
        let head = "HTTP/1.1 405 Method Not Allowed\r\n\
                    Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                    Allow: GET, HEAD\r\n\
                    Content-Type: text/plain; charset=utf-8\r\n\
                    Content-Length: 16\r\n\
                    Connection: close\r\n\r\n";
        let bytes = |is_head| response.to_bytes(is_head, SystemTime::UNIX_EPOCH);
        assert_eq!(bytes(true), head.as_bytes());
        assert_eq!(bytes(false), format!("{head}ask GET or HEAD\n").as_bytes());
    }
}
