use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

use super::*;
use crate::ErrorCode;

/// A server that gives one answer and says what it was asked.
async fn answer_once(listener: UnixListener, answer: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = vec![0; 65536];
    let length = stream.read(&mut request).await.unwrap();
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(request[..length].to_vec()).unwrap()
}

fn http(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn asked<T>(answer: &str, ask: impl AsyncFnOnce(Client) -> T) -> (String, T) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let client = Client::new(&socket).with_patience(Duration::from_secs(20));
    tokio::join!(answer_once(listener, answer), ask(client))
}

#[tokio::test]
async fn a_request_is_a_path_and_an_answer_a_value() {
    let answer = http("200 OK", "[]");
    let (request, events) = asked(&answer, async |client| {
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
async fn names_cannot_leave_their_place_in_the_path() {
    let (request, _) = asked(&http("200 OK", "null"), async |client| {
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
async fn the_controllers_no_is_its_own_words() {
    let body = r#"{"code":"conflict","message":"revision 7 waits to be confirmed","plan":null}"#;
    let (_, answer) = asked(&http("409 Conflict", body), async |client| {
        client.status().await
    })
    .await;
    let error = answer.unwrap_err();
    assert!(error.is(ErrorCode::Conflict) && !error.is_passing());
    assert_eq!(error.to_string(), "revision 7 waits to be confirmed");
}

#[tokio::test]
async fn other_answers_are_errors_that_say_so() {
    let (_, answer) = asked(&http("502 Bad Gateway", "<html>"), async |client| {
        client.status().await
    })
    .await;
    let error = answer.unwrap_err();
    assert!(error.to_string().contains("another version"), "{error}");
    let (_, answer) = asked("", async |client| client.status().await).await;
    let error = answer.unwrap_err();
    assert!(
        error.is_passing() && error.to_string().contains("ended"),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_there_is_said_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let error = Client::new(&socket).status().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no controller answers at {}: is `evenkeel run` running?",
            socket.display()
        )
    );
    // A socket that a killed controller left behind.
    drop(UnixListener::bind(&socket).unwrap());
    let error = Client::new(&socket).status().await.unwrap_err();
    assert!(error.is_passing(), "{error}");
}

#[test]
fn who_may_use_the_socket_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
    nix::unistd::chown(&socket, None, Some(group.gid)).expect("this test needs root");
    let denied = std::io::ErrorKind::PermissionDenied.into();
    let error = ClientError::connecting(&socket, denied);
    assert!(
        error.to_string().contains("by root and group daemon"),
        "{error}"
    );
    drop(listener);
}
