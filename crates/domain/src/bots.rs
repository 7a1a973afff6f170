//! Which clicks are no person's, by user agent: a compiled-in list of lower-case marks.
//!
//! Two questions, because they have different wrong answers:
//! - [`is_bot`]: a crawler, link preview or monitor that fetches what nobody clicked. Asked before
//!   a limited link spends a click, so a preview uses none up. Command-line tools and HTTP
//!   libraries are *not* bots here: who runs `curl` on a one-time link means to open it.
//! - [`is_automated`]: a bot, a command-line tool, an HTTP library, or no user agent at all: the
//!   clicks that the "people" totals leave out, since no browser showed the page to anybody.
//!
//! Invariants:
//! - matching ignores ASCII case, allocates nothing and reads the text once;
//! - a user agent can lie, so nothing about safety may depend on either answer.
//!
//! The marks are the names that crawlers, previews and monitors publish for themselves, plus the
//! words `bot`, `crawler` and `spider`, which most of the others contain.

/// Marks of crawlers, link previews and monitors, sorted. `bot` has a rule of its own.
const BOTS: &[&str] = &[
    "adbeat",
    "ahrefs",
    "anthropic-ai",
    "apis-google",
    "appinsights",
    "archive.org_bot",
    "better uptime",
    "bingpreview",
    "blackbox-exporter",
    "bluesky cardyb",
    "bubing",
    "bytespider",
    "censys",
    "chatgpt-user",
    "check_http",
    "chrome-lighthouse",
    "claude-user",
    "claude-web",
    "cohere-ai",
    "crawl",
    "datadog",
    "dataprovider",
    "deepcrawl",
    "developers.google.com/+/web/snippet",
    "domainstats",
    "duckassist",
    "embedly",
    "expanse",
    "facebookcatalog",
    "facebookexternal",
    "feedburner",
    "feedfetcher",
    "feedly",
    "flipboardproxy",
    "freshping",
    "google favicon",
    "google web preview",
    "google-extended",
    "google-inspectiontool",
    "google-pagerenderer",
    "google-read-aloud",
    "google-safety",
    "google-site-verification",
    "google-structured-data",
    "google-xrawler",
    "googledocs",
    "googleother",
    "gtmetrix",
    "headlesschrome",
    "heritrix",
    "hetrixtools",
    "httrack",
    "ia_archiver",
    "iframely",
    "ioncrawl",
    "kakaotalk-scrap",
    "linkcheck",
    "linkpreview",
    "mastodon/",
    "mattermost-bot",
    "mediapartners-google",
    "meta-external",
    "microsoft office existence discovery",
    "microsoftpreview",
    "misskey",
    "monitoring",
    "nagios",
    "netcraft",
    "newrelicpinger",
    "newspaper/",
    "nextcloud server",
    "nikto",
    "nmap scripting engine",
    "nuclei",
    "nutch",
    "page2rss",
    "perplexity-user",
    "petalbot",
    "phantomjs",
    "pingdom",
    "pinterest/0.",
    "playwright",
    "pleroma",
    "prerender",
    "prometheus/",
    "ptst/",
    "puppeteer",
    "quora link preview",
    "qwantify",
    "rocket.chat",
    "scrapy",
    "screaming frog",
    "selenium",
    "semrush",
    "seokicks",
    "site24x7",
    "sitebulb",
    "skypeuripreview",
    "slack-imgproxy",
    "slimerjs",
    "slurp",
    "snap url preview",
    "speedcurve",
    "spider",
    "sqlmap",
    "statuscake",
    "storebot-google",
    "sucuri",
    "tumblr/",
    "updown.io",
    "uptime",
    "uptime-kuma",
    "url preview",
    "validator",
    "virustotal",
    "vkshare",
    "w3c-checklink",
    "w3c_validator",
    "whatsapp/",
    "wpscan",
    "yandex.com/bots",
    "zabbix",
    "zgrab",
];

