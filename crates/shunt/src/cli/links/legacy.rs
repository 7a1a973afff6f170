//! `shunt links import --legacy`: takes another service's links over.

use serde_json::{Value, json};

use super::import::Args;
use crate::cli::exit::{Code, Failure};
use crate::cli::local;
use crate::cli::output::{self, Progress};
use crate::client::ApiClient;

pub(super) async fn run(args: &Args, client: &ApiClient) -> anyhow::Result<()> {
    let mut progress = Progress::new("rows", None);
    let wanted = json!({ "restart": args.restart, "keys": args.keys });
    let report = local::call(client, "/local/legacy", &wanted, &mut progress).await?;
    let seconds = progress.elapsed().as_secs_f64();
    drop(progress);
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or_default();
    let names = ["rows", "imported", "exists", "refused", "keys"];
    let [rows, imported, exists, refused, keys] = names.map(number);
    if args.json {
        let mut shown: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), number(name).into())).collect();
        shown.insert("seconds".to_owned(), seconds.into());
        output::json(&Value::Object(shown))?;
    } else {
        output::line(&format!(
            "{rows} rows: {imported} taken over, {exists} there already, {refused} refused; \
             {keys} keys for the pool ({seconds:.1} s)"
        ))?;
    }
    if refused > 0 {
        let text = format!("{refused} rows were refused; see above");
        return Err(Failure::error(Code::Data, text));
    }
    Ok(())
}
