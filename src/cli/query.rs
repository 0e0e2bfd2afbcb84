//! `millstream query`: asks a running worker over HTTP.

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde_json::value::RawValue;

use crate::cli::{Command, Exit, Io};
use crate::config::secret::{Secret, resolve};
use crate::http::client::{ask, encoded};

pub const COMMAND: Command = Command {
    name: "query",
    summary: "Asks a running worker for rows",
    about: "With a key prints its row as JSON, or says that there is none and exits 1; a key of a windowed table gives its windows. Without a key \
            prints rows as JSON lines, sorted by key: those of all workers, or with --local those of the worker that is asked.",
    examples: ["millstream query product p1", "millstream query product --prefix p --limit 10 --server 127.0.0.1:8080"],
    arguments: |clap| {
        let text = |name: &'static str, value: &'static str, help: &'static str| Arg::new(name).long(name).value_name(value).help(help);
        clap.arg(Arg::new("table").value_name("TABLE").help("The table").required(true))
            .arg(Arg::new("key").value_name("KEY").help("The key of a row").conflicts_with_all(["prefix"]))
            .arg(Arg::new("windows").long("windows").help("The windows of the key").action(ArgAction::SetTrue).requires("key"))
            .arg(text("from", "FROM", "First key; with --windows the first start, as milliseconds or RFC 3339"))
            .arg(text("to", "TO", "The key, or start, before which to end"))
            .arg(text("prefix", "TEXT", "How the keys begin"))
            .arg(text("limit", "ROWS", "At most so many rows").default_value("100").value_parser(value_parser!(u64).range(1..)))
            .arg(
                Arg::new("local")
                    .long("local")
                    .help("Only rows of the worker that is asked")
                    .action(ArgAction::SetTrue)
                    .conflicts_with("key"),
            )
            .arg(text("server", "ADDRESS", "The worker's address").default_value("127.0.0.1:8080"))
            .arg(text("token", "REFERENCE", "Its token: ${env:NAME} or ${file:/path}"))
    },
    run,
};

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let asking = match Asking::of(matches, io) {
        Ok(asking) => asking,
        Err(problem) => {
            io.say(problem);
            return Exit::Unusable;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            io.say(error);
            return Exit::Unusable;
        }
    };
    let outcome = runtime.block_on(async {
        match matches.get_one::<String>("key") {
            Some(key) => asking.row(matches, key, io).await,
            None => asking.rows(matches, io).await,
        }
    });
    outcome.unwrap_or_else(|problem| {
        io.say(problem);
        Exit::Unusable
    })
}

/// A worker to ask.
struct Asking {
    /// `http://host:port`.
    server: String,
    /// `/tables/<name>`.
    table: String,
    token: Option<Secret>,
}

impl Asking {
    fn of(matches: &ArgMatches, io: &Io<'_>) -> Result<Asking, String> {
        let argument = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
        let server = argument("server").trim_end_matches('/');
        let server = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        let token = match matches.get_one::<String>("token") {
            None => None,
            Some(token) => {
                let resolved = resolve(token, &io.environment)
                    .map_err(|unresolved| format!("--token: {}; {}", unresolved.message, unresolved.help))?;
                if !resolved.has_references {
                    return Err("--token: command lines are seen by others; write ${env:NAME} or ${file:/path}".to_owned());
                }
                Some(Secret::new(resolved.text))
            }
        };
        Ok(Asking { server, table: format!("/tables/{}", encoded(argument("table"))), token })
    }

    /// One row, or the windows of one key.
    async fn row(&self, matches: &ArgMatches, key: &str, io: &mut Io<'_>) -> Result<Exit, String> {
        let mut path = format!("{}/{}", self.table, encoded(key));
        if matches.get_flag("windows") {
            path.push_str("/windows?");
            path.push_str(&parameters(matches, &["from", "to"]));
            path.push_str(&format!("limit={}", limit(matches).min(PAGE_ROWS_MAX)));
        }
        let answer = ask(&self.server, &path, self.token.as_ref()).await?;
        if answer.code().as_deref() == Some("no_such_row") {
            io.say(format_args!("no row of this key: {key}"));
            return Ok(Exit::Problems);
        }
        io.data([&answer.good()?[..], b"\n"].concat());
        Ok(Exit::Good)
    }

    /// Rows of all pages up to the limit, a line each.
    async fn rows(&self, matches: &ArgMatches, io: &mut Io<'_>) -> Result<Exit, String> {
        #[derive(serde::Deserialize)]
        struct Page<'a> {
            // As they came, so that fields keep their order and numbers their digits.
            #[serde(borrow)]
            rows: Vec<&'a RawValue>,
            cursor: Option<String>,
        }
        let mut left = limit(matches);
        let scope = if matches.get_flag("local") { "local" } else { "all" };
        let mut cursor = String::new();
        while left > 0 {
            let limit = left.min(PAGE_ROWS_MAX);
            let path = format!("{}?{}scope={scope}&limit={limit}{cursor}", self.table, parameters(matches, &["from", "to", "prefix"]));
            let body = ask(&self.server, &path, self.token.as_ref()).await?.good()?;
            let page: Page<'_> =
                serde_json::from_slice(&body).map_err(|error| format!("{} did not answer as a worker does: {error}", self.server))?;
            for row in &page.rows {
                io.data(format!("{}\n", row.get()));
            }
            if io.has_no_reader() {
                break;
            }
            left = left.saturating_sub(page.rows.len());
            match page.cursor {
                Some(next) if !page.rows.is_empty() => cursor = format!("&cursor={}", encoded(&next)),
                _ => break,
            }
        }
        Ok(Exit::Good)
    }
}

/// Rows that a worker gives at once.
const PAGE_ROWS_MAX: usize = 1000;

fn limit(matches: &ArgMatches) -> usize {
    matches.get_one::<u64>("limit").copied().unwrap_or_default() as usize
}

/// Arguments as parameters of a query, each with `&` behind it.
fn parameters(matches: &ArgMatches, names: &[&str]) -> String {
    let one = |name: &&str| matches.get_one::<String>(name).map(|value| format!("{name}={}&", encoded(value)));
    names.iter().filter_map(one).collect()
}