/// Marks of command-line tools and HTTP libraries, sorted.
const TOOLS: &[&str] = &[
    "aiohttp",
    "apache-httpclient",
    "apachebench",
    "aria2/",
    "axios/",
    "curl/",
    "dart/",
    "faraday",
    "go-http-client",
    "google-http-java-client",
    "got (",
    "guzzlehttp",
    "httpie",
    "hyper/",
    "insomnia",
    "jakarta commons-httpclient",
    "java/",
    "k6/",
    "libcurl",
    "libwww-perl",
    "lwp::",
    "node-fetch",
    "okhttp",
    "postmanruntime",
    "powershell",
    "python-httpx",
    "python-requests",
    "python-urllib",
    "python/",
    "reqwest",
    "rest-client",
    "restsharp",
    "ruby",
    "undici",
    "vegeta",
    "wget",
    "winhttp",
    "wrk/",
];

/// Names that contain `bot` and are no bots: a brand of phones.
const NOT_BOTS: &[&str] = &["cubot"];

/// A bit for each three neighbouring bytes, five bits of each (which are the same for a letter's
/// two cases): whether any mark begins so. Nearly every position of an ordinary user agent passes
/// with one load of these 4 KiB.
struct Filter([u32; 1024]);

impl Filter {
    const fn new(marks: &[&str], extra: &[&str]) -> Self {
        let mut bits = [0_u32; 1024];
        let mut i = 0;
        while i < marks.len() + extra.len() {
            let mark = if i < marks.len() { marks[i] } else { extra[i - marks.len()] }.as_bytes();
            let at = Self::at(mark[0], mark[1], mark[2]);
            bits[at >> 5] |= 1 << (at & 31);
            i += 1;
        }
        Self(bits)
    }

    const fn at(first: u8, second: u8, third: u8) -> usize {
        (first as usize & 31) << 10 | (second as usize & 31) << 5 | (third as usize & 31)
    }

    /// Whether `found` says yes at any place of the text where a mark may begin.
    fn any(&self, text: &[u8], mut found: impl FnMut(usize) -> bool) -> bool {
        let Some((&[first, second], rest)) = text.split_first_chunk() else { return false };
        let mut at = Self::at(0, first, second);
        rest.iter().enumerate().any(|(place, &third)| {
            at = (at << 5 | (third as usize & 31)) & 0x7fff;
            self.0[at >> 5] & 1 << (at & 31) != 0 && found(place)
        })
    }
}

static BOT_FILTER: Filter = Filter::new(BOTS, &["bot"]);
static TOOL_FILTER: Filter = Filter::new(TOOLS, &[]);

/// Whether the text is a crawler's, link preview's or monitor's user agent. About 0.4 µs for an
/// ordinary browser's.
pub fn is_bot(user_agent: &str) -> bool {
    let bytes = user_agent.as_bytes();
    BOT_FILTER.any(bytes, |at| names_a_bot(bytes, at) || begins_a_mark(&bytes[at..], BOTS))
}

/// Whether no person was shown the target: a bot, a command-line tool, an HTTP library, or an
/// empty user agent, which no browser sends.
pub fn is_automated(user_agent: &str) -> bool {
    let bytes = user_agent.as_bytes();
    bytes.iter().all(u8::is_ascii_whitespace)
        || is_bot(user_agent)
        || TOOL_FILTER.any(bytes, |at| begins_a_mark(&bytes[at..], TOOLS))
}

fn begins_a_mark(text: &[u8], marks: &[&str]) -> bool {
    let Some(first) = text.first().map(u8::to_ascii_lowercase) else { return false };
    let initial = |mark: &str| mark.as_bytes().first().copied().unwrap_or(0);
    let from = marks.partition_point(|mark| initial(mark) < first);
    marks[from..].iter().take_while(|mark| initial(mark) == first).any(|mark| {
        text.get(..mark.len()).is_some_and(|text| text.eq_ignore_ascii_case(mark.as_bytes()))
    })
}

