//! `pods/exec`: commands that clients run in pods, over WebSockets in the form of
//! kubelets (`v5.channel.k8s.io` and `v4`: the first byte of a message is its channel).
//! kubectl has spoken it by default since 1.31; the older SPDY is not spoken.
//!
//! What a command does is the handler's business, see [`KubeSim::on_exec`]. Terminals,
//! `attach` and `port-forward` are not there.
//!
//! [`KubeSim::on_exec`]: super::KubeSim::on_exec

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use super::request::{Query, Target};
use super::status::ApiError;

/// A command that somebody runs in a pod.
#[derive(Debug)]
pub struct Exec {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What the client sends; ends where the client says so.
    pub stdin: DuplexStream,
    /// What goes back to the client, until it is dropped.
    pub stdout: DuplexStream,
    /// The same of the errors.
    pub stderr: DuplexStream,
}

/// Runs commands, and says with which code they ended. Dropped when the client goes.
pub(super) type Runner = Arc<dyn Fn(Exec) -> Pin<Box<dyn Future<Output = i32> + Send>> + Send + Sync>;

/// What clients offer as `Sec-WebSocket-Protocol`, the best first. The older one has no
/// way to say that standard input has ended.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// RFC 6455, section 1.3.
const HANDSHAKE: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
/// The outcome, as a `Status`.
const OUTCOME: u8 = 3;
/// Of v5: the channel in the next byte has ended.
const ENDED: u8 = 255;

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The most that one frame of a client may have; kubectl's are of some KiB.
const MAX_FRAME: u64 = 1024 * 1024;

const PIPE: usize = 64 * 1024;

/// Accepts the WebSocket, and has the command run behind it.
pub(super) fn accept(
    parts: Parts,
    target: &Target,
    query: &Query,
    run: Option<Runner>,
) -> Result<Response<Body>, ApiError> {
    let run = run.ok_or_else(|| ApiError::bad_request("nothing runs in the pods of this simulator"))?;
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(ApiError::bad_request("you must specify at least 1 command for the container"));
    }
    let (key, protocol) = handshake(&parts)?;
    let mut request = Request::from_parts(parts, ());
    let upgrade = hyper::upgrade::on(&mut request);
    let (stdin, to_command) = tokio::io::duplex(PIPE);
    let (from_command, stdout) = tokio::io::duplex(PIPE);
    let (errors, stderr) = tokio::io::duplex(PIPE);
    let exec = Exec { namespace: target.namespace.clone(), pod: target.name.clone(), command, stdin, stdout, stderr };
    let to_command = query.on("stdin").then_some(to_command);
    tokio::spawn(async move {
        // A client that is gone before it begins has nothing run.
        if let Ok(upgraded) = upgrade.await {
            let running = run(exec);
            // Whoever goes away in the middle hears nothing of it.
            let _ = talk(TokioIo::new(upgraded), running, to_command, [from_command, errors]).await;
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = STANDARD
        .encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{HANDSHAKE}").as_bytes()));
    for (name, value) in [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_ACCEPT, answer.as_str()),
        (header::SEC_WEBSOCKET_PROTOCOL, protocol),
    ] {
        response.headers_mut().insert(name, value.parse().map_err(|_| ApiError::bad_request("a bad header"))?);
    }
    Ok(response)
}

/// The client's key, and the best protocol that it offers.
fn handshake(parts: &Parts) -> Result<(String, &'static str), ApiError> {
    let words = |headers: &HeaderMap, name: header::HeaderName| -> Vec<String> {
        let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
        lines.flat_map(|line| line.split(',')).map(|word| word.trim().to_owned()).collect()
    };
    let upgrades = words(&parts.headers, header::UPGRADE).iter().any(|word| word.eq_ignore_ascii_case("websocket"));
    let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    let (&Method::GET, true, Some(key), true) =
        (&parts.method, upgrades, key, parts.extensions.get::<hyper::upgrade::OnUpgrade>().is_some())
    else {
        return Err(ApiError::bad_request("unable to upgrade: this simulator speaks WebSockets and no SPDY"));
    };
    let offered = words(&parts.headers, header::SEC_WEBSOCKET_PROTOCOL);
    let protocol = PROTOCOLS.into_iter().find(|protocol| offered.iter().any(|word| word == protocol));
    let protocol = protocol
        .ok_or_else(|| ApiError::bad_request(format!("unable to upgrade: of {} is spoken none", offered.join(", "))))?;
    Ok((key.to_owned(), protocol))
}

/// Between the client and the command, until either ends.
async fn talk(
    stream: impl AsyncRead + AsyncWrite,
    running: impl Future<Output = i32>,
    to_command: Option<DuplexStream>,
    [stdout, stderr]: [DuplexStream; 2],
) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (frames, mut outgoing) = mpsc::channel::<(u8, Vec<u8>)>(16);
    let writing = async move {
        while let Some((opcode, payload)) = outgoing.recv().await {
            write_frame(&mut to, opcode, &payload).await?;
        }
        to.shutdown().await
    };
    let pongs = frames.clone();
    let hearing = async move { hear(&mut from, to_command, &pongs).await };
    let working = async move {
        let (code, (), ()) = tokio::join!(running, pump(STDOUT, stdout, &frames), pump(STDERR, stderr, &frames));
        let mut outcome = vec![OUTCOME];
        outcome.extend_from_slice(outcome_of(code).to_string().as_bytes());
        let _ = frames.send((BINARY, outcome)).await;
        // 1000: a normal closure.
        let _ = frames.send((CLOSE, 1000u16.to_be_bytes().to_vec())).await;
    };
    let ending = async move {
        tokio::select! {
            heard = hearing => heard,
            () = working => Ok(()),
        }
    };
    let (ended, written) = tokio::join!(ending, writing);
    ended.and(written)
}

