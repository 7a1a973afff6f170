//! QR codes of short URLs, as SVG and as PNG.
//!
//! A QR code holds the short URL and never the target, so it says nothing about a limited link
//! that the link itself doesn't, and stays right when the link is edited.

use axum::body::Body;
use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use fast_qr::{ECL, QRBuilder, QRCode};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use shunt_domain::LinkKey;

use super::assets::{self, is_known, kept};
use super::errors::{Wants, error_page};
use super::preview::visible;
use crate::app::AppState;

/// Light modules around the code that readers need (ISO/IEC 18004: four).
const QUIET: usize = 4;

/// The smallest and largest width of an image, in pixels.
pub(crate) const SIZES: std::ops::RangeInclusive<u32> = 64..=2048;

/// The width of an image when none is asked for, in pixels.
pub(crate) const DEFAULT_SIZE: u32 = 512;

/// Why there is no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QrError {
    /// More than a QR code can hold (2,331 bytes).
    #[error("the short URL is too long for a QR code")]
    TooLong,
    /// There are more modules than pixels.
    #[error("the size is too small for this short URL; ask for more pixels")]
    TooSmall,
}

/// What may stand behind the `?` of a QR code's address.
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    format: Format,
    size: Option<u32>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Svg,
    Png,
}

impl Asked {
    fn parse(query: &str) -> Option<Self> {
        let uri = Uri::try_from(format!("/?{query}")).ok()?;
        Query::try_from_uri(&uri).ok().map(|Query(asked)| asked)
    }
}

/// `GET /{code}.qr[?format=svg|png&size=64..2048]`: the short URL as an image, with an `ETag`.
/// 400 for other formats and sizes; 404, 410 and 503 as the link itself answers. `query` is what
/// stands behind the `?`. Reads the store; nothing is counted.
pub async fn qr(state: &AppState, key: &LinkKey, query: &str, headers: &HeaderMap) -> Response {
    let wants = Wants::from_headers(headers);
    let Some(asked) = Asked::parse(query) else {
        return error_page(StatusCode::BAD_REQUEST, wants);
    };
    let size = asked.size.unwrap_or(DEFAULT_SIZE);
    if !SIZES.contains(&size) {
        return error_page(StatusCode::BAD_REQUEST, wants);
    }
    if let Err(status) = visible(state, key).await {
        return error_page(status, wants);
    }
    let short_url = state.links.short_url(key);
    let etag = name(&short_url, asked.format, size);
    let response = if is_known(headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match image(&short_url, asked.format, size) {
            Ok(response) => response,
            Err(_) => return error_page(StatusCode::BAD_REQUEST, wants),
        }
    };
    kept(response, etag, "private, max-age=300")
}

/// Names the image by what it is made from, so that answering 304 draws nothing; another build may
/// draw in another way.
fn name(short_url: &str, format: Format, size: u32) -> HeaderValue {
    let format = match format {
        Format::Svg => "svg",
        Format::Png => "png",
    };
    let source = format!("{} {format} {size} {short_url}", env!("CARGO_PKG_VERSION"));
    assets::etag(&assets::fingerprint(source.as_bytes()))
}

fn image(short_url: &str, format: Format, size: u32) -> Result<Response, QrError> {
    let matrix = Matrix::new(short_url)?;
    let (body, mime) = match format {
        Format::Svg => (Body::from(matrix.svg(size)), "image/svg+xml"),
        Format::Png => (Body::from(matrix.png(size)?), "image/png"),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(mime));
    Ok(response)
}

/// The modules of a QR code, quiet zone included.
pub(crate) struct Matrix {
    code: Box<QRCode>,
}

impl Matrix {
    /// The code of `text` that 15 % of damage leaves readable.
    pub(crate) fn new(text: &str) -> Result<Self, QrError> {
        let code = QRBuilder::new(text).ecl(ECL::M).build().map_err(|_| QrError::TooLong)?;
        Ok(Self { code: Box::new(code) })
    }

    /// Modules per side, quiet zone included.
    pub(crate) fn width(&self) -> usize {
        self.code.size + 2 * QUIET
    }

    /// Whether the module at column `x` and row `y` is dark; outside of the code all are light.
    pub(crate) fn is_dark(&self, x: usize, y: usize) -> bool {
        let size = self.code.size;
        let (Some(x), Some(y)) = (x.checked_sub(QUIET), y.checked_sub(QUIET)) else {
            return false;
        };
        x < size
            && y < size
            && self.code.data.get(y * size + x).is_some_and(|module| module.value())
    }

    /// An image of `pixels` width and height that scales without loss. One path, a run of dark
    /// modules at a time: about 4 KiB for an ordinary URL.
    pub(crate) fn svg(&self, pixels: u32) -> String {
        use std::fmt::Write as _;
        let width = self.width();
        let mut path = String::new();
        for y in 0..width {
            let mut x = 0;
            while x < width {
                let run = (x..width).take_while(|&x| self.is_dark(x, y)).count();
                if run > 0 {
                    // Writing to a string can't fail.
                    let _ = write!(path, "M{x} {y}h{run}v1h-{run}z");
                }
                x += run.max(1);
            }
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{pixels}\" height=\"{pixels}\" \
             viewBox=\"0 0 {width} {width}\" shape-rendering=\"crispEdges\">\
             <path fill=\"#fff\" d=\"M0 0h{width}v{width}H0z\"/><path d=\"{path}\"/></svg>\n"
        )
    }

    /// A black and white PNG of exactly `pixels` width and height. Each module is a whole number
    /// of pixels; what is left over widens the quiet zone.
    pub(crate) fn png(&self, pixels: u32) -> Result<Vec<u8>, QrError> {
        let size = usize::try_from(pixels).unwrap_or(usize::MAX);
        let scale = size / self.width();
        if scale == 0 {
            return Err(QrError::TooSmall);
        }
        let margin = (size - scale * self.width()) / 2;
        let row_bytes = size.div_ceil(8);
        // One bit a pixel, the highest first; 1 is white.
        let white = vec![0xFF_u8; row_bytes];
        let mut rows = Vec::with_capacity(row_bytes * size);
        (0..margin).for_each(|_| rows.extend_from_slice(&white));
        for y in 0..self.width() {
            let mut row = white.clone();
            for x in margin..margin + scale * self.width() {
                if self.is_dark((x - margin) / scale, y)
                    && let Some(byte) = row.get_mut(x / 8)
                {
                    *byte &= !(0x80 >> (x % 8));
                }
            }
            (0..scale).for_each(|_| rows.extend_from_slice(&row));
        }
        rows.resize(row_bytes * size, 0xFF);
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, pixels, pixels);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::One);
        let written = encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&rows).and_then(|()| writer.finish()));
        // Only the memory could fail here; dimensions and row lengths agree by construction.
        written.map_err(|_| QrError::TooSmall)?;
        Ok(out)
    }
}
