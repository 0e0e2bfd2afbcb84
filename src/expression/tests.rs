//! What users see of expressions: problems with their places and words, null, decimals, limits, the table of functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::expression::resolve::read_signature;
use crate::expression::{
    CHAIN_MAX, DEPTH_MAX, ELEMENTS_MAX, FUNCTIONS, Program, SOURCE_BYTES_MAX, STEPS_MAX, Scope, TEXT_BYTES_MAX, compile,
};
use crate::model::{Field, MapKey, Object, Shape, Timestamp, Type, Value};

fn shape(fields: &[(&str, Type)]) -> Arc<Shape> {
    Arc::new(Shape { fields: fields.iter().map(|(name, ty)| Field { name: (*name).into(), ty: ty.clone() }).collect() })
}

fn event_shape() -> Arc<Shape> {
    shape(&[
        ("name", Type::String),
        ("category", Type::nullable(Type::String)),
        ("price", Type::Decimal),
        ("list_price", Type::nullable(Type::Decimal)),
        ("quantity", Type::Int),
        ("weight", Type::Double),
        ("tags", Type::list(Type::String)),
        ("at", Type::Timestamp),
        ("address", Type::nullable(Type::Object(shape(&[("city", Type::String), ("zip", Type::nullable(Type::String))])))),
        ("more", Type::Any),
    ])
}

fn scope() -> Scope {
    Scope::new([("event", Type::Object(event_shape())), ("key", Type::String), ("time", Type::Timestamp)])
}

fn event() -> Value {
    let slots = [
        Value::string("Tea"),
        Value::Null,
        Value::Decimal("9.90".parse().unwrap()),
        Value::Null,
        Value::Int(3),
        Value::Double(0.5),
        Value::List([Value::string("a")].into()),
        Value::Timestamp(Timestamp::new(0, 0).unwrap()),
        Value::Null,
        Value::Map(Arc::new(BTreeMap::from([(MapKey::String("x".into()), Value::Int(7))]))),
    ];
    Value::Object(Object { shape: event_shape(), slots: slots.into() })
}

fn good(source: &str) -> Program {
    compile(source, &scope()).unwrap_or_else(|problems| panic!("`{source}`: {problems:?}"))
}

fn value(source: &str) -> Result<Value, String> {
    let time = Value::Timestamp(Timestamp::new(1, 0).unwrap());
    good(source).evaluate(&[&event(), &Value::string("k"), &time]).map_err(|error| error.message)
}

/// Each problem as one line: kind, the marked text, the message, the help.
fn problems(source: &str) -> Vec<String> {
    let Err(problems) = compile(source, &scope()) else {
        return Vec::new();
    };
    let line = |problem: &crate::expression::ExpressionProblem| {
        let help = problem.help.as_deref().unwrap_or("-");
        format!("{:?} «{}» {} | {help}", problem.kind, &source[problem.at.clone()], problem.message)
    };
    problems.iter().map(line).collect()
}

fn check_problem(source: &str, expected: &str) {
    assert_eq!(problems(source), [expected], "`{source}`");
}