/// As the kubelet says it.
fn outcome_of(code: i32) -> Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

/// What the command says, in messages.
async fn pump(channel: u8, mut from: DuplexStream, frames: &mpsc::Sender<(u8, Vec<u8>)>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let mut message = vec![channel];
        message.extend_from_slice(&buffer[..length]);
        if frames.send((BINARY, message)).await.is_err() {
            return;
        }
    }
}

/// What the client says, until it closes.
async fn hear(
    from: &mut (impl AsyncRead + Unpin),
    mut to_command: Option<DuplexStream>,
    pongs: &mpsc::Sender<(u8, Vec<u8>)>,
) -> io::Result<()> {
    // The channel of a message that comes in several frames.
    let mut channel = None;
    loop {
        let Frame { last, opcode, payload } = read_frame(from).await?;
        let bytes = match opcode {
            CLOSE => return Ok(()),
            PING => {
                let _ = pongs.send((PONG, payload)).await;
                continue;
            }
            CONTINUATION => payload.as_slice(),
            _ => {
                let Some((first, rest)) = payload.split_first() else { continue };
                channel = Some(*first);
                rest
            }
        };
        match channel {
            // A command that has closed its standard input does not want any more.
            Some(STDIN) => {
                if let Some(command) = &mut to_command
                    && command.write_all(bytes).await.is_err()
                {
                    to_command = None;
                }
            }
            Some(ENDED) if bytes == [STDIN] => to_command = None,
            _ => {}
        }
        if last {
            channel = None;
        }
    }
}

struct Frame {
    /// Of its message.
    last: bool,
    opcode: u8,
    payload: Vec<u8>,
}

/// RFC 6455, section 5.2. What a client sends is masked.
async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let [first, second] = [from.read_u8().await?, from.read_u8().await?];
    let length = match second & 0x7f {
        126 => u64::from(from.read_u16().await?),
        127 => from.read_u64().await?,
        length => u64::from(length),
    };
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if second & 0x80 == 0 {
        return Err(wrong("a frame of a client without a mask"));
    }
    let length = usize::try_from(length).ok().filter(|_| length <= MAX_FRAME).ok_or_else(|| wrong("a large frame"))?;
    let mask = from.read_u32().await?.to_be_bytes();
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok(Frame { last: first & 0x80 != 0, opcode: first & 0x0f, payload })
}

