use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

use super::*;
use crate::ErrorCode;

/// Serves one request; returns it.
async fn serve_once(listener: UnixListener, response: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = vec![0; 65536];
    let length = stream.read(&mut request).await.unwrap();
    stream.write_all(response.as_bytes()).await.unwrap();
    String::from_utf8(request[..length].to_vec()).unwrap()
}

fn http(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Sends a request to a server that responds as given; returns the request and the result.
async fn exchange<T>(response: &str, send: impl AsyncFnOnce(Client) -> T) -> (String, T) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let client = Client::new(&socket).with_timeout(Duration::from_secs(20));
    tokio::join!(serve_once(listener, response), send(client))
}

#[tokio::test]
async fn sends_the_path_and_parses_the_response() {
    let response = http("200 OK", "[]");
    let (request, events) = exchange(&response, async |client| {
        client.events(Some(7), Some(10)).await
    })
    .await;
    assert!(
        request.starts_with("GET /v1/events?since=7&limit=10 HTTP/1.1\r\n"),
        "{request}"
    );
    assert_eq!(events.unwrap(), []);
}

#[tokio::test]
async fn encodes_names_in_the_path() {
    let (request, _) = exchange(&http("200 OK", "null"), async |client| {
        client.acknowledge("skew:api/../x y", "eve").await
    })
    .await;
    assert!(
        request.starts_with("POST /v1/alerts/skew%3Aapi%2F..%2Fx%20y/ack HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.ends_with(r#"{"who":"eve"}"#), "{request}");
}

#[tokio::test]
async fn returns_the_controllers_error() {
    let body = r#"{"code":"conflict","message":"revision 7 waits to be confirmed","plan":null}"#;
    let (_, result) = exchange(&http("409 Conflict", body), async |client| {
        client.status().await
    })
    .await;
    let error = result.unwrap_err();
    assert_eq!(error.api().unwrap().code, ErrorCode::Conflict);
    assert!(!error.is_transient());
    assert_eq!(error.to_string(), "revision 7 waits to be confirmed");
}

#[tokio::test]
async fn rejects_responses_it_cannot_parse() {
    let (_, result) = exchange(&http("502 Bad Gateway", "<html>"), async |client| {
        client.status().await
    })
    .await;
    let error = result.unwrap_err();
    assert!(
        error.to_string().contains("is its version different"),
        "{error}"
    );
    let (_, result) = exchange("", async |client| client.status().await).await;
    let error = result.unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("closed the connection"),
        "{error}"
    );
}

#[tokio::test]
async fn reports_a_missing_controller() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let error = Client::new(&socket).status().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no controller is listening on {}: is `evenkeel run` running?",
            socket.display()
        )
    );
    // The socket of a killed controller.
    drop(UnixListener::bind(&socket).unwrap());
    let error = Client::new(&socket).status().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[test]
fn permission_denied_names_who_may_use_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
    nix::unistd::chown(&socket, None, Some(group.gid)).expect("this test needs root");
    let denied = std::io::ErrorKind::PermissionDenied.into();
    let error = ClientError::connecting(&socket, denied);
    assert!(
        error
            .to_string()
            .contains("only root and group daemon may use"),
        "{error}"
    );
    drop(listener);
}