#[test]
fn names_that_are_not_known_are_marked_with_the_nearest_right_one() {
    check_problem("event.nme", "UnknownField «nme» no field `nme` in `event` | did you mean `name`?");
    check_problem("event[\"nme\"]", "UnknownField «\"nme\"» no field `nme` in `event` | did you mean `name`?");
    check_problem("has(event.nme)", "UnknownField «nme» no field `nme` in `event` | did you mean `name`?");
    check_problem("event.?nme", "UnknownField «nme» no field `nme` in `event` | did you mean `name`?");
    check_problem("event.address.cty", "UnknownField «cty» no field `cty` in `event.address` | did you mean `city`?");
    check_problem("evnt.name", "UnknownName «evnt» no variable `evnt` | did you mean `event`?");
    check_problem("price", "UnknownName «price» no variable `price` | did you mean `event.price`? a text is written `\"price\"`");
    check_problem("EUR", "UnknownName «EUR» no variable `EUR` | known here: `event`, `key`, `time`");
    check_problem("size", "UnknownName «size» no variable `size` | `size` is a function: write `size(…)`");
    check_problem("event.name.startWith(\"a\")", "UnknownFunction «startWith» no function `startWith` | did you mean `startsWith`?");
    check_problem("max(1, 2)", "UnknownFunction «max» no function `max` | did you mean `math.greatest`?");
    check_problem("abs(1)", "UnknownFunction «abs» no function `abs` | did you mean `math.abs(…)`?");
    check_problem("zzz(1)", "UnknownFunction «zzz» no function `zzz` | `millstream describe` lists the functions");
    check_problem("event.name.decimal()", "UnknownFunction «decimal» `decimal` is not called like this | write `decimal(event.name)`");
    check_problem("trim(event.name)", "UnknownFunction «trim» `trim` is called on a value | its form is `string.trim() -> string`");
    check_problem(
        "event.tags.name",
        "UnknownField «name» no field `name`: `event.tags` is list<string> | an element is read by its position: `list[0]`; all of them by `list.map(x, …)`",
    );
    check_problem("Money{amount: 1}", "UnknownName «{» there is no message type `Money` | a map is written `{\"field\": value}`");
}

#[test]
fn types_that_do_not_fit_are_marked_with_what_to_do() {
    check_problem(
        "event.price > 1.5",
        "TypeError «event.price > 1.5» `>` cannot compare decimal and double | a double is not exact: convert it by `decimal(…)`, or write the number as `decimal(\"9.90\")`",
    );
    check_problem(
        "event.price * event.weight",
        "TypeError «event.price * event.weight» no `*` for decimal and double | a double is not exact: convert it by `decimal(…)`, or write the number as `decimal(\"9.90\")`",
    );
    check_problem(
        "event.price == \"9.90\"",
        "TypeError «event.price == \"9.90\"» `==` cannot compare decimal and string | write the number as `decimal(\"9.90\")`",
    );
    check_problem(
        "event.quantity + 1.5",
        "TypeError «event.quantity + 1.5» no `+` for int and double | convert the int by `double(…)`, or write it with a point: `2.0`",
    );
    check_problem(
        "event.quantity + 1u",
        "TypeError «event.quantity + 1u» no `+` for int and uint | convert one by `int(…)` or `uint(…)`, or write the number as `2u`",
    );
    check_problem(
        "event.name + event.quantity",
        "TypeError «event.name + event.quantity» no `+` for string and int | convert the number by `string(…)`, or the text by `int(…)` or `decimal(…)`",
    );
    check_problem(
        "event.at > 1700000000",
        "TypeError «event.at > 1700000000» `>` cannot compare timestamp and int | convert the timestamp by `unix_ms(…)`",
    );
    check_problem(
        "event.at > \"2026-01-01\"",
        "TypeError «event.at > \"2026-01-01\"» `>` cannot compare timestamp and string | write the time as `timestamp(\"2026-01-01T00:00:00Z\")`",
    );
    check_problem(
        "event.quantity && true",
        "TypeError «event.quantity» `event.quantity` must be bool, not int | compare it: `event.quantity != 0`",
    );
    check_problem(
        "cond(true, 1, \"a\")",
        "TypeError «\"a\"» both values must be of one type: string here, int before | convert the number by `string(…)`, or the text by `int(…)` or `decimal(…)`",
    );
    check_problem(
        "event.name.startsWith(event.quantity)",
        "TypeError «event.quantity» `startsWith` does not take int here | it takes string: convert it by `string(event.quantity)`",
    );
    check_problem(
        "event.name.substring(1, 2, 3)",
        "TypeError «substring» `substring` does not take 3 arguments | its forms: `string.substring(int) -> string`, `string.substring(int, int) -> string`",
    );
    check_problem(
        "\"a\" in event.name",
        "TypeError «event.name» `in` needs a list or map, not string | write `event.name.contains(\"a\")`",
    );
    check_problem(
        "3 in event.tags",
        "TypeError «3 in event.tags» `in` cannot find int among elements of string | convert the number by `string(…)`, or the text by `int(…)` or `decimal(…)`",
    );
    check_problem(
        "event.name == null",
        "TypeError «event.name == null» `event.name` is string and never null | declare it `optional string` if it may be missing, or leave the test out",
    );
    check_problem("event.tags.all(1, true)", "Syntax «1» `1` must be a simple name | as in `list.all(x, x > 0)`");
    check_problem("event.name.all(x, true)", "TypeError «event.name» `event.name` is string, not a list or map | -");
    check_problem("math.greatest(event.name, 1)", "TypeError «event.name» `event.name` needs numbers, not string | -");
    check_problem("decimal(\"9,90\")", "TypeError «\"9,90\"» `9,90` cannot be read as decimal | -");
    check_problem(
        "timestamp(\"2026-01-01\")",
        "TypeError «\"2026-01-01\"» `2026-01-01` is not a timestamp of the years 1 to 9999, such as 2026-01-01T00:00:00Z | -",
    );
    check_problem("event.name.matches(\"[\")", "TypeError «\"[\"» the pattern cannot be read: unclosed character class | -");
}

