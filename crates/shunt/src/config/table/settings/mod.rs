//! The settings themselves, section by section.

use std::time::Duration;

use super::Setting;

mod cache;
mod data;
mod legacy;
mod limits;
mod network;
mod places;
mod service;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// The files of this directory in the order of the page.
const PARTS: [&[Setting]; 7] = [
    places::PART,
    data::PART,
    legacy::PART,
    cache::PART,
    network::PART,
    limits::PART,
    service::PART,
];

/// How many settings there are.
const COUNT: usize = {
    let (mut count, mut at) = (0, 0);
    while at < PARTS.len() {
        count += PARTS[at].len();
        at += 1;
    }
    count
};

/// All settings, section by section.
pub(in crate::config) const SETTINGS: &[Setting] = &{
    let mut all = [PARTS[0][0]; COUNT];
    let (mut part, mut next) = (0, 0);
    while part < PARTS.len() {
        let mut at = 0;
        while at < PARTS[part].len() {
            all[next] = PARTS[part][at];
            at += 1;
            next += 1;
        }
        part += 1;
    }
    all
};
