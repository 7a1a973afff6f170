//! `shunt links rm`.

use http::Method;

use crate::client::ApiClient;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Codes or short URLs
    #[arg(required = true)]
    codes: Vec<String>,
    /// The domain they live on; left out, the default one
    #[arg(long)]
    domain: Option<String>,
}

pub(super) async fn run(args: &Args, client: &ApiClient) -> anyhow::Result<()> {
    for code in &args.codes {
        let path = super::path_of(code, args.domain.as_deref());
        client
            .json(Method::DELETE, &path, &[], None)
            .await
            .map_err(|error| error.context(format!("delete {code}")))?;
        eprintln!("{code} is deleted");
    }
    Ok(())
}
