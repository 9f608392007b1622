//! libFuzzer's entry to [`ftp_fuzz::table`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftp_fuzz::table::run(data));
