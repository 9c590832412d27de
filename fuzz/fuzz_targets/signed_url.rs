#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| just_storage_fuzz::signed_url::check(data));
