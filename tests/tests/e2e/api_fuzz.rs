//! The API against its own description: schemathesis sends what the description allows and what it
//! forbids; no answer is a 5xx, and none is other than described.

use std::time::Duration;

use shunt_cluster::{Shunt, Spec};
use shunt_tests::switch::tool;

use crate::kit;

#[test]
fn schemathesis_finds_no_5xx_and_no_mismatch() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    for i in 0..5 {
        kit::link(&shunt, &format!("s{i}"), "https://example.com/");
    }
    let examples = kit::count(400).to_string();
    let mut figures = Vec::new();
    // Keys last and by themselves: sooner or later the fuzzer revokes the key it works with.
    let one_key = "/api/v1/keys/{id}";
    for which in [["--exclude-path", one_key], ["--include-path", one_key]] {
        let spec = Spec::new("schemathesis", tool("schemathesis/bin/schemathesis"))
            .args(["run", &shunt.url("/openapi.json")])
            .args(["--header", &format!("Authorization: Bearer {key}")])
            .args(["--max-examples", &examples, "--seed", "1", "--workers", "2"])
            .args(["--generation-database", "none", "--request-timeout", "20", "--no-color"])
            .args(which)
            .args([
                "--checks",
                "not_a_server_error,status_code_conformance,content_type_conformance,\
                 response_headers_conformance,response_schema_conformance",
            ]);
        let finished = spec.run(shunt.files(), Duration::from_secs(3600)).unwrap();
        assert_eq!(finished.code(), 0, "{}\n{}", finished.stdout, finished.stderr);
        let lines = finished.stdout.lines().map(str::trim);
        let wanted = lines.filter(|line| line.contains("generated,"));
        figures.extend(wanted.map(ToOwned::to_owned));
    }
    kit::figure("schemathesis", &figures.join("; "));
}

/// The description is complete enough to be called one, and the page that shows it loads nothing
/// from outside.
#[test]
fn the_description_and_its_page_are_served() {
    let shunt = kit::shared();
    let answer = kit::get(shunt, "/openapi.json");
    assert_eq!(answer.status, 200);
    let document = answer.json().unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    for path in
        ["/api/v1/links", "/api/v1/links/{code}", "/api/v1/links:batch", "/api/urls", "/api/short"]
    {
        assert!(document["paths"].get(path).is_some(), "{path} is not described");
    }
    let page = kit::get(shunt, "/docs");
    assert_eq!(page.status, 200, "{page:?}");
    assert!(!page.text().contains("src=\"http"), "{page:?}");
}
