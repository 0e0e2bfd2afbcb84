//! What can be wrong with a worker file, beside what can be wrong with any YAML file.

use crate::config::codes::{About, Code, Severity};

macro_rules! codes {
    ($($name:ident $severity:ident $id:literal $title:literal $why:literal;)*) => {
        $(#[doc = $title] pub const $name: &Code = &Code {
            id: $id, title: $title, why: $why, severity: Severity::$severity, about: About::Worker,
        };)*
        /// All codes about worker files, in the order of the manual.
        pub const WORKER_CODES: &[&Code] = &[$($name),*];
    };
}

codes! {
    UNKNOWN_SETTING Error "unknown_setting" "a setting that does not exist" "A misspelt setting would be ignored, and its default used.";
    UNKNOWN_VARIABLE Warning "unknown_variable" "a variable `MILLSTREAM_…` that is no setting" "It is ignored; other programs may use the prefix, too.";
    BAD_OVERRIDE Error "bad_override" "`--set` without `name=value`" "It is not clear what to set.";
    BAD_SETTING Error "bad_setting" "a setting whose value cannot be read" "A guess would run with something else than was meant.";
    OUT_OF_BOUNDS Error "out_of_bounds" "a setting beyond its bounds" "Every limit has bounds, with a reason.";
    UNRESOLVED_REFERENCE Error "unresolved_reference" "a `${env:…}` or `${file:…}` that has no value" "An empty secret would fail later and elsewhere.";
    PLAIN_SECRET Error "plain_secret" "a secret written into the file or the command line" "Files are committed and command lines are listed; both are read by others.";
    WEAK_TOKEN Error "weak_token" "a token that can be guessed" "It is all that keeps others from reading the tables.";
    PUBLIC_WITHOUT_TOKENS Error "public_without_tokens" "HTTP for everybody in the network" "Whoever reaches the port could read every table.";
    INSECURE_KAFKA Error "insecure_kafka" "a password sent in the clear, or a certificate that is not checked" "Whoever is on the way could read or take over the connection.";
    INCOMPLETE_SECURITY Error "incomplete_security" "security settings that do not fit each other" "The broker would refuse the connection.";
    REFUSED_CLIENT_SETTING Error "refused_client_setting" "a setting of the Kafka client that Millstream keeps for itself" "It would load code, or break a promise such as exactly once.";
    COMMIT_INTERVAL Error "commit_interval" "a commit interval too long for the transaction timeout" "The broker would abort transactions that are merely slow.";
    COMES_LATER Error "comes_later" "a setting for something that comes later" "It would do nothing.";
}
