//! Every reason for which a target is refused: one variant per class of hostile or broken input.
//!
//! The code of a reason is part of the API (problem documents, import reports, the corpus) and
//! never changes; the detail is for people and may.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($variant:ident $code:literal $detail:literal)*) => {
        /// Why a target was refused.
        ///
        /// When several apply, the first in this order is told: the length, the characters that
        /// are refused anywhere (from left to right), the scheme, credentials, the host, the port,
        /// the rest.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = concat!("`", $code, "`: `", $detail, "`")] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order in which the parser looks for them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable kebab-case name, as API answers and import reports show it.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// One line for people: what is wrong and what to do about it.
            pub fn detail(self) -> &'static str {
                match self { $(Self::$variant => $detail,)* }
            }
        }
    };
}

reasons! {
    // The whole input.
    Empty "empty" "the target is empty; give a full URL such as https://example.com/page"
    TooLong "too-long" "the target is longer than 8192 bytes; shorten it"
    // Characters that are refused anywhere.
    NulByte "nul-byte" "the target holds a NUL character; remove it"
    LineBreak "line-break" "the target holds a line break; put it on one line"
    Tab "tab" "the target holds a tab; remove it"
    ControlCharacter "control-character" "the target holds an ASCII control character; remove it"
    C1Control "c1-control" "the target holds a C1 control character (U+0080 to U+009F), a sign of a broken decoding; remove it"
    SurroundingSpace "surrounding-space" "the target begins or ends with a space; remove it"
    Space "space" "the target holds a space; write it as %20, or remove what follows it"
    UnicodeSpace "unicode-space" "the target holds a Unicode space or blank; remove it or percent-encode it"
    ByteOrderMark "byte-order-mark" "the target holds a byte order mark (U+FEFF); remove it"
    BidiControl "bidi-control" "the target holds an invisible character that reverses the reading direction; remove it"
    ZeroWidth "zero-width" "the target holds a zero-width character; remove it or percent-encode it"
    DefaultIgnorable "default-ignorable" "the target holds an invisible character; remove it or percent-encode it"
    FormatCharacter "format-character" "the target holds an annotation or object-replacement character left over from copying; remove it"
    ReplacementCharacter "replacement-character" "the target holds U+FFFD, so it was decoded wrongly on its way here; copy it again"
    Noncharacter "noncharacter" "the target holds a Unicode noncharacter; remove it"
    Backslash "backslash" "the target holds a backslash, which browsers read as a slash; write / or %5C"
    // The scheme.
    Wrapped "wrapped" "the target is wrapped in quotes or brackets; give the bare URL"
    SchemeRelative "scheme-relative" "the target begins with //; write the scheme, https:// or http://"
    SchemeMissing "scheme-missing" "the target has no scheme; begin with https:// or http://"
    SchemeEncoded "scheme-encoded" "the colon or slashes after the scheme are percent-encoded; decode the target once"
    SchemeDisguised "scheme-disguised" "the scheme holds non-ASCII look-alike letters; type it in plain ASCII"
    SchemeInvalid "scheme-invalid" "what stands before the first colon is not a scheme; begin with https:// or http://"
    SchemeDangerous "scheme-dangerous" "this scheme runs code or opens local data in the visitor's browser and is never allowed; use https"
    SchemeNotAllowed "scheme-not-allowed" "this scheme is not on the allow-list; use https or http"
    SchemeOnly "scheme-only" "nothing follows the scheme; complete the target"
    SlashesMissing "slashes-missing" "the two slashes after the scheme are missing; write https://"
    SlashSingle "slash-single" "only one slash follows the scheme; write two"
    SlashesExtra "slashes-extra" "more than two slashes follow the scheme; write exactly two"
    // The authority.
    HostEmpty "host-empty" "the target has no host; write one after https://"
    Credentials "credentials" "the target holds a user name or password before @; remove it"
    CredentialsEmpty "credentials-empty" "the target has an @ before its host; remove it"
    NestedScheme "nested-scheme" "a second scheme stands where the host belongs; keep one"
    // IPv6.
    Ipv6Unclosed "ipv6-unclosed" "the bracket of the IPv6 address is not closed; write [address]"
    Ipv6Unbracketed "ipv6-unbracketed" "the IPv6 address stands without brackets; write [address]"
    Ipv6Zone "ipv6-zone" "the IPv6 address holds a zone, which means something on one machine only; remove it"
    IpFuture "ip-future" "addresses of the form [v1.x] lead nowhere; use a name, IPv4 or IPv6"
    Ipv6Invalid "ipv6-invalid" "what stands in the brackets is not an IPv6 address; correct it"
    Ipv6Trailing "ipv6-trailing" "something other than a port follows the bracketed address; remove it"
    // Characters of the host.
    HostPercentEncoded "host-percent-encoded" "the host holds a percent sign; write the host in plain characters"
    HostCharacter "host-character" "the host holds a character that no host name has; correct it"
    DisguisedDot "disguised-dot" "the host holds a character that browsers or readers take for a dot; type a plain dot"
    DisguisedDelimiter "disguised-delimiter" "the target holds a look-alike of / : @ ? # or a similar sign before its path; type the plain sign"
    DisguisedAscii "disguised-ascii" "the host holds a styled letter or digit that browsers turn into plain ASCII; type the plain one"
    PrivateUse "private-use" "the host holds a private-use character; remove it"
    // Labels of the host.
    LabelEmpty "label-empty" "the host has an empty label (two dots in a row, or a dot in front); remove the dot"
    LabelTooLong "label-too-long" "a label of the host is longer than 63 bytes in its ASCII form; shorten it"
    HyphenLeading "hyphen-leading" "a label of the host begins with a hyphen; correct it"
    HyphenTrailing "hyphen-trailing" "the last label of the host ends with a hyphen; correct it"
    HostTooLong "host-too-long" "the host is longer than 253 bytes in its ASCII form; shorten it"
    TooManyLabels "too-many-labels" "the host has more than 40 labels; shorten it"
    // IPv4 in the spellings that one program reads as a name and the next as an address.
    Ipv4Hex "ipv4-hex" "the IPv4 address is written in hexadecimal; write four decimal numbers"
    Ipv4Octal "ipv4-octal" "the IPv4 address has a leading zero, which some read as octal; write four decimal numbers"
    Ipv4Integer "ipv4-integer" "the IPv4 address is written as one number; write four decimal numbers"
    Ipv4Short "ipv4-short" "the IPv4 address has fewer than four parts; write four decimal numbers"
    Ipv4TooManyParts "ipv4-too-many-parts" "the IPv4 address has more than four parts; write four decimal numbers"
    Ipv4Range "ipv4-range" "a part of the IPv4 address is greater than 255; correct it"
    Ipv4TrailingDot "ipv4-trailing-dot" "a dot follows the IPv4 address; remove it"
    NumericLastLabel "numeric-last-label" "the last label of the host is a number, so it is neither a name nor an IPv4 address; correct it"
    // Internationalised names.
    PunycodeAscii "punycode-ascii" "an xn-- label stands for plain ASCII or for nothing; write the plain label"
    PunycodeInvalid "punycode-invalid" "an xn-- label does not decode to a valid label; correct it"
    IdnaInvalid "idna-invalid" "the host is not a valid internationalised name (UTS 46); correct it"
    // The port.
    PortNotANumber "port-not-a-number" "the port holds something other than digits; correct or remove it"
    PortLeadingZero "port-leading-zero" "the port begins with a zero; write it without"
    PortZero "port-zero" "port 0 can't be connected to; correct or remove it"
    PortRange "port-range" "the port is greater than 65535; correct it"
    // The rest.
    EncodedNul "encoded-nul" "the path holds an encoded NUL (%00); remove it"
    EncodedLineBreak "encoded-line-break" "the path holds an encoded line break (%0D or %0A); remove it"
    TooLongEncoded "too-long-encoded" "the target is longer than 8192 bytes once non-ASCII characters are percent-encoded; shorten it"
    OwnHost "own-host" "the target leads back to this service; give the final address"
    ParsersDisagree "parsers-disagree" "a browser would read this target differently; write it in its plainest form"
}

impl Reason {
    /// The reason with this code, the inverse of [`Reason::code`].
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for Reason {}

/// A text that is not the code of any [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason code")]
pub struct UnknownReason;

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(code: &str) -> Result<Self, UnknownReason> {
        Self::from_code(code).ok_or(UnknownReason)
    }
}