#[test]
fn null_is_a_problem_where_a_value_is_needed() {
    let refused = |source: &str, part: &str| {
        let help = format!("write `coalesce({part}, …)`, or test it first: `{part} != null && …`");
        check_problem(source, &format!("TypeError «{part}» `{part}` may be null | {help}"));
    };
    refused("event.category + \"x\"", "event.category");
    refused("event.category.size()", "event.category");
    refused("event.list_price < 3", "event.list_price");
    refused("-event.list_price", "event.list_price");
    refused("event.address.city + \"x\"", "event.address.city");
    refused("event.category != null || event.category.size() > 0", "event.category");
    refused("unix_ms(time) > 0 && event.category.size() > 0", "event.category");
    refused("[1].map(x, event.category.size())", "event.category");
    refused("(event.category != null || event.quantity > 0) && event.category.size() > 0", "event.category");
    refused("event.category == null && event.quantity > 0 || event.category.size() > 0", "event.category");
    refused("!(event.category != null && event.quantity > 0) && event.category.size() > 0", "event.category");
    refused("event.category != null && event.quantity > 0 ? 0 : event.category.size()", "event.category");
    refused("[[1]].map(event, event[0]).size() > 0 && event.category.size() > 0", "event.category");
    for source in [
        "event.category == null || event.category.size() > 0",
        "event.category != null && event.category.size() > 0",
        "null != event.category && true && event.category.size() > 0",
        "has(event.category) && event.category.size() > 0",
        "!has(event.category) || event.category.size() > 0",
        "not(event.category == null) && event.category.size() > 0",
        "event.category == null ? 0 : event.category.size()",
        "cond(has(event.category), event.category.size(), 0)",
        "has(event.address.zip) && event.address.zip.size() > 0 && event.address.city.size() > 0",
        "event.address != null && event.address.city.size() > 0",
        "event.category == \"a\" || event.category != null",
        "event[\"category\"] != null && event.category.size() > 0",
        "coalesce(event.category, \"\").size() > 0",
        "event.?category.orValue(\"\").size() > 0",
        "[event.category].filter(c, c != null).size() == 0",
        "event.category in [\"a\", \"b\"]",
    ] {
        good(source);
    }
}