/// The word `bot` or `bots` at the end of a name: `Googlebot/2.1`, `AdsBot-Google`, `(bot; …)`;
/// not `Botswana`, and not the names in [`NOT_BOTS`].
fn names_a_bot(bytes: &[u8], at: usize) -> bool {
    let Some((word, rest)) = bytes.get(at..).and_then(|t| t.split_at_checked(3)) else {
        return false;
    };
    if !word.eq_ignore_ascii_case(b"bot") {
        return false;
    }
    let rest = match rest {
        [b's' | b'S', rest @ ..] => rest,
        rest => rest,
    };
    let ends = rest.first().is_none_or(|byte| !byte.is_ascii_alphabetic());
    let brand = NOT_BOTS.iter().any(|name| {
        let end = at + 3;
        end.checked_sub(name.len())
            .and_then(|from| bytes.get(from..end))
            .is_some_and(|t| t.eq_ignore_ascii_case(name.as_bytes()))
    });
    ends && !brand
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 \
                          (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";

    #[test]
    fn bots_are_found() {
        for agent in [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "AdsBot-Google (+http://www.google.com/adsbot.html)",
            "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
            "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
            "Twitterbot/1.0",
            "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
            "WhatsApp/2.23.20.0",
            "TelegramBot (like TwitterBot)",
            "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
            "LinkedInBot/1.0 (compatible; Mozilla/5.0)",
            "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
            "Mozilla/5.0 (compatible; Baiduspider/2.0)",
            "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
            "Mozilla/5.0 (compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/120.0 Safari/537.36",
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2)",
            "Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)",
            "GOOGLEBOT",
            "some-bot",
            "friendly bots",
        ] {
            assert!(is_bot(agent), "{agent}");
            assert!(is_automated(agent), "{agent}");
        }
    }

    #[test]
    fn tools_are_automated_but_no_bots() {
        for agent in [
            "curl/8.5.0",
            "Wget/1.21.3",
            "python-requests/2.31.0",
            "Go-http-client/1.1",
            "okhttp/4.12.0",
            "PostmanRuntime/7.36.0",
            "",
            "  ",
        ] {
            assert!(!is_bot(agent), "{agent}");
            assert!(is_automated(agent), "{agent}");
        }
    }

    #[test]
    fn people_are_not_bots() {
        for agent in [
            CHROME,
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 \
             (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
            "Mozilla/5.0 (Android 14; Mobile; rv:127.0) Gecko/127.0 Firefox/127.0",
            "Mozilla/5.0 (Linux; Android 11; CUBOT NOTE 20) AppleWebKit/537.36 Chrome/126.0",
            "Mozilla/5.0 (Linux; Android 13; SM-A536B) AppleWebKit/537.36 [FB_IAB/FB4A;FBAV/468.0]",
            "Opera/9.80 (Windows NT 6.1; WOW64) Presto/2.12.388 Version/12.18",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 YaBrowser/24.4 Safari/537.36",
            "Mozilla/5.0 (Botswana edition) Robotics",
            "Lynx/2.9.0 libwww-FM/2.14",
        ] {
            assert!(!is_bot(agent), "{agent}");
            assert!(!is_automated(agent), "{agent}");
        }
    }

    #[test]
    fn every_mark_is_lower_case_and_found_in_any_case_at_any_place() {
        for (marks, found) in [(BOTS, is_bot as fn(&str) -> bool), (TOOLS, is_automated)] {
            assert!(marks.is_sorted());
            for mark in marks {
                assert_eq!(*mark, mark.to_ascii_lowercase());
                assert!(found(mark), "{mark}");
                assert!(found(&format!("{CHROME} {}", mark.to_ascii_uppercase())), "{mark}");
            }
            // Each mark adds something: none is a copy of another.
            let distinct: std::collections::BTreeSet<_> = marks.iter().collect();
            assert_eq!(distinct.len(), marks.len());
        }
    }

    #[test]
    fn any_text_is_bearable() {
        for text in ["b", "bo", "bot", "ä", "ßbot", "🤖 bot", "\0"] {
            assert_eq!(is_bot(text), text.contains("bot"), "{text}");
        }
    }
}
