//! What the documentation lists is what the code has. A list is written by hand, once, in the code; here it is compared.

use millstream::metrics::METRICS;

const OPERATIONS: &str = include_str!("../docs/operations.md");

#[test]
fn the_table_of_metrics_is_the_one_in_the_code() {
    let (_, after) = OPERATIONS.split_once("<!-- metrics -->\n").expect("the table begins");
    let (found, _) = after.split_once("<!-- end of metrics -->").expect("the table ends");
    let mut expected = String::from("| metric | labels | counts | when it rises |\n|---|---|---|---|\n");
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        expected += &format!("| `{}` | {} | {} | {} |\n", metric.name, labels.join(", "), metric.meaning, metric.action);
    }
    assert!(found == expected, "the table in docs/operations.md should read:\n{expected}");
}
