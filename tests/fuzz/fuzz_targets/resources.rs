#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    masque_replay::run("resources", data);
});
