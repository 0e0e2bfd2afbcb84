//! The examples in `topologies/` and in the manual pass `check`, and what is made of them.

use std::fs;
use std::path::Path;

use millstream::config::render::Look;
use millstream::config::render::render;
use millstream::topology;
use millstream::topology::Loaded;
use millstream::topology::explain;

fn load(text: &str, name: &str) -> Loaded {
    let (loaded, diagnostics) = topology::load(text, name);
    assert!(diagnostics.is_empty(), "{}", render(&diagnostics, Look::Plain));
    loaded.unwrap()
}

fn product() -> Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies/product.yaml");
    load(&fs::read_to_string(path).unwrap(), "product.yaml")
}

#[test]
fn explains_the_product_topology() {
    let plan = topology::plan(product().topology);
    insta::assert_snapshot!("product_text", explain::text(&plan));
    insta::assert_snapshot!("product_mermaid", explain::mermaid(&plan));
    insta::assert_snapshot!("product_dot", explain::dot(&plan));
    insta::assert_snapshot!("product_json", serde_json::to_string_pretty(&explain::json(&plan)).unwrap());
}
