//! Dates as they are written: one of HTTP (RFC 9110 §5.6.7) is in every answer that has an object, and two of RFC 3339 are in
//! each object of a page.

use std::io::Write as _;

use crate::domain::value_objects::Timestamp;

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// The last second of the year 9999, behind which the format has no years.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Where the year 9999 begins: within it, a moment ceases to have a date.
const TIMESTAMP_MILLIS_END: u64 = (SECONDS_MAX + 1 - 365 * 86_400) * 1000;

/// Appends an IMF-fixdate, 29 bytes such as `Sun, 06 Nov 1994 08:49:37 GMT`. Times before 1970 and behind the year 9999
/// become the nearest that can be told.
pub(crate) fn append_http_date(time: Timestamp, bytes: &mut Vec<u8>) {
    let seconds = u64::try_from(time.as_seconds()).unwrap_or(0).min(SECONDS_MAX);
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(DAYS[(days % 7) as usize]);
    text[8..11].copy_from_slice(MONTHS[month as usize]);
    let pairs = [
        (5, day),
        (12, year / 100),
        (14, year % 100),
        (17, second_of_day / 3600),
        (20, second_of_day / 60 % 60),
        (23, second_of_day % 60),
    ];
    put_pairs(&mut text, &pairs);
    bytes.extend_from_slice(&text);
}

/// Appends a moment as it displays, 24 bytes such as `1994-11-06T08:49:37.000Z` in nearly all years.
pub(crate) fn append_timestamp(time: Timestamp, bytes: &mut Vec<u8>) {
    let millis = u64::try_from(time.as_millis()).ok().filter(|millis| *millis < TIMESTAMP_MILLIS_END);
    let Some(millis) = millis else {
        // Writing into a vector cannot fail.
        let _ = write!(bytes, "{time}");
        return;
    };
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let second_of_day = seconds % 86_400;
    let (year, month, day) = civil(seconds / 86_400);
    let mut text = *b"1970-01-01T00:00:00.000Z";
    let pairs = [
        (0, year / 100),
        (2, year % 100),
        (5, month + 1),
        (8, day),
        (11, second_of_day / 3600),
        (14, second_of_day / 60 % 60),
        (17, second_of_day % 60),
        (20, millis / 10),
    ];
    put_pairs(&mut text, &pairs);
    text[22] = b'0' + (millis % 10) as u8;
    bytes.extend_from_slice(&text);
}

/// The year, the month (January is 0) and the day of the month, so many days behind 1970-01-01.
///
/// The calendar is that of Howard Hinnant's `civil_from_days`: years begin in March, so that a leap day is the last of its
/// year.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    (year, month, day)
}

/// Puts two digits at each place.
fn put_pairs(text: &mut [u8], pairs: &[(usize, u64)]) {
    for &(place, number) in pairs {
        text[place..place + 2].copy_from_slice(&[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, SystemTime};

    fn written(seconds: i64) -> String {
        let mut bytes = Vec::new();
        append_http_date(Timestamp::from_millis(seconds * 1000 + 999), &mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    fn expected(seconds: u64) -> String {
        httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn dates_are_those_of_another_implementation() {
        assert_eq!(written(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        // The days around each turn of a year, and around each 29 February, of four centuries.
        let days = (0..400 * 366).filter(|day| {
            let text = expected(day * 86_400);
            ["31 Dec", "01 Jan", "28 Feb", "29 Feb", "01 Mar"].contains(&&text[5..11])
        });
        for day in days {
            for second in [0, 86_399] {
                let seconds = day * 86_400 + second;
                assert_eq!(written(seconds as i64), expected(seconds));
            }
        }
    }

    #[test]
    fn what_the_format_cannot_tell_is_told_by_its_nearest() {
        assert_eq!(written(SECONDS_MAX as i64), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(written(SECONDS_MAX as i64 + 1), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(written(-1), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    proptest! {
        #[test]
        fn every_second_is_that_of_another_implementation(seconds in 0..SECONDS_MAX) {
            prop_assert_eq!(written(seconds as i64), expected(seconds));
        }

        #[test]
        fn every_moment_is_as_it_displays(millis: i64, shift in 0..64) {
            let edges = [0, TIMESTAMP_MILLIS_END as i64, SECONDS_MAX as i64 * 1000];
            for millis in [millis >> shift, edges[0] + (millis >> 56), edges[1] + (millis >> 56), edges[2] + (millis >> 56)] {
                let (time, mut bytes) = (Timestamp::from_millis(millis), Vec::new());
                append_timestamp(time, &mut bytes);
                prop_assert_eq!(String::from_utf8(bytes).unwrap(), time.to_string());
            }
        }
    }
}
