//! A fresh machine: nothing configured, and within a minute a short link that redirects.

use serde_json::json;
use shunt_cluster::{Request, Shunt, Spec, until};

use crate::kit::{self, SOON};

#[test]
fn a_first_start_prints_an_address_a_setup_link_and_a_curl_line_that_works() {
    let shunt = Shunt::started().unwrap();
    let line = until(SOON, "the curl line", || {
        let said = shunt.said();
        let line = said.lines().map(str::trim).find(|line| line.starts_with("curl "))?;
        Some(line.to_owned())
    })
    .unwrap();
    let said = shunt.said();
    assert!(said.contains(&shunt.url("")), "no address in {said}");
    assert!(kit::setup_link(&shunt).starts_with(&shunt.url("")), "{said}");

    // Pasted into a shell as it stands.
    let spec = Spec::new("paste", "sh").args(["-c", &line]);
    let answer = spec.run(shunt.files(), SOON).unwrap().ok().unwrap();
    let created: serde_json::Value =
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{line}: {error}: {answer}"));
    let short = created["short_url"].as_str().unwrap();
    let target = created["target"].as_str().unwrap();
    let code = short.rsplit('/').next().unwrap();
    assert_eq!(short, shunt.url(&format!("/{code}")));
    kit::leads(&shunt, code, target);
}

#[test]
fn the_setup_link_makes_one_admin_key_and_no_second() {
    let mut shunt = Shunt::started().unwrap();
    let link = kit::setup_link(&shunt);
    let page = kit::get(&shunt, link.strip_prefix(&shunt.url("")).unwrap());
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.text().contains("<form"), "the link shows a form: opening it uses nothing up");

    let key = kit::admin(&shunt);
    let list = shunt.ask(&Request::get("/api/v1/links").key(&key)).unwrap();
    assert_eq!(list.status, 200, "{list:?}");

    let secret = &link[link.find("setup_").unwrap()..];
    let form = Request::new("POST", "/setup")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(format!("token={secret}"));
    let again = shunt.ask(&form).unwrap();
    assert!((400..500).contains(&again.status), "{again:?}");
    assert_eq!(kit::key_in(&again.text()), None);

    // With an admin there is no setup link any more, and the key goes on working.
    shunt.stop().unwrap();
    shunt.start().unwrap();
    let list = shunt.ask(&Request::get("/api/v1/links").key(&key)).unwrap();
    assert_eq!(list.status, 200, "{list:?}");
    assert!(!shunt.said().contains("setup_"), "{}", shunt.said());
}

#[test]
fn the_data_directory_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let shunt = Shunt::started().unwrap();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(shunt.data()) & 0o077, 0, "the directory");
    for entry in std::fs::read_dir(shunt.data()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn a_stop_is_clean_and_a_start_finds_everything_again() {
    let mut shunt = Shunt::started().unwrap();
    kit::link(&shunt, "kept", "https://example.com/kept?x=1#y");
    let status = shunt.stop().unwrap();
    assert_eq!(status.code(), Some(0), "{}", shunt.said());
    shunt.start().unwrap();
    kit::leads(&shunt, "kept", "https://example.com/kept?x=1#y");
    let again = kit::create(&shunt, &json!({"code": "kept", "target": "https://example.com/"}));
    assert_eq!(again.status, 409, "{again:?}");
}
