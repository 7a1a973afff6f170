//! What goes over the wire, and how requests become drafts.
//!
//! Requests are read by [`Fields`], so that every error names its field; the `…Body` types are
//! their documentation in OpenAPI, and a test holds the two together.

use serde::Serialize;
use shunt_domain::ports::{ApiKey, Totals};
use shunt_domain::{Link, OwnerId, Stored, Version};
use shunt_engine::links::{
    Draft, FieldError, ImportRow, Links, PatchDraft, RestoreDraft, TombstoneDraft,
};
use utoipa::ToSchema;

use super::json::Fields;
use super::time::Instant;

/// A link.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkView {
    /// The code.
    #[schema(pattern = "^[0-9A-Za-z_-]{1,128}$", example = "abc")]
    code: String,
    /// The address that people follow.
    #[schema(example = "https://go.example/abc")]
    short_url: String,
    /// Where it leads: printable ASCII, exactly what `Location` holds.
    #[schema(max_length = 8192, example = "https://example.com/page")]
    target: String,
    /// Whether the target's host can be mistaken for another; visitors see a preview first.
    mixed_script: bool,
    /// The host name it lives on; null for the default domain.
    domain: Option<String>,
    /// A name for people.
    title: Option<String>,
    /// Sorted.
    #[schema(max_items = 32)]
    tags: Vec<String>,
    /// Whose link it is; 0 for links made without a key.
    #[schema(minimum = 0)]
    owner: u64,
    /// 1 when created, one more at each change; the `ETag` is this number in quotes.
    #[schema(minimum = 1)]
    version: u64,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Instant,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Instant,
    /// Before this it answers as if it did not exist.
    #[schema(value_type = Option<String>, format = DateTime)]
    valid_from: Option<Instant>,
    /// From this on it is gone.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Instant>,
    /// How many redirects it serves in all.
    #[schema(minimum = 1)]
    max_clicks: Option<u64>,
    /// The redirect's status code.
    #[schema(value_type = StatusCodeSchema)]
    status_code: u16,
    /// Whether the visitor's query is appended to the target's.
    forward_query: bool,
    /// A disabled link answers as one that is gone.
    enabled: bool,
}

impl LinkView {
    pub(crate) fn of(links: &Links, link: &Link) -> Self {
        let data = &link.data;
        Self {
            code: link.code().to_string(),
            short_url: links.short_url(link.key()),
            target: data.target.to_string(),
            mixed_script: data.target.mixed_script(),
            domain: links.domains().host(link.domain()).map(ToOwned::to_owned),
            title: data.title.as_deref().map(ToOwned::to_owned),
            tags: data.tags.iter().map(ToString::to_string).collect(),
            owner: data.owner.0,
            version: link.version.0,
            created_at: Instant(data.created_at),
            updated_at: Instant(link.updated_at),
            valid_from: data.valid_from.map(Instant),
            expires_at: data.expires_at.map(Instant),
            max_clicks: data.max_clicks.map(Into::into),
            status_code: data.status.code(),
            forward_query: data.forward_query,
            enabled: data.enabled,
        }
    }
}

/// One page of links.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkPage {
    /// The links of this page. May be fewer than asked for, even none, while `next` is there.
    pub(crate) links: Vec<LinkView>,
    /// The cursor of the next page; null at the end.
    pub(crate) next: Option<String>,
}