async fn write_frame(to: &mut (impl AsyncWrite + Unpin), opcode: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![0x80 | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..126), _) => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    to.write_all(&frame).await?;
    to.flush().await
}

/// A runner from a function.
pub(super) fn runner<F, R>(run: F) -> Runner
where
    F: Fn(Exec) -> R + Send + Sync + 'static,
    R: Future<Output = i32> + Send + 'static,
{
    Arc::new(move |exec| run(exec).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as clients send it.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let length = u16::try_from(payload.len()).unwrap();
        let mut frame = vec![first, 0x80 | 0x7e];
        frame.extend(length.to_be_bytes());
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// The frames that come back, unmasked as a server's are.
    async fn answers(mut stream: impl AsyncRead + Unpin) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Ok(first) = stream.read_u8().await {
            let length = match stream.read_u8().await.unwrap() {
                126 => usize::from(stream.read_u16().await.unwrap()),
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            frames.push((first & 0x0f, payload));
        }
        frames
    }

    #[tokio::test]
    async fn a_command_hears_its_input_to_the_end_and_its_output_comes_back() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (mut stdin, to_command) = tokio::io::duplex(PIPE);
        let (from_command, mut stdout) = tokio::io::duplex(PIPE);
        let (errors, mut stderr) = tokio::io::duplex(PIPE);
        let upper = async move {
            let mut text = String::new();
            stdin.read_to_string(&mut text).await.unwrap();
            stdout.write_all(text.to_uppercase().as_bytes()).await.unwrap();
            stderr.write_all(b"done").await.unwrap();
            drop((stdout, stderr));
            7
        };
        // One message in two frames with a ping in between, then the end of the input.
        for frame in [
            masked(BINARY, b"\0on"),
            masked(0x80 | PING, b"?"),
            masked(0x80 | CONTINUATION, b"e"),
            masked(0x80 | BINARY, b"\0 two"),
            masked(0x80 | BINARY, &[ENDED, STDIN]),
        ] {
            client.write_all(&frame).await.unwrap();
        }
        let talking = talk(server, upper, Some(to_command), [from_command, errors]);
        let (talked, mut frames) = tokio::join!(talking, answers(client));
        talked.unwrap();
        assert_eq!(frames.remove(0), (PONG, b"?".to_vec()));
        assert_eq!(frames.pop(), Some((CLOSE, vec![3, 232])));
        let (opcode, outcome) = frames.pop().unwrap();
        let status: Value = serde_json::from_slice(&outcome[1..]).unwrap();
        assert_eq!((opcode, outcome[0], &status["details"]["causes"][0]["message"]), (BINARY, OUTCOME, &json!("7")));
        frames.sort();
        assert_eq!(frames, [(BINARY, b"\x01ONE TWO".to_vec()), (BINARY, b"\x02done".to_vec())]);
    }

    #[tokio::test]
    async fn a_command_ends_with_its_client() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (_stdin, to_command) = tokio::io::duplex(PIPE);
        let ((from_command, stdout), (errors, _stderr)) = (tokio::io::duplex(PIPE), tokio::io::duplex(PIPE));
        let forever = async move {
            let _stdout = stdout;
            std::future::pending::<i32>().await
        };
        client.write_all(&masked(0x80 | CLOSE, &[])).await.unwrap();
        talk(server, forever, Some(to_command), [from_command, errors]).await.unwrap();
    }

    #[test]
    fn the_code_is_told_as_a_kubelet_does() {
        assert_eq!(outcome_of(0)["status"], "Success");
        assert_eq!(outcome_of(3)["reason"], "NonZeroExitCode");
        assert_eq!(outcome_of(3)["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "3" }));
    }
}
