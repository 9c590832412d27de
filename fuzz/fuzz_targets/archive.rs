#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| just_storage_fuzz::archive::check(data));