/// A link to be made.
#[derive(Debug, ToSchema)]
#[schema(
    as = LinkCreate,
    example = json!({"target": "https://example.com/page", "code": "abc"}),
)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "documentation of what `draft` reads")]
pub(crate) struct CreateBody {
    /// Where it leads: an absolute http or https URL of at most 8,192 bytes, without spaces,
    /// backslashes, control characters or credentials, and not to this service itself.
    #[schema(
        min_length = 3,
        max_length = 8192,
        pattern = r"^[A-Za-z][A-Za-z0-9+.\-]*:[^\s\\]+$",
        example = "https://example.com/page"
    )]
    target: String,
    /// The wanted code; left out, one is generated. Words of the service itself are refused.
    #[schema(min_length = 1, max_length = 128, pattern = "^[0-9A-Za-z_-]{1,128}$")]
    code: Option<String>,
    /// The host name it lives on; left out, the default domain. An admin registers a new one by
    /// using it.
    #[schema(min_length = 1, max_length = 253, example = "go.example")]
    domain: Option<String>,
    /// A name for people.
    #[schema(max_length = 512, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    title: Option<String>,
    /// Each 1 to 64 characters without commas and control characters; kept lower-case.
    #[schema(required = false, nullable = false, max_items = 32)]
    tags: Vec<TagText>,
    /// Before this it answers as if it did not exist.
    #[schema(format = DateTime)]
    valid_from: Option<String>,
    /// From this on it is gone. Later than now and than `valid_from`.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// How many redirects it serves in all.
    #[schema(minimum = 1, maximum = 9223372036854775807u64)]
    max_clicks: Option<u64>,
    /// The redirect's status code; left out, 302.
    status_code: Option<StatusCodeSchema>,
    /// Whether the visitor's query is appended to the target's; left out, false.
    #[schema(required = false)]
    forward_query: bool,
    /// A disabled link answers as one that is gone; left out, true.
    #[schema(required = false)]
    enabled: bool,
    /// Whose link it is: admin keys only; left out, the key's own owner.
    #[schema(required = false, minimum = 0, maximum = 9223372036854775807u64)]
    owner: u64,
}

/// A tag.
#[derive(Debug, ToSchema)]
#[schema(
    as = Tag,
    min_length = 1,
    max_length = 64,
    pattern = r"^[^,\u0000-\u001f\u007f-\u009f]*$",
    value_type = String
)]
pub(crate) struct TagText(#[expect(dead_code, reason = "documentation")] String);

/// 301, 302, 307 or 308.
#[derive(Debug, ToSchema)]
#[schema(as = RedirectStatus, minimum = 301, maximum = 308, value_type = u16)]
pub(crate) struct StatusCodeSchema(#[expect(dead_code, reason = "documentation")] u16);

/// A change of a link (JSON merge patch): what is there replaces, null clears or goes back to the
/// default, what is left out stays.
#[derive(Debug, ToSchema)]
#[schema(
    as = LinkPatch,
    example = json!({"target": "https://example.com/other", "expires_at": null}),
)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "documentation of what `patch` reads")]
pub(crate) struct PatchBody {
    /// A new target.
    #[schema(
        required = false,
        min_length = 3,
        max_length = 8192,
        pattern = r"^[A-Za-z][A-Za-z0-9+.\-]*:[^\s\\]+$"
    )]
    target: String,
    /// A new name for people.
    #[schema(max_length = 512, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    title: Option<String>,
    /// All tags anew.
    #[schema(max_items = 32)]
    tags: Option<Vec<TagText>>,
    /// A new start.
    #[schema(format = DateTime)]
    valid_from: Option<String>,
    /// A new end; one in the past ends the link at once.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// A new limit.
    #[schema(minimum = 1, maximum = 9223372036854775807u64)]
    max_clicks: Option<u64>,
    /// A new status code; null is 302.
    status_code: Option<StatusCodeSchema>,
    /// Query forwarding on or off; null is off.
    forward_query: Option<bool>,
    /// Enabled or disabled; null is enabled.
    enabled: Option<bool>,
    /// A new owner: admin keys only.
    #[schema(required = false, minimum = 0, maximum = 9223372036854775807u64)]
    owner: u64,
}

fn status_code(fields: &mut Fields) -> Result<Option<Option<u16>>, FieldError> {
    let status = fields.integer("status_code")?;
    // What does not fit is no status code either; the engine says so.
    Ok(status.map(|status| status.map(|code| u16::try_from(code).unwrap_or(0))))
}

/// The fields that a link has whether it is made or put back.
fn take_draft(fields: &mut Fields) -> Result<Draft, FieldError> {
    Ok(Draft {
        target: fields.required_text("target")?,
        code: fields.text("code")?.flatten(),
        domain: fields.text("domain")?.flatten(),
        title: fields.text("title")?.flatten(),
        tags: fields.plain_texts("tags")?.unwrap_or_default(),
        valid_from: fields.instant("valid_from")?.flatten(),
        expires_at: fields.instant("expires_at")?.flatten(),
        max_clicks: fields.integer("max_clicks")?.flatten(),
        status_code: status_code(fields)?.flatten(),
        forward_query: fields.plain_boolean("forward_query")?.unwrap_or(false),
        enabled: fields.plain_boolean("enabled")?.unwrap_or(true),
        owner: fields.plain_integer("owner")?.map(OwnerId),
    })
}