#[test]
fn null_goes_on_through_conversions_and_fields() {
    let typed = |source: &str, ty: &str, expected: Value| {
        assert_eq!(good(source).ty().to_string(), ty, "`{source}`");
        assert_eq!(value(source), Ok(expected), "`{source}`");
    };
    typed("string(event.list_price)", "optional string", Value::Null);
    typed("string(event.price)", "string", Value::string("9.90"));
    typed("event.address.city", "optional string", Value::Null);
    typed("event.address.zip", "optional string", Value::Null);
    typed("coalesce(event.list_price, event.price)", "decimal", Value::Decimal("9.90".parse().unwrap()));
    typed("coalesce(event.list_price, 0)", "decimal", Value::Decimal(0.into()));
    typed("cond(event.quantity > 5, event.price, null)", "optional decimal", Value::Null);
    typed("has(event.address.zip)", "bool", Value::Bool(false));
    typed("event.?address.?city.hasValue()", "bool", Value::Bool(false));
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_text() {
    let found = problems("evnt.name == \"a\" && event.nme > 3 || foo(event.quantity + 1.5)");
    assert_eq!(found.len(), 4, "{found:#?}");
    for (problem, start) in
        found.iter().zip(["UnknownName «evnt»", "UnknownField «nme»", "UnknownFunction «foo»", "TypeError «event.quantity + 1.5»"])
    {
        assert!(problem.starts_with(start), "{found:#?}");
    }
    // What is wrong once is reported once: the rest goes on as if it were right.
    assert_eq!(problems("event.nme + 1 > 2 && event.name.size() > 0").len(), 1);
}

#[test]
fn syntax_errors_say_where_and_what_to_do() {
    check_problem("event.name == ", "Syntax «» the expression ends too early | a value is expected: a field, a number, a string, a call");
    check_problem("size(event.name", "Syntax «» the expression ends too early | close the `(`");
    check_problem("event.quantity > 1 ? 2", "Syntax «» the expression ends too early | a choice is written `condition ? a : b`");
    check_problem("event.name = \"a\"", "Syntax «=» `=` cannot be read here | compare with `==`");
    check_problem("true and false", "Syntax «and» `and` is not expected here | write `&&`");
    check_problem("true or false", "Syntax «or» `or` is not expected here | write `||`");
    check_problem("not true", "Syntax «true» `true` is not expected here | write `!x` or `not(x)`");
    check_problem("if(true, 1, 2)", "Syntax «if» `if` is a reserved word | write `cond(condition, a, b)` or `condition ? a : b`");
    check_problem("event.in", "Syntax «in» `in` is not expected here | a field of this name is read as `event[\"in\"]`");
    check_problem("event..name", "Syntax «.» `.` is not expected here | a name is expected after the dot");
    check_problem("1 2", "Syntax «2» `2` is not expected here | an operator, such as `+`, `==` or `&&`, or the end is expected");
    check_problem(
        "\"open",
        "Syntax «\"open» `\"open` cannot be read here | close the string with the same quote; a backslash in it is written `\\\\`, or use r\"…\"",
    );
    check_problem(
        "99999999999999999999",
        "Syntax «99999999999999999999» `99999999999999999999` is out of the range of int | a greater or longer number is a decimal: `decimal(\"…\")`",
    );
    check_problem("\"ü\" +\n  ]", "Syntax «]» `]` is not expected here | a value is expected: a field, a number, a string, a call");
    check_problem("", "Syntax «» the expression is empty | write a value, such as `event.name`");
    check_problem("has(event)", "Syntax «event» `has` needs a field | test a variable with `event != null`");
    check_problem("has(event[\"name\"])", "Syntax «event[\"name\"]» `has` needs a field | write `\"name\" in event`");
}

#[test]
fn a_problem_marks_the_whole_part_it_is_about() {
    let marked = |source: &str| problems(source).first().map(|line| line.split(['«', '»']).nth(1).unwrap().to_owned()).unwrap_or_default();
    assert_eq!(marked("1 + (event.name.trim().size() + 2.5) * 3"), "event.name.trim().size() + 2.5");
    assert_eq!(marked("true ? [1, 2][0] : {\"a\": 1}"), "{\"a\": 1}");
    assert_eq!(marked("\"é日\" + string(event.quantity)[0]"), "string(event.quantity)");
    assert_eq!(marked("event.quantity // a comment\n  + \"x\""), "event.quantity // a comment\n  + \"x\"");
    assert_eq!(marked("event.tags[\"a\"]"), "\"a\"");
    assert_eq!(marked("event . nme"), "nme");
}

#[test]
fn what_is_too_long_or_too_deep_is_refused_and_what_is_just_not_is_evaluated() {
    check_problem(
        &"(".repeat(DEPTH_MAX + 1),
        &format!("Limit «(» brackets are nested deeper than {DEPTH_MAX} | split the expression over several fields"),
    );
    let long = format!("\"{}\"", "x".repeat(SOURCE_BYTES_MAX));
    assert!(problems(&long)[0].starts_with("Limit «» the expression has 16386 bytes, at most 16384 are allowed"));
    let sum = |terms: usize| format!("1{}", "+1".repeat(terms));
    assert!(problems(&sum(CHAIN_MAX + 1))[0].starts_with("Limit «+» more than 256 operators follow each other here"));
    assert_eq!(value(&sum(CHAIN_MAX)), Ok(Value::Int(CHAIN_MAX as i64 + 1)));
    let nested = |open: &str, inner: &str, close: &str, depth: usize| format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
    assert_eq!(value(&nested("(", "7", ")", DEPTH_MAX)), Ok(Value::Int(7)));
    assert!(value(&nested("[", "", "]", DEPTH_MAX)).is_ok());
    assert_eq!(value(&nested("[1].all(x, ", "true", ")", DEPTH_MAX - 1)), Ok(Value::Bool(true)));
    assert_eq!(value(&nested("cel.bind(x, 1, ", "x", ")", DEPTH_MAX)), Ok(Value::Int(1)));
    assert_eq!(value(&nested("(1 + 1 + ", "1", ")", DEPTH_MAX)), Ok(Value::Int(2 * DEPTH_MAX as i64 + 1)));
    assert_eq!(value(&nested("true ? 1 : ", "2", "", DEPTH_MAX)), Ok(Value::Int(1)));
    assert!(problems(&nested("true ? 1 : ", "2", "", 500))[0].starts_with("Limit"));
    // `&&` and `||` are balanced by the parser, so a long list of conditions is not deep.
    assert_eq!(value(&format!("{}true", "event.quantity > 1 && ".repeat(500))), Ok(Value::Bool(true)));
    assert_eq!(value(&format!("{}true", "!".repeat(4_001))), Ok(Value::Bool(false)));
}

#[test]
fn results_and_steps_have_limits() {
    let doubled = |start: &str, times: usize| {
        let open: String = (0..times).map(|i| format!("cel.bind(x{}, {}, ", i + 1, start.replace('@', &format!("x{i}")))).collect();
        format!("cel.bind(x0, [1, \"text\"], {open}x{times}.size(){}", ")".repeat(times + 1))
    };
    let too_many = format!("the expression makes a list or map of more than {ELEMENTS_MAX} elements");
    assert_eq!(value(&doubled("@ + @", 20)), Err(too_many.clone()));
    assert_eq!(value(&doubled("[@, @]", 40)), Err(too_many.clone()));
    assert_eq!(value(&doubled("{\"a\": @, \"b\": @}", 40)), Err(too_many));
    let text = format!("{}x{}", "cel.bind(x, x + x, ".repeat(30), ")".repeat(30));
    let too_long = format!("the expression makes a text of more than {TEXT_BYTES_MAX} bytes");
    assert_eq!(value(&format!("cel.bind(x, \"ab\", {text})")), Err(too_long.clone()));
    let many = "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]";
    let replaced = format!("{many}.map(x, \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\").join()");
    assert_eq!(value(&format!("cel.bind(t, {replaced}, t.replace(\"a\", t).replace(\"a\", t))")), Err(too_long));
    let visits = format!("{many}.all(a, {many}.all(b, {many}.all(c, {many}.all(d, true))))");
    assert_eq!(value(&visits), Err(format!("the expression visits more than {STEPS_MAX} elements")));
    let kilobyte = format!("{many}.map(x, \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\").join()");
    let texts = format!("cel.bind(t, {kilobyte}, {many}.map(a, {many}.map(b, {many}.map(c, {many}.map(d, t).join()))).size())");
    assert_eq!(value(&texts), Err(format!("the expression visits more than {STEPS_MAX} elements")), "a gigabyte of texts");
    let big = "event.name.matches(\"(a{1,100}){1,100}\")";
    assert!(problems(big)[0].contains("the pattern needs more than"), "{:?}", problems(big));
}

#[test]
fn objects_of_an_equal_or_another_shape_are_read_by_name() {
    let program = compile("event.quantity + 1", &scope()).unwrap();
    // As many fields in another order, so that a slot of the declared shape is another field.
    let mut fields: Vec<(&str, Type)> = vec![("a", Type::Int); 9];
    fields.insert(0, ("quantity", Type::Int));
    let other = shape(&fields);
    let mut slots = vec![Value::Int(99); 9];
    slots.insert(0, Value::Int(5));
    let given = |value: &Value| program.evaluate(&[value, &Value::Null, &Value::Null]).map_err(|error| error.message);
    assert_eq!(given(&event()), Ok(Value::Int(4)));
    assert_eq!(given(&Value::Object(Object { shape: other, slots: slots.into() })), Ok(Value::Int(6)));
    let map = BTreeMap::from([(MapKey::String("quantity".into()), Value::Int(6))]);
    assert_eq!(given(&Value::Map(Arc::new(map))), Ok(Value::Int(7)));
    assert_eq!(given(&Value::Map(Arc::default())), Err("no such key: `quantity`".to_owned()));
    assert_eq!(given(&Value::Null), Err("no such key: `quantity`, because null has no fields".to_owned()));
    assert_eq!(program.evaluate(&[]).map_err(|error| error.message), Err("a variable of the expression has no value".to_owned()));
}

#[test]
fn a_program_knows_which_variables_it_uses() {
    let uses = |source: &str| (0..4).map(|slot| good(source).uses(slot)).collect::<Vec<_>>();
    assert_eq!(uses("event.name"), [true, false, false, false]);
    assert_eq!(uses("[1].map(event, event)[0]"), [false, false, false, false]);
    assert_eq!(uses("time > event.at"), [true, false, true, false]);
    assert_eq!(uses("event[\"name\"]"), [true, false, false, false]);
    assert_eq!(uses("math.abs(1)"), [false, false, false, false]);
}

#[test]
fn programs_are_shared_between_threads() {
    fn is_shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    let program = good("event.name");
    is_shared(&program);
    assert_eq!(program.source(), "event.name");
    assert_eq!(format!("{program:?}"), "Program { source: \"event.name\", ty: String, .. }");
}

#[test]
fn constants_are_computed_when_the_file_is_read_unless_they_fail() {
    // An error in what is never reached is none.
    assert_eq!(value("true || 1 / 0 > 0"), Ok(Value::Bool(true)));
    assert_eq!(value("false ? [1][5] : 2"), Ok(Value::Int(2)));
    assert_eq!(value("1 / 0"), Err("division by zero".to_owned()));
    assert!(problems("true || decimal(\"x\") > 1")[0].contains("cannot be read as decimal"));
}

#[test]
fn every_example_of_the_manual_is_true() {
    for function in FUNCTIONS {
        let (example, result) = function.example;
        assert_eq!(value(example), value(result), "{}: `{example}`", function.name);
        assert!(value(example).is_ok(), "{}: `{example}`", function.name);
        assert!(function.summary.ends_with('.') && function.summary.len() < 200, "{}", function.name);
    }
}

#[test]
fn every_signature_of_the_table_is_read_by_the_checker() {
    let mut forms = Vec::new();
    for function in FUNCTIONS.iter().filter(|function| !function.is_special()) {
        for text in function.signatures {
            let signature = read_signature(text, function.name).unwrap_or_else(|| panic!("`{text}` cannot be read"));
            forms.push(format!("{}/{}/{text}", function.name, signature.parameters.len()));
        }
    }
    let count = forms.len();
    forms.sort();
    forms.dedup();
    assert_eq!(forms.len(), count, "a form stands in the table twice");
    assert!(count > 150, "only {count} forms");
}
