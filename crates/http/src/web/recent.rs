//! The browser's memory of its own last links: a cookie that holds codes and nothing else.
//!
//! The cookie is never believed: each code is looked up again, and only what any visitor could see
//! by asking for its preview is shown. So a forged cookie shows nothing that a `+` behind the code
//! would not.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use shunt_domain::Code;

use crate::app::Settings;

/// The cookie's name.
const NAME: &str = "shunt_recent";

/// How many links are remembered.
pub(crate) const MAX: usize = 10;

/// How long they are remembered, in seconds (30 days).
const MAX_AGE: u32 = 30 * 24 * 3600;

/// Codes of the default domain, newest first, without duplicates, at most [`MAX`].
pub(crate) fn read(headers: &HeaderMap) -> Vec<Code> {
    let mut codes = Vec::new();
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    for pair in cookies.flat_map(|cookies| cookies.split(';')) {
        let Some((name, value)) = pair.trim().split_once('=') else {
            continue;
        };
        if name != NAME {
            continue;
        }
        // A dot separates: it is no character of a code and needs no quoting in a cookie.
        for code in value.split('.').take(MAX).filter_map(|text| Code::parse(text).ok()) {
            if codes.len() < MAX && !codes.contains(&code) {
                codes.push(code);
            }
        }
    }
    codes
}

/// `codes` with `code` in front.
pub(crate) fn with(mut codes: Vec<Code>, code: &Code) -> Vec<Code> {
    codes.retain(|other| other != code);
    codes.insert(0, code.clone());
    codes.truncate(MAX);
    codes
}

/// The `Set-Cookie` value that remembers `codes`; none at all deletes the cookie.
pub(crate) fn write(codes: &[Code], settings: &Settings) -> Option<HeaderValue> {
    let value = codes.iter().take(MAX).map(Code::as_str).collect::<Vec<_>>().join(".");
    let age = if codes.is_empty() { 0 } else { MAX_AGE };
    let path = match settings.base_path() {
        "" => "/",
        path => path,
    };
    let secure = if settings.base_url.starts_with("https://") { "; Secure" } else { "" };
    HeaderValue::try_from(format!(
        "{NAME}={value}; Path={path}; Max-Age={age}; HttpOnly; SameSite=Lax{secure}"
    ))
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(base_url: &str) -> Settings {
        super::super::tests::settings(base_url)
    }

    fn cookie(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(value).unwrap());
        headers
    }

    fn code(text: &str) -> Code {
        Code::parse(text).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let codes: Vec<Code> = (0..MAX).map(|n| code(&format!("c_{n}-"))).collect();
        let set = write(&codes, &settings("http://127.0.0.1:8080")).unwrap();
        let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
        assert_eq!(read(&cookie(&format!("a=b; {pair}; c=d"))), codes);
    }

    #[test]
    fn a_forged_cookie_is_cut_down_to_ten_well_formed_codes() {
        let long = (0..500).map(|n| format!("x{n}")).collect::<Vec<_>>().join(".");
        assert_eq!(read(&cookie(&format!("shunt_recent={long}"))).len(), MAX);
        assert_eq!(read(&cookie("shunt_recent=a.<script>.%00.b/c..a.d")), [code("a"), code("d")]);
        assert_eq!(read(&cookie("other=a; xshunt_recent=b; shunt_recent")), []);
        let twice = format!("shunt_recent={long}; shunt_recent={long}y");
        assert_eq!(read(&cookie(&twice)).len(), MAX);
    }

    #[test]
    fn the_newest_comes_first_and_once() {
        let codes = with(vec![code("a"), code("b")], &code("b"));
        assert_eq!(codes, [code("b"), code("a")]);
        let many: Vec<Code> = (0..MAX).map(|n| code(&n.to_string())).collect();
        let codes = with(many, &code("new"));
        assert_eq!((codes.len(), codes[0].as_str()), (MAX, "new"));
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let set = write(&[code("a")], &settings("https://go.example/s")).unwrap();
        assert_eq!(
            set.to_str().unwrap(),
            "shunt_recent=a; Path=/s; Max-Age=2592000; HttpOnly; SameSite=Lax; Secure"
        );
        let gone = write(&[], &settings("http://127.0.0.1:1")).unwrap();
        assert_eq!(
            gone.to_str().unwrap(),
            "shunt_recent=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        );
    }
}
