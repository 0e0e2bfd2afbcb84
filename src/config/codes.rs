//! The list of everything that can be wrong with a file, each with a code that stays the same for ever.
//!
//! A row here, a file `tests/diagnostics/<code>.yaml` with its exact text, and the same file after taking the hint.

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The file cannot run.
    Error,
    /// The file runs, but not as its author thinks.
    Warning,
}

/// What kind of file a code is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    Topology,
    Worker,
}

/// A kind of mistake.
#[derive(PartialEq, Eq, Debug)]
pub struct Code {
    /// Stable, in lower case: users search for it.
    pub id: &'static str,
    pub title: &'static str,
    /// Why it matters.
    pub why: &'static str,
    pub severity: Severity,
    pub about: About,
}

macro_rules! codes {
    ($list:ident, $about:ident: $($name:ident $severity:ident $id:literal $title:literal $why:literal;)*) => {
        $(#[doc = $title] pub const $name: &Code = &Code {
            id: $id, title: $title, why: $why, severity: Severity::$severity, about: About::$about,
        };)*
        /// All codes about this kind of file, in the order of the manual.
        pub const $list: &[&Code] = &[$($name),*];
    };
}

codes! { TOPOLOGY_CODES, Topology:
    // The text is not what it seems.
    YAML_SYNTAX Error "yaml_syntax" "the file is not YAML" "Nothing after this place can be read.";
    YAML_LIMIT Error "yaml_limit" "the file is too large or too deep" "Files come from people; a limit keeps a broken generator from eating memory.";
    SEVERAL_DOCUMENTS Error "several_documents" "more than one YAML document in a file" "One file describes one app.";
    UNKNOWN_ALIAS Error "unknown_alias" "a YAML alias without its anchor" "`*` at the start of a value is YAML's, not the expression's.";
    UNQUOTED_EXPRESSION Error "unquoted_expression" "YAML reads a part of this value as its own syntax" "Quoted, the whole value reaches the expression language.";
    LEADING_EXCLAMATION Error "leading_exclamation" "YAML reads a leading `!` as a tag" "The negation would vanish and the condition would mean its opposite.";
    COMMENT_CUTS_EXPRESSION Error "comment_cuts_expression" "YAML ends the value at ` #`" "The rest of the expression would vanish silently.";
    COMMA_CUTS_EXPRESSION Error "comma_cuts_expression" "a comma inside `{ }` or `[ ]` ends the value" "The rest of the expression would become keys of its own.";
    EXPRESSION_IS_MAP Error "expression_is_map" "a YAML map or list where an expression belongs" "`{` at the start of a value is YAML's, not the expression's.";
    // Shape.
    UNKNOWN_KEY Error "unknown_key" "a key that the language does not have" "A misspelt key would be ignored, and its default used.";
    DUPLICATE_KEY Error "duplicate_key" "the same key twice" "Only one of the two could hold.";
    MISSING_KEY Error "missing_key" "a key that must be there" "There is no default that would be right.";
    EMPTY_VALUE Error "empty_value" "a key without a value" "Nothing is not a default: leave the key out for that.";
    WRONG_SHAPE Error "wrong_shape" "a value of another form than this key takes" "The key cannot be understood.";
    NOT_YET Error "not_yet" "a part of the language that comes later" "It is planned, and refused until it works.";
    UNKNOWN_CHOICE Error "unknown_choice" "a value that is not one of the choices" "The choices are fixed.";
    BAD_VERSION Error "bad_version" "a version of the language that this program does not know" "It may mean things differently.";
    BAD_NAME Error "bad_name" "a name with other characters than a-z, 0-9 and _" "Names end up in topics, paths, Redis keys and metrics.";
    BAD_TOPIC Error "bad_topic" "a topic or app name that Kafka would refuse" "Kafka allows A-Z a-z 0-9 . _ - in the name of a topic.";
    BAD_DURATION Error "bad_duration" "a duration that cannot be read" "Durations carry their unit: 500ms, 30s, 1m, 2h, 7d.";
    BAD_NUMBER Error "bad_number" "a number that cannot be read or is out of bounds" "Every limit has bounds.";
    BAD_BOOLEAN Error "bad_boolean" "neither true nor false" "YAML 1.2 knows only true and false.";
    BAD_TYPE Error "bad_type" "a type of a field that the language does not have" "Expressions are checked against it.";
    DUPLICATE_NAME Error "duplicate_name" "one name for two things" "`from` could mean either.";
    // References.
    UNKNOWN_SOURCE Error "unknown_source" "a source that is not in the file" "Nothing would ever arrive.";
    UNKNOWN_TABLE Error "unknown_table" "a table that is not in the file" "There are no rows to take.";
    UNKNOWN_OUTPUT Error "unknown_output" "an output that is not in the file" "Nothing would ever be written there.";
    WRONG_KIND Error "wrong_kind" "a thing of another kind than belongs here" "A view shows a table, a table is fed by sources.";
    CYCLE Error "cycle" "tables that feed each other in a circle" "A change would travel for ever.";
    // Expressions.
    EXPRESSION_SYNTAX Error "expression_syntax" "an expression that cannot be read" "It would fail on every record.";
    EXPRESSION_LIMIT Error "expression_limit" "an expression that is too long or too deep" "Expressions always end, and quickly.";
    UNKNOWN_NAME Error "unknown_name" "a name that is not in scope here" "It would fail on every record.";
    UNKNOWN_FIELD Error "unknown_field" "a field that is not declared" "It would fail on every record.";
    UNKNOWN_FUNCTION Error "unknown_function" "a function that does not exist" "It would fail on every record.";
    TYPE_ERROR Error "type_error" "an operation on values of the wrong type" "It would fail on every record.";
    WRONG_RESULT Error "wrong_result" "an expression that yields another type than is needed here" "It would fail on every record.";
    MAY_BE_NULL Error "may_be_null" "a value that may be null where null is no answer" "It would fail on the first record without it.";
    NOT_ORDERED Error "not_ordered" "values that have no order" "Which one is greater is not defined.";
    BAD_TEMPLATE Error "bad_template" "a template with a brace that does not match" "Braces hold expressions; `{{` and `}}` are braces themselves.";
    // Sources.
    KEY_MISMATCH Error "key_mismatch" "keys of different types" "The same key would have different bytes, and rows would never meet.";
    NEEDS_JSON Error "needs_json" "`fields` of values that have no fields" "Only JSON objects have named fields.";
    INTERNAL_TOPIC Error "internal_topic" "a topic that the app uses for itself" "State would be overwritten.";
    UNUSED_SOURCE Warning "unused_source" "a source that feeds nothing" "It is not read.";
    // Tables.
    TWO_OWNERS Error "two_owners" "two owners that read different topics" "Between two topics there is no order, so they could not agree whether a row exists.";
    NO_OWNER Error "no_owner" "contributors without an owner" "No row would ever be complete.";
    MISSING_ROLE Error "missing_role" "several sources and a role that is not said" "Which source makes a row exist cannot be guessed.";
    WINDOW_WITHOUT_GRACE Error "window_without_grace" "a window without grace where late records can come" "Without it nobody has decided how long a window stays open.";
    WINDOW_TIMES Error "window_times" "times of a window that do not fit each other" "A window must be kept until it is closed.";
    NEEDS_WINDOW Error "needs_window" "something that only windows have, in a table without one" "It would do nothing.";
    NOT_IN_WINDOW Error "not_in_window" "something that windowed tables do not have" "It would do nothing.";
    FIELD_SET_TWICE Error "field_set_twice" "one field set by two sources" "Between two sources there is no order, so the last one is not defined.";
    UNDECLARED_FIELD Error "undeclared_field" "a field that `fields` does not declare" "Where fields are declared, they are all declared.";
    FIELD_NEVER_SET Warning "field_never_set" "a declared field that no source sets" "It is null for ever.";
    FIELD_TYPE Error "field_type" "a declared type that the expression does not have" "Rows would not hold what they say.";
    RESERVED_FIELD Error "reserved_field" "a field with a name that rows use themselves" "Two fields would have one name.";
    EMPTY_TABLE Error "empty_table" "a table without fields" "There is nothing to show.";
    BAD_RULE Error "bad_rule" "a field rule that cannot be understood" "How records become one value must be clear.";
    DEDUPE_WITHOUT_ID Error "dedupe_without_id" "`dedupe` by an id that a source does not have" "Its records could not be told apart.";
    REKEYING Error "rekeying" "a table keyed by something else than its sources' keys" "Records of one row would be in different partitions.";
    ONLY_FOR_CONTRIBUTORS Error "only_for_contributors" "waiting for an owner in an owner" "An owner's record makes the row exist at once.";
    NOT_WITH_THIS Error "not_with_this" "two settings that exclude each other" "One of them would do nothing.";
    // Views.
    NOT_FOR_SHAPE Error "not_for_shape" "a setting that this Redis shape does not have" "It would do nothing.";
    CONSTANT_REDIS_KEY Error "constant_redis_key" "one Redis key for all rows" "Each row would overwrite the one before.";
    KEY_WITHOUT_WINDOW Error "key_without_window" "one Redis key for all windows" "Each window would overwrite the one before.";
    SAME_REDIS_KEY Error "same_redis_key" "two views that write the same Redis keys" "They would overwrite each other.";
    // Outputs.
    STALE_NOT_EMITTED Error "stale_not_emitted" "an output of stale records that are not emitted" "Nothing would ever be written there.";
    STALE_GOES_NOWHERE Warning "stale_goes_nowhere" "stale records that are emitted to nobody" "They are counted and then gone.";
    TOPIC_LOOP Error "topic_loop" "an output to a topic that the app reads" "Each record would cause the next, for ever.";
    // Tests.
    BAD_STEP Error "bad_step" "a step of a test that cannot be understood" "A test must say one thing at a time.";
    DUPLICATE_TEST Error "duplicate_test" "two tests with one name" "`--filter` could not tell them apart.";
    UNKNOWN_METRIC Error "unknown_metric" "a metric that does not exist" "It would be 0 for ever.";
    UNKNOWN_REASON Error "unknown_reason" "a reason that no dead letter has" "None would ever be found.";
    SEND_WITHOUT_KEY Error "send_without_key" "a record without a key" "It cannot be taken from `keyed_by`, because the source has none.";
}

/// A code by its id.
pub fn code(id: &str) -> Option<&'static Code> {
    TOPOLOGY_CODES.iter().copied().find(|code| code.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_there_once() {
        let mut ids: Vec<&str> = TOPOLOGY_CODES.iter().map(|code| code.id).collect();
        ids.sort_unstable();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