/// The draft in a body, or in a row of a batch.
pub(crate) fn draft(bytes: &[u8]) -> Result<Draft, FieldError> {
    let mut fields = Fields::parse(bytes)?;
    let draft = take_draft(&mut fields)?;
    fields.finish()?;
    Ok(draft)
}

/// The change in a body.
pub(crate) fn patch(bytes: &[u8]) -> Result<PatchDraft, FieldError> {
    let mut fields = Fields::parse(bytes)?;
    let patch = PatchDraft {
        target: fields.plain_text("target")?,
        title: fields.text("title")?,
        tags: fields.texts("tags")?.map(Option::unwrap_or_default),
        owner: fields.plain_integer("owner")?.map(OwnerId),
        valid_from: fields.instant("valid_from")?,
        expires_at: fields.instant("expires_at")?,
        max_clicks: fields.integer("max_clicks")?,
        status_code: status_code(&mut fields)?,
        forward_query: fields.boolean("forward_query")?.map(|on| on.unwrap_or(false)),
        enabled: fields.boolean("enabled")?.map(|on| on.unwrap_or(true)),
    };
    fields.finish()?;
    Ok(patch)
}

/// A row of an import: of an export (it names its `version`), or a new link.
pub(crate) fn import_row(bytes: &[u8]) -> Result<ImportRow, FieldError> {
    let mut fields = Fields::parse(bytes)?;
    let row = if fields.has("deleted_at") {
        ImportRow::Tombstone(TombstoneDraft {
            code: fields.required_text("code")?,
            domain: fields.text("domain")?.flatten(),
            owner: OwnerId(fields.required_integer("owner")?),
            created_at: fields.required_instant("created_at")?,
            deleted_at: fields.required_instant("deleted_at")?,
            version: Version(fields.required_integer("version")?),
        })
    } else if fields.has("version") {
        // Follows from code, domain and target; there for readers of the export.
        fields.plain_text("short_url")?;
        fields.plain_boolean("mixed_script")?;
        ImportRow::Restore(Box::new(RestoreDraft {
            draft: take_draft(&mut fields)?,
            created_at: fields.required_instant("created_at")?,
            updated_at: fields.required_instant("updated_at")?,
            version: Version(fields.required_integer("version")?),
            used: fields.plain_integer("used")?.unwrap_or(0),
        }))
    } else {
        ImportRow::Create(Box::new(take_draft(&mut fields)?))
    };
    fields.finish()?;
    Ok(row)
}

/// A deleted link in an export.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TombstoneView {
    code: String,
    domain: Option<String>,
    owner: u64,
    version: u64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Instant,
    #[schema(value_type = String, format = DateTime)]
    deleted_at: Instant,
}

/// A link in an export.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExportedLink {
    #[serde(flatten)]
    link: LinkView,
    /// Redirects used up of `max_clicks`.
    used: u64,
}

/// A row of an export.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ExportRow {
    /// A link.
    Link(Box<ExportedLink>),
    /// A deleted link.
    Tombstone(TombstoneView),
}

impl ExportRow {
    pub(crate) fn of(links: &Links, stored: &Stored) -> Self {
        match stored {
            Stored::Link(link) => Self::Link(Box::new(ExportedLink {
                link: LinkView::of(links, link),
                used: link.used,
            })),
            Stored::Tombstone(tombstone) => Self::Tombstone(TombstoneView {
                code: tombstone.key.code.to_string(),
                domain: links.domains().host(tombstone.key.domain).map(ToOwned::to_owned),
                owner: tombstone.owner.0,
                version: tombstone.version.0,
                created_at: Instant(tombstone.created_at),
                deleted_at: Instant(tombstone.deleted_at),
            }),
        }
    }
}

/// An API key; never its secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyView {
    /// Its number.
    #[schema(minimum = 0)]
    id: u64,
    /// A name for people.
    name: String,
    /// What it allows.
    scopes: Vec<ScopeName>,
    /// Whose links it works on.
    #[schema(minimum = 0)]
    owner: u64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Instant,
    /// When it stops working by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Instant>,
    /// When it was revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked_at: Option<Instant>,
}

