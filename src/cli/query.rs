//! `millstream query`: asks a running worker over HTTP.

use std::time::Duration;

use bytes::Bytes;
use clap::{Arg, ArgMatches, value_parser};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::cli::{Command, Exit, Io};

pub const COMMAND: Command = Command {
    name: "query",
    summary: "Asks a running worker for a row, or for a page of rows",
    about: "Prints the worker's answer: the row as JSON, or with no key a page of rows. Exit code 1 if there is no such row. A token is read from MILLSTREAM_TOKEN.",
    examples: ["millstream query product p1", "millstream query product --url http://127.0.0.1:8080 --limit 10"],
    arguments: |clap| {
        clap.arg(Arg::new("table").value_name("TABLE").help("A table of the topology").required(true))
            .arg(Arg::new("key").value_name("KEY").help("The row's key"))
            .arg(Arg::new("url").long("url").value_name("URL").help("A worker's address").default_value("http://127.0.0.1:8080"))
            .arg(
                Arg::new("limit")
                    .long("limit")
                    .value_name("N")
                    .help("Rows of a page")
                    .default_value("100")
                    .value_parser(value_parser!(u32).range(1..=1000)),
            )
    },
    run,
};

const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 16 << 20;

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let text = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
    let mut uri = format!("{}/tables/{}", text("url").trim_end_matches('/'), encode(text("table")));
    match matches.get_one::<String>("key") {
        Some(key) => uri.push_str(&format!("/{}", encode(key))),
        None => uri.push_str(&format!("?limit={}", matches.get_one::<u32>("limit").copied().unwrap_or(100))),
    }
    let token = io.environment.variable("MILLSTREAM_TOKEN").map(str::to_owned);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            io.say(format_args!("cannot start: {error}"));
            return Exit::Unusable;
        }
    };
    let answer = runtime.block_on(async { tokio::time::timeout(TIMEOUT, ask(&uri, token.as_deref())).await });
    match answer {
        Ok(Ok((200, body))) => {
            io.data(&body);
            io.data("\n");
            Exit::Good
        }
        Ok(Ok((404, body))) => {
            io.say(String::from_utf8_lossy(&body));
            Exit::Problems
        }
        Ok(Ok((_, body))) => {
            io.say(String::from_utf8_lossy(&body));
            Exit::Unusable
        }
        Ok(Err(problem)) => {
            io.say(format_args!("cannot ask {uri}: {problem}; is a worker running there?"));
            Exit::Unusable
        }
        Err(_) => {
            io.say(format_args!("cannot ask {uri}: no answer within {TIMEOUT:?}"));
            Exit::Unusable
        }
    }
}

async fn ask(uri: &str, token: Option<&str>) -> Result<(u16, Bytes), String> {
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let mut request = http::Request::get(uri);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
    let answer = client.request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    Ok((status, body.to_bytes()))
}

/// Percent-encodes a path segment.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