/// What an API key may allow.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Scope)]
pub(crate) enum ScopeName {
    /// Read one's own links and their figures.
    Read,
    /// Create, change and delete one's own links.
    Create,
    /// Everything.
    Admin,
}

impl KeyView {
    pub(crate) fn of(key: &ApiKey) -> Self {
        let scopes = key.scopes.iter().map(|scope| match scope {
            shunt_domain::Scope::Read => ScopeName::Read,
            shunt_domain::Scope::Create => ScopeName::Create,
            shunt_domain::Scope::Admin => ScopeName::Admin,
        });
        Self {
            id: key.id.0,
            name: key.name.clone(),
            scopes: scopes.collect(),
            owner: key.owner.0,
            created_at: Instant(key.created_at),
            expires_at: key.expires_at.map(Instant),
            revoked_at: key.revoked_at.map(Instant),
        }
    }
}

/// All API keys.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyList {
    /// Oldest first, revoked ones included.
    pub(crate) keys: Vec<KeyView>,
}

/// A key just made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewKey {
    #[serde(flatten)]
    pub(crate) key: KeyView,
    /// The secret, shown this once; null when the request is repeated with its idempotency key,
    /// because the secret is stored nowhere.
    pub(crate) secret: Option<String>,
}

/// An API key to be made.
#[derive(Debug, ToSchema)]
#[schema(as = KeyCreate)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "documentation of what `keys::create` reads")]
pub(crate) struct KeyBody {
    /// A name for people, without control characters.
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    name: String,
    /// What it allows.
    #[schema(min_items = 1, max_items = 3)]
    scopes: Vec<ScopeName>,
    /// Whose links it works on; left out, a new owner.
    #[schema(minimum = 0, maximum = 9223372036854775807u64)]
    owner: Option<u64>,
    /// When it stops working by itself.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// A short-link domain.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DomainView {
    /// Its number.
    pub(crate) id: u32,
    /// Its host name: lower-case ASCII.
    #[schema(max_length = 253, example = "go.example")]
    pub(crate) host: String,
}

/// The registered short-link domains, without the default one.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DomainList {
    pub(crate) domains: Vec<DomainView>,
}

/// A short-link domain to be registered.
#[derive(Debug, ToSchema)]
#[schema(as = DomainCreate)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "documentation of what `domains::create` reads")]
pub(crate) struct DomainBody {
    /// A host name without scheme, port and path.
    #[schema(min_length = 1, max_length = 253, example = "go.example")]
    host: String,
}

/// Clicks of some time.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counts {
    /// Redirects served.
    clicks: u64,
    /// Those that were no bot's, prefetch or preview.
    humans: u64,
    /// `HEAD` requests, which are no part of `clicks`.
    heads: u64,
}

impl From<Totals> for Counts {
    fn from(totals: Totals) -> Self {
        Self { clicks: totals.clicks, humans: totals.humans, heads: totals.heads }
    }
}

/// Clicks of one hour.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HourCounts {
    /// When the hour begins.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) at: Instant,
    /// Redirects served.
    pub(crate) clicks: u64,
    /// Those that were no bot's, prefetch or preview.
    pub(crate) humans: u64,
    /// `HEAD` requests.
    pub(crate) heads: u64,
}

/// Clicks of a link.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkStats {
    /// The code.
    pub(crate) code: String,
    /// The host name it lives on; null for the default domain.
    pub(crate) domain: Option<String>,
    /// Over all time.
    pub(crate) totals: Counts,
    /// How many redirects it serves in all.
    pub(crate) max_clicks: Option<u64>,
    /// How many of `max_clicks` are used up; null without that limit.
    pub(crate) used: Option<u64>,
    /// The length of the periods in `series`.
    #[schema(pattern = "^hour$")]
    pub(crate) unit: &'static str,
    /// Where the series begins: a full hour.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) from: Instant,
    /// Where it ends, exclusive: a full hour.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) to: Instant,
    /// Sorted; hours without clicks are left out.
    pub(crate) series: Vec<HourCounts>,
}
